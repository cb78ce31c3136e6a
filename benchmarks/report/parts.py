"""What a page is made of, as plain values for its template."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from math import ceil, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.naming import shortened, unquoted
from hierdiff.resolution import text_of
from hierdiff.results.record import Record


@dataclass(frozen=True)
class LabelledRecord:
    """A record, its label and its look, which it keeps through the page.

    of: the label that it shares with the other training seeds of its row; empty: its own.
    """

    label: str
    record: Record
    look: int
    of: str = ""

    @property
    def row(self) -> str:
        """The label of its row."""
        return self.of or self.label

    @property
    def folder(self) -> Path | None:
        """The run folder; None for a record that is not read from a file."""
        return self.record.path.parent if self.record.path else None

    @property
    def sides(self) -> str:
        """All resolutions of the method, for a sentence."""
        return " and ".join(map(text_of, self.record.resolutions))


@dataclass(frozen=True)
class Cell:
    """A cell of a table. value: the key for sorting; number: whether it is aligned right; place: 1
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
class PlainTable:
    """A plain table: headings, and rows that begin with their name.

    grouped: rows with the same name are adjacent, and the name is printed once; such a table is not
    sortable by its headings.
    """

    label: str
    head: Sequence[str]
    rows: Sequence[TableRow]
    grouped: bool = False

    @property
    def numbers(self) -> list[bool]:
        """Whether each column holds numbers."""
        filled = [row.cells for row in self.rows if row.reason is None]
        return [
            False,
            *(any(cell.number for cell in column) for column in zip(*filled, strict=True)),
        ]

    @property
    def spans(self) -> list[int]:
        """The row span of the name of each row: 0 where the name stands in a row above."""
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


class Chart(NamedTuple):
    """A chart as SVG; href: the file of the report that holds it too, empty where there is none."""

    name: str
    svg: str
    href: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts that belong together; note: the text beneath."""

    name: str
    images: Sequence[Chart]
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Rows whose numbers may share columns; problem: why there is no table.

    agreement: rank agreement of the metrics, a table for each level and view.
    """

    labels: Sequence[str]
    tables: Sequence[Comparison] = ()
    agreement: Sequence[PlainTable] = ()
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
    """A picture with its caption; alt: a description for who cannot see it; labels: the class or
    caption of each image on it, in the order of its rows."""

    picture: Picture
    caption: str
    alt: str
    look: int | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind. note: what they show; missing: labels of rows that have none."""

    name: str
    note: str
    figures: Sequence[Figure]
    missing: Sequence[str] = ()
    tables: Sequence[PlainTable] = ()

    def twelfths(self, figure: Figure) -> int:
        """Width of a figure in twelfths of the page.

        Pixels have the same size in all figures. The widest figure takes the whole page, a half if
        it is not wide, or a third if it is high.
        """
        widest = max((other.picture for other in self.figures), key=lambda p: p.width)
        wide, high = widest.width > 2 * widest.height, widest.height > 2 * widest.width
        line = 12 if wide else 4 if high else 6
        return ceil(line * figure.picture.width / widest.width)


def finite_number(value: Any) -> float | None:
    """A finite number, or None for whatever else a record holds there."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, or an empty one for whatever else a record holds there."""
    return value if isinstance(value, Mapping) else {}


def page_source(kind: str) -> str:
    """The template ("html"), style ("css") or script ("js") of a page."""
    return resources.files("benchmarks.report").joinpath(f"page.{kind}").read_text("utf-8")


def slug_of(name: str, taken: Collection[str]) -> str:
    """A name in small letters, digits and hyphens, for files and links; none of those `taken`."""
    slug = base = shortened(unquoted(re.sub("[.-]", " ", name.lower())), 120).strip("-") or "data"
    count = 1
    while slug in taken:
        count += 1
        slug = f"{base}-{count}"
    return slug
