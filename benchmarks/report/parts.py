"""What a page is made of, as plain values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, isfinite
from pathlib import Path
from typing import Any

from hierdiff.levels import text_of
from hierdiff.results.record import Record


@dataclass(frozen=True)
class Entry:
    """A record, its label and its look, which it keeps through the page."""

    label: str
    record: Record
    look: int

    @property
    def folder(self) -> Path | None:
        return self.record.path.parent if self.record.path else None

    @property
    def sides(self) -> str:
        return " and ".join(map(text_of, self.record.resolutions))


@dataclass(frozen=True)
class Cell:
    """Text; value: what a number is sorted by; number: whether it stands at the right; place: 1
    for the best of a column, 2 for the second, else 0."""

    text: str
    value: float | None = None
    number: bool = False
    place: int = 0


@dataclass(frozen=True)
class TableRow:
    """A row of a table; look: the mark beside its name; reason: a sentence in place of cells."""

    label: str
    cells: Sequence[Cell] = ()
    look: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Grid:
    """A plain table: headings, and rows that begin with their name.

    grouped: rows of one name follow each other, and the name stands once; such a table has an
    order of its own and is not sorted by its headings.
    """

    label: str
    head: Sequence[str]
    rows: Sequence[TableRow]
    grouped: bool = False

    @property
    def numbers(self) -> list[bool]:
        """For each column whether it holds numbers."""
        filled = [row.cells for row in self.rows if row.reason is None]
        return [
            False,
            *(any(cell.number for cell in column) for column in zip(*filled, strict=True)),
        ]

    @property
    def spans(self) -> list[int]:
        """How many rows the name of each row stands for: 0 where a row above has it."""
        if not self.grouped:
            return [1] * len(self.rows)
        counts = [len(list(own)) for _, own in groupby(row.label for row in self.rows)]
        return [n if i == 0 else 0 for n in counts for i in range(n)]


@dataclass(frozen=True)
class Comparison:
    """One table of a group; sides: headings with the number of columns beneath each."""

    name: str
    caption: str
    sides: Sequence[tuple[str, int]]
    columns: Sequence[Cell]
    methods: Sequence[TableRow]
    scale: Sequence[TableRow]
    published: Sequence[TableRow]
    failures: Sequence[TableRow]
    notes: Sequence[str]
    downloads: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Charts:
    """Charts that belong together: (name, SVG) of each; told: what is said beneath."""

    name: str
    drawn: Sequence[tuple[str, str]]
    told: str = ""


@dataclass(frozen=True)
class Group:
    """Rows whose numbers may share columns; problem: why there is no table."""

    labels: Sequence[str]
    tables: Sequence[Comparison] = ()
    trade: Sequence[Charts] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Picture:
    """A file of the report and its size in pixels."""

    href: str
    width: int
    height: int


@dataclass(frozen=True)
class Figure:
    """A picture of the page with its caption and its text for those who do not see it."""

    picture: Picture
    caption: str
    alt: str
    look: int | None = None


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind; missing: rows that have none."""

    name: str
    told: str
    figures: Sequence[Figure]
    missing: Sequence[str] = ()
    grids: Sequence[Grid] = ()

    def twelfths(self, figure: Figure) -> int:
        """Width of a figure in a line of 12: pixels have one size in all figures, and the widest
        has the whole line, half of it where it is not wide, or a third where it is high."""
        widest = max((other.picture for other in self.figures), key=lambda p: p.width)
        wide, high = widest.width > 2 * widest.height, widest.height > 2 * widest.width
        line = 12 if wide else 4 if high else 6
        return ceil(line * figure.picture.width / widest.width)


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a record holds there."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
