"""Which number of a column is the best: where bold and underlining are decided, for every format.

The best method is bold and the second of three or more underlined. A row that is no different from
the best shares its place: equal as printed, or a gap within the 95 % interval of the difference of
two means, t sqrt(v1 + v2), with v the variance of a mean and Student's t of the degrees of freedom
of Welch and Satterthwaite, (sum v)^2 / sum (v^2 / freedom). A spread that is not known is not zero:
in a column where that of one method is unknown (one repeat, repeats that agree in every digit, a
timing marked noisy, seeds of another kind than the rest) nobody is marked, and nobody is where all
share the first place. Distances of a level that disagree on the best are not marked
(agreement.py). Memory is known to a share of itself (`Column.alike`). Numbers that others
published, and the rows of the scale, take no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

from benchmarks.tables.digits import is_spread, with_spread
from benchmarks.tables.layout import Column, Spread, Table


def places(table: Table) -> dict[Column, dict[str, int]]:
    """By column 1 for the best of two or more methods and 2 for the second of three or more, by
    row; rows without a place have no entry. n log n comparisons for n rows."""
    own = table.methods
    found = {}
    for column, cells in table.cells.items():
        if column.better is None:
            continue
        values = {row: float(cells[row]) for row in own if cells.get(row) is not None}
        ranked = sorted(values, key=lambda row: values[row], reverse=column.better == "high")
        spread = table.spread.get(column, {})
        numbers = Numbers(column, values, spread, spread or table.noise.get(column, {}))
        if not numbers.comparable():
            continue
        first = numbers.level(ranked)
        if len(first) < len(ranked):
            rest = [row for row in ranked if row not in first]
            second = numbers.level(rest) if len(ranked) > 2 else {}
            found[column] = {**dict.fromkeys(second, 2), **dict.fromkeys(first, 1)}
    return found


class Numbers:
    """The numbers of methods in one column, and how uncertain each is.

    spread: what is printed behind a ±. known: by which numbers are compared.
    """

    def __init__(
        self,
        column: Column,
        values: Mapping[str, float],
        spread: Mapping[str, Spread],
        known: Mapping[str, Spread],
    ):
        self.column, self.values = column, values
        self.uncertain: dict[str, Spread | None] = {}
        self.printed: dict[str, float] = {}  # what a reader sees
        for row, value in values.items():
            found, shown = known.get(row), spread.get(row)
            certain = found is None or not is_spread(value, found.sd)
            self.uncertain[row] = None if certain else found
            text, _ = with_spread(value, shown.sd if shown else None, column.digits)
            self.printed[row] = float(text)

    def comparable(self) -> bool:
        """Whether the uncertainty of each number is known, and of the same sources in all."""
        if self.column.alike is not None:
            return True
        found = self.uncertain.values()
        return None not in found and len({frozenset(one.parts) for one in found if one}) == 1

    def level(self, ranked: Sequence[str]) -> dict[str, None]:
        """Those that are not apart from the first."""
        return {row: None for row in ranked if not self.apart(ranked[0], row)}

    def apart(self, row: str, other: str) -> bool:
        """Whether two numbers differ by more than rounding and their uncertainty."""
        if self.printed[row] == self.printed[other]:
            return False
        a, b = self.values[row], self.values[other]
        if self.column.alike is not None:
            return abs(a - b) > self.column.alike * max(abs(a), abs(b))
        pair = (self.uncertain[row], self.uncertain[other])
        return abs(a - b) > interval([part for one in pair if one for part in one.parts.values()])


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
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
