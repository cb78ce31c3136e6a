"""Laws of parts: what is refused, what their hash stands for."""

import pytest

from hierdiff.data.law import Law, optional, uniform

COIN = {"side": (0.5, 0.5), "hat": (0.2, 0.4, 0.4)}


def test_an_optional_part_is_absent_as_often_as_stated_and_else_uniform():
    assert optional(0.2, 4) == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.2))
    assert optional(0.7, 3) == pytest.approx((0.7, 0.1, 0.1, 0.1))
    assert uniform(4) == (0.25,) * 4


@pytest.mark.parametrize("p", [(), (0.5, 0.4), (1.5, -0.5)])
def test_frequencies_that_are_no_probabilities_are_refused(p):
    with pytest.raises(ValueError, match="frequencies of 'side' sum to .* together 1"):
        Law("coin", {"side": p})


@pytest.mark.parametrize(
    "told",
    [
        {"impossible": ((("side", 0), ("hat", 3)),)},
        {"impossible": ((("edge", 0), ("hat", 1)),)},
        {"classes": "edge"},
        {"captioned": ("side", "edge")},
    ],
)
def test_a_part_without_a_frequency_is_refused(told):
    with pytest.raises(ValueError, match="which has no frequency"):
        Law("coin", COIN, **told)


def test_the_hash_is_of_what_can_occur():
    base = Law("coin", COIN)
    assert base.hash == Law("other", dict(COIN), classes="side", captioned=("hat",)).hash
    others = [
        Law("coin", {**COIN, "side": (0.4, 0.6)}),
        Law("coin", {"edge": COIN["side"], "hat": COIN["hat"]}),
        Law("coin", COIN, ((("side", 0), ("hat", 1)),)),
    ]
    assert len({base.hash, *(law.hash for law in others)}) == 4
    assert base.sizes == {"side": 2, "hat": 3}
