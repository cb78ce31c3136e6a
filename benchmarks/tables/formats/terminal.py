"""A table for a terminal, and other text there, without markup or control characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.tables.formats.cells import cell_texts
from benchmarks.tables.layout import Table
from hierdiff.config import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text


def rich_table(table: Table) -> Group:
    """The table transposed, since a terminal is narrow: a column for each row, a section for each
    group."""
    from rich.console import Group
    from rich.table import Table as Rich

    out = Rich()
    out.add_column("", no_wrap=True)
    for row in table.rows:
        out.add_column(terminal_text(row), justify="right", overflow="fold")
    following = [*(column.group for column in table.columns[1:]), None]
    for column, after in zip(table.columns, following, strict=True):
        styles = {1: "bold", 2: "underline"}
        out.add_row(
            terminal_text(column.heading),
            *(
                terminal_text(cell, styles.get(table.place(column, row), ""))
                for row, cell in cell_texts(table, column).items()
            ),
            end_section=after != column.group,
        )
    return Group(terminal_text(table.caption), out, *map(terminal_text, table.notes))


def terminal_text(words: Any, style: str = "") -> Text:
    """Text for a terminal, without markup or control characters."""
    from rich.text import Text

    return Text(printable(str(words)), style=style)
