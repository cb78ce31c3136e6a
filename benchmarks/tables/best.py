"""Which number of a column is the best: where bold and underlining are decided, for every format.

The best method is bold and the second of three or more underlined. Who cannot be told apart from
the best shares its place: equal as printed, or a gap within the 95 % interval of the difference of
two means, t sqrt(v1 + v2), with v the variance of a mean and Student's t of the degrees of freedom
of Welch and Satterthwaite, (sum v)^2 / sum (v^2 / freedom). A spread that is not known is not zero:
in a column where that of one method is unknown (one repeat, repeats that agree in every digit, a
timing marked noisy, seeds of another kind than the rest) nobody is marked, and nobody is where all
share the first place. Memory is known to a share of itself (`attrs["resolution"]`). Numbers
that others published, and the rows of the scale, take no part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import pandas as pd

from benchmarks.tables.digits import is_spread, with_spread
from benchmarks.tables.keys import DOWN, UP, Key, Spread, keys, methods, spreads


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Which cells are bold."""
    return places(table) == 1


def places(table: pd.DataFrame) -> pd.DataFrame:
    """1 for the best of two or more methods, 2 for the second of three or more, else 0."""
    place = pd.DataFrame(0, index=table.index, columns=table.columns)
    rows = methods(table)
    for key in keys(table):
        if key[1][-1] not in (UP, DOWN):
            continue
        values = {row: v for row, v in table[key].items() if row in rows and not pd.isna(v)}
        left = sorted(values, key=lambda row: values[row], reverse=key[1].endswith(UP))
        if not comparable(table, key, left):
            continue
        first = _level(table, key, left)
        second = _level(table, key, [row for row in left if row not in first])
        if len(first) < len(left):
            place.loc[first, [key]] = 1
            place.loc[second if len(left) > 2 else [], [key]] = 2
    return place


def _level(table: pd.DataFrame, key: Key, left: Sequence[str]) -> list[str]:
    """Those that are not apart from the first."""
    return [row for row in left if not apart(table, key, left[0], row)]


def comparable(table: pd.DataFrame, key: Key, rows: Sequence[str]) -> bool:
    """Whether the uncertainty of each number is known, and of the same sources in all."""
    if key in table.attrs.get("resolution", {}):
        return True
    found = [_uncertainty(table, key, row) for row in rows]
    return None not in found and len({frozenset(one.parts) for one in found if one}) == 1


def _uncertainty(table: pd.DataFrame, key: Key, row: str) -> Spread | None:
    known = spreads(table, key) or table.attrs.get("noise", {}).get(key, {})
    found = known.get(row)
    return found if found and is_spread(_value(table, key, row), found.sd) else None


def _value(table: pd.DataFrame, key: Key, row: str) -> float:
    return float(table[key][row])


def apart(table: pd.DataFrame, key: Key, row: str, other: str) -> bool:
    """Whether two numbers of a column differ by more than rounding and their uncertainty."""
    a, b = (_value(table, key, name) for name in (row, other))
    if _printed(table, key, row) == _printed(table, key, other):
        return False
    resolution = table.attrs.get("resolution", {}).get(key)
    if resolution is not None:
        return abs(a - b) > resolution * max(abs(a), abs(b))
    pair = [_uncertainty(table, key, name) for name in (row, other)]
    return abs(a - b) > interval([part for one in pair if one for part in one.parts.values()])


def _printed(table: pd.DataFrame, key: Key, row: str) -> float:
    """The number that a reader sees."""
    known = spreads(table, key).get(row)
    return float(with_spread(_value(table, key, row), known.sd if known else None)[0])


def interval(parts: Sequence[tuple[float, int]]) -> float:
    """Half of the 95 % interval of a difference whose variance is the sum of these, with their
    degrees of freedom; infinite where there are none."""
    total = sum(variance for variance, _ in parts)
    if not total:
        return math.inf
    freedom = total**2 / sum(variance**2 / freedom for variance, freedom in parts)
    return student(freedom) * math.sqrt(total)


@cache
def student(freedom: float) -> float:
    """95 % of |t| lies below."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
