"""A table, and other words, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.tables.best import places
from benchmarks.tables.keys import keys
from hierdiff.config import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text
from benchmarks.tables.formats.cells import heading, shown


def rich_table(table: pd.DataFrame) -> Group:
    """For a terminal, which is narrow: a column for each row of the frame, a section a group."""
    from rich.console import Group
    from rich.table import Table

    printed, place = shown(table), places(table)
    out = Table()
    out.add_column("", no_wrap=True)
    for row in table.index:
        out.add_column(said(row), justify="right", overflow="fold")
    for i, (group, what) in enumerate(keys(table)):
        styles = [{1: "bold", 2: "underline"}.get(rank, "") for rank in place.iloc[:, i]]
        out.add_row(
            said(heading((group, what))),
            *(said(c, b) for c, b in zip(printed.iloc[:, i], styles, strict=True)),
            end_section=[g for g, _ in keys(table)][i + 1 : i + 2] != [group],
        )
    return Group(said(table.attrs["caption"]), out, *map(said, table.attrs["notes"]))


def said(words: Any, style: str = "") -> Text:
    """Words for a terminal: no markup, nothing that it would obey."""
    from rich.text import Text

    return Text(printable(str(words)), style=style)
