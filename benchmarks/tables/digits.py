"""How many digits of a number are printed, alike in every format but CSV, which has all of them.

A spread has one significant digit and its value ends at the same decimal: `98.4 ± 0.5`,
`0.0067 ± 0.0001`, `12300 ± 200`. Without a spread, unknown or zero, a value has three significant
digits, more where they stand before the point; whole numbers are printed as such. Below 1e-4, and
from 1e7 (whole numbers: 1e12) on, a power of ten stands behind: `1.20e-7 ± 0.03e-7`. Who chooses
the digits of a column (`spec.py`) chooses how many stand behind the point, of value and spread.
"""

from __future__ import annotations

import math

SMALL, LARGE, COUNTED = 1e-4, 1e7, 1e12  # where powers of ten begin; COUNTED: of whole numbers
NOTHING = 1e-9  # a spread below this part of its value (of 1e-6 at least) is rounding error


def number(value: float) -> str:
    """A value without a spread."""
    size = abs(value)
    whole = float(value).is_integer()
    if value and (size < SMALL or size >= (COUNTED if whole else LARGE)):
        return _scientific(value, math.floor(math.log10(size)), 2)
    return f"{value:.0f}" if whole else f"{value:.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Digits behind the point that make three significant ones."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2


def with_spread(value: float, spread: float | None, places: int | None = None) -> tuple[str, str]:
    """A value and its spread; no word for a spread that is unknown or zero.

    places: digits behind the point of both, None for as many as are significant.
    """
    if not is_spread(value, spread):
        return number(value) if places is None else _fixed(value, places), ""
    assert spread is not None
    if places is not None:
        return _fixed(value, places), _fixed(spread, places)
    spread = float(f"{spread:.0e}")
    last = math.floor(math.log10(spread))
    value = round(value, -last) + 0.0  # no -0
    size = max(abs(value), spread)
    if size < SMALL or size >= LARGE:
        power = math.floor(math.log10(size))
        return _scientific(value, power, power - last), _scientific(spread, power, power - last)
    places = max(0, -last)
    return f"{value:.{places}f}", f"{spread:.{places}f}"


def printed(value: float, spread: float | None) -> str:
    """`98.4 ± 0.5`, or the value alone."""
    return " ± ".join(filter(None, with_spread(value, spread)))


def is_spread(value: float, spread: float | None) -> bool:
    """Whether the spread is known: repeats that agree in every digit do not show one."""
    return spread is not None and spread > NOTHING * max(abs(value), 1e-6)


def _fixed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:.{places}f}"  # no -0


def _scientific(value: float, power: int, places: int) -> str:
    return f"{value / 10.0**power:.{places}f}e{power}"
