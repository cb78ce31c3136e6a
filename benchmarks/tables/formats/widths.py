"""How wide a table is on paper, and how it is cut so that it fits a line without being shrunk.

Widths are estimates in points, of Computer Modern in small text (8 points, `footnotesize` of a
document of 10); they are on the wide side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmarks.tables.formats.cells import WORDS, cells
from benchmarks.tables.layout import DELTA, DOWN, UP, Column, Table

SENTENCES = 113.0  # 4 cm, of a column of sentences
GAP = 8.0  # of a column, at its sides
NAMES = 0.4  # of the line, at most for the names of the rows
TEXT, SPREAD = 8.0, 7.0  # sizes of the text and of what stands behind a ±
OTHER, CAPITAL = 0.57, 0.78  # widths of letters in em
LETTERS = {
    **dict.fromkeys("ijlI.,:;'|!()[]", 0.3),
    **dict.fromkeys("ftr-/ ", 0.4),
    **dict.fromkeys("mwMW%@±", 0.85),
}


def width(words: str, size: float = TEXT) -> float:
    """Of words at a font size."""
    em = (LETTERS.get(letter, CAPITAL if letter.isupper() else OTHER) for letter in words)
    return size * sum(em)


def panels(table: Table) -> list[list[Any]]:
    """What stands across (the columns, or the rows of a transposed table) in tables that are no
    wider than the line. A group of columns is cut, evenly, only where it is wider itself."""
    room = table.width - names_width(table) - GAP
    if table.transposed:
        sizes: dict[Any, float] = {row: GAP + _row_width(table, row) for row in table.rows}
        headings = dict.fromkeys(sizes, "")
    else:
        sizes = {column: GAP + _column_width(table, column) for column in table.columns}
        headings = {column: column.group for column in sizes}
    found: list[list[Any]] = [[]]
    for piece in _pieces(sizes, headings, room):
        if found[-1] and _total(found[-1] + piece, sizes, headings) > room:
            found.append([])
        found[-1] += piece
    return found


def names_width(table: Table) -> float:
    """Of the first column, at most `NAMES` of the line."""
    names = list(table.rows)
    if table.transposed:
        names = [column.title for column in table.columns]
    return min(max(map(width, names), default=0.0), NAMES * table.width)


def names_are_broken(table: Table) -> bool:
    """Whether a name of the first column needs more lines than one."""
    return names_width(table) == NAMES * table.width


def _pieces(sizes: dict[Any, float], headings: dict[Any, str], room: float) -> list[list[Any]]:
    """Columns of one group, in even parts where the group is wider than the room; rows have no
    group."""
    groups: list[list[Any]] = []
    for one in sizes:
        together = groups and headings[one] and headings[groups[-1][0]] == headings[one]
        groups[-1].append(one) if together else groups.append([one])
    pieces = []
    for group in groups:
        for count in range(1, len(group) + 1):
            size = -(-len(group) // count)
            parts = [group[i : i + size] for i in range(0, len(group), size)]
            if all(_total(part, sizes, headings) <= room for part in parts):
                break
        pieces += parts
    return pieces


def _total(across: Sequence[Any], sizes: dict[Any, float], headings: dict[Any, str]) -> float:
    """Of some columns beside each other; a group is at least as wide as its heading."""
    groups: dict[str, float] = {}
    for one in across:
        groups[headings[one]] = groups.get(headings[one], 0.0) + sizes[one]
    return sum(max(own, GAP + width(heading)) for heading, own in groups.items())


def _column_width(table: Table, column: Column) -> float:
    if column.what in WORDS:
        return SENTENCES
    heading = re.sub(f" (?=[{UP}{DOWN}])|(?<={DELTA}) ", "", column.title)  # of one word
    shown = cells(table, column).values()
    return max([*map(width, heading.split(" ")), *map(_cell_width, shown)])


def _row_width(table: Table, row: str) -> float:
    shown = [cells(table, column)[row] for column in table.columns]
    return max([*map(width, row.split(" ")), *map(_cell_width, shown)])


def _cell_width(cell: tuple[str, str]) -> float:
    value, spread = cell
    return width(value) + (width(f"± {spread}", SPREAD) if spread else 0.0)
