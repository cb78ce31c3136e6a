"""A table before it is printed in some format: its rows, columns and cells.

A column has an attribute for the end that is better, from which print makes an arrow; a number has
all its digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UP, DOWN, DELTA = "↑", "↓", "Δ"
LINE = 345.0  # points, the width of a line in LaTeX's article class
BENEATH, FOOTNOTE, APPENDIX = "beneath", "footnote", "appendix"  # where the notes stand
ARROWS = {"low": f" {DOWN}", "high": f" {UP}", None: ""}  # which side is better


@dataclass(frozen=True)
class Column:
    """A column. group: the heading above several columns, "" for none; what: its own heading.

    better: which end is better, "low", "high" or None for a column in which nothing is marked.
    alike: the relative difference below which two numbers count as equal, None where spreads
    decide. digits: behind the point, None for as many as are significant. signed: whether a number
    has its sign, as a difference has.
    """

    group: str
    what: str
    better: str | None = None
    alike: float | None = None
    digits: int | None = None
    signed: bool = False

    @property
    def key(self) -> str:
        """What it is chosen by: `64 px FD-EffLite0`."""
        return " ".join(filter(None, (self.group, self.what)))

    @property
    def title(self) -> str:
        """The heading with its arrow: `FD-EffLite0 ↓`."""
        return self.what + ARROWS[self.better]

    @property
    def heading(self) -> str:
        """The title with its group: `64 px FD-EffLite0 ↓`."""
        return " ".join(filter(None, (self.group, self.title)))

    @property
    def is_text(self) -> bool:
        """Whether it holds words: options, or reasons of a failure."""
        return self.group in ("", "options")


@dataclass(frozen=True)
class Spread:
    """The uncertainty of a number, which is a mean or a median.

    sd: standard deviation of one result, printed behind a ±. count: number of results. parts: for
    each source (training seeds, sampling seeds, repeats) the variance of the number itself and its
    degrees of freedom.
    """

    sd: float
    count: int
    parts: Mapping[str, tuple[float, int]]


Cells = Mapping[Column, Mapping[str, Any]]  # by column and row; what is missing has no entry
Spreads = dict[Column, dict[str, Spread]]


@dataclass(frozen=True)
class Table:
    """A table. rows: labels of methods, then of the scale, then of published numbers; cells: values
    in full.

    data: of the rows. preset: the kind of table. caption, notes: above and beneath.
    spread: what is printed behind a ±. noise: the same over repeats of a timing, which is not
    printed. words: what stands in place of a number that could not be measured (`OOM`).
    scale: rows that are no method. published: rows that were not measured here, with their data
    set. Both stand last, in sections of their own, and take no part in what is best.
    places: 1 for the best of a column, 2 for the second (`best.places`), others have no entry.
    p_values: of the test that a difference is zero, by column and row.
    label: by which LaTeX refers to it, "" for one of its preset. transposed: a line for each
    column. width: of the line on paper, in points. notes_in: `BENEATH`, `FOOTNOTE` or `APPENDIX`.
    """

    data: str
    preset: str
    rows: Sequence[str]
    cells: Cells
    spread: Mapping[Column, Mapping[str, Spread]] = field(default_factory=dict)
    noise: Mapping[Column, Mapping[str, Spread]] = field(default_factory=dict)
    words: Mapping[Column, Mapping[str, str]] = field(default_factory=dict)
    scale: Sequence[str] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""
    notes: Sequence[str] = ()
    places: Mapping[Column, Mapping[str, int]] = field(default_factory=dict)
    p_values: Mapping[Column, Mapping[str, float]] = field(default_factory=dict)
    label: str = ""
    transposed: bool = False
    width: float = LINE
    notes_in: str = BENEATH

    @property
    def columns(self) -> list[Column]:
        """All columns in order."""
        return list(self.cells)

    @property
    def methods(self) -> list[str]:
        """The rows that may be the best: no scale and no published numbers."""
        apart = {*self.scale, *self.published}
        return [row for row in self.rows if row not in apart]

    def column(self, group: str, title: str) -> Column:
        """The column of a group by its title, with or without arrow.

        Raises:
            KeyError: where there is none.
        """
        for column in self.cells:
            if column.group == group and title in (column.what, column.title):
                return column
        raise KeyError(f"{group} {title}")

    def place(self, column: Column, row: str) -> int:
        """1 for the best, 2 for the second of a column, else 0."""
        return self.places.get(column, {}).get(row, 0)

    def is_number(self, column: Column) -> bool:
        """Whether a column holds numbers alone."""
        return not any(isinstance(value, str) for value in self.cells[column].values())
