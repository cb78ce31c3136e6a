"""How many digits are printed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tables.digits import is_spread, number, printed, with_spread


@pytest.mark.parametrize(
    ("value", "spread", "words"),
    [
        (98.41, 0.456, "98.4 ± 0.5"),
        (98.0, 1.0, "98 ± 1"),
        (373.0, 0.003, "373.000 ± 0.003"),
        (0.0067, 0.0001, "0.0067 ± 0.0001"),
        (12345.0, 234.0, "12300 ± 200"),
        (9.96, 0.096, "10.0 ± 0.1"),  # the spread grows by a digit where it is rounded
        (0.4, 3.0, "0 ± 3"),
        (-0.001, 0.1, "0.0 ± 0.1"),
        (1.204e-7, 3e-9, "1.20e-7 ± 0.03e-7"),
        (1.2e-7, 0.5, "0.0 ± 0.5"),
        (1.2345e10, 1e9, "1.2e10 ± 0.1e10"),
        (98.41, None, "98.4"),
        (98.41, 0.0, "98.4"),
        (0.0, 0.0, "0"),
        (0.0067, 1e-18, "0.00670"),
        (5, None, "5"),
        (22400.0, None, "22400"),
        (1.5e15, None, "1.50e15"),
        (1.25e-7, None, "1.25e-7"),
    ],
)
def test_digits_follow_the_spread_and_three_stand_without_one(value, spread, words):
    assert printed(value, spread) == words


@settings(max_examples=30)
@given(
    value=st.floats(-1e12, 1e12),
    spread=st.floats(1e-12, 1e12),
)
def test_a_printed_spread_is_never_nothing_and_both_end_at_one_decimal(value, spread):
    first, second = with_spread(value, spread)
    if not is_spread(value, spread):
        assert second == ""
        return
    assert float(second) == pytest.approx(spread, rel=0.5)
    assert abs(float(first) - value) <= 0.6 * 10 ** math.floor(math.log10(float(second))) * 1.001

    def decimals(words: str) -> int:
        return len(words.partition("e")[0].partition(".")[2])

    assert decimals(first) == decimals(second)
    assert first.partition("e")[2] == second.partition("e")[2]


@given(st.floats(-1e300, 1e300).filter(lambda value: value == 0 or abs(value) > 1e-300))
def test_a_number_without_a_spread_has_three_digits_right(value):
    assert float(number(value)) == pytest.approx(value, rel=0.0051)
