"""A table for a terminal, and other text there, without markup or control characters."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from benchmarks.tables.formats.cells import cell_texts
from benchmarks.tables.layout import Column, Table
from hierdiff.config import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

WIDE = 160  # columns of text in a file or a pipe


def terminal(table: Table) -> str:
    """The table as plain text, 160 columns wide."""
    from rich.console import Console

    console = Console(width=WIDE, file=io.StringIO(), color_system=None)
    with console.capture() as printed:
        console.print(rich_table(table))
    return "".join(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def rich_table(table: Table) -> Group:
    """A column for each row and a section for each group, since a terminal is narrow; a transposed
    table has a line for each row."""
    from rich.console import Group
    from rich.table import Table as Rich

    out = Rich()
    out.add_column("", no_wrap=True)
    printed = {column: _cells(table, column) for column in table.columns}
    if table.transposed:
        for column in table.columns:
            heading = terminal_text(column.heading)
            out.add_column(heading, justify="left" if column.is_text else "right", overflow="fold")
        for row in table.rows:
            out.add_row(terminal_text(row), *(cells[row] for cells in printed.values()))
        return Group(terminal_text(table.caption), out, *map(terminal_text, table.notes))
    for row in table.rows:
        out.add_column(terminal_text(row), justify="right", overflow="fold")
    following = [*(column.group for column in table.columns[1:]), None]
    for (column, cells), after in zip(printed.items(), following, strict=False):
        heading = terminal_text(column.heading)
        out.add_row(heading, *cells.values(), end_section=after != column.group)
    return Group(terminal_text(table.caption), out, *map(terminal_text, table.notes))


def _cells(table: Table, column: Column) -> dict[str, Text]:
    """The cells of a column by row, the best bold and the second underlined."""
    styles = {1: "bold", 2: "underline"}
    return {
        row: terminal_text(cell, styles.get(table.place(column, row), ""))
        for row, cell in cell_texts(table, column).items()
    }


def terminal_text(words: Any, style: str = "") -> Text:
    """Text for a terminal, without markup or control characters."""
    from rich.text import Text

    return Text(printable(str(words)), style=style)
