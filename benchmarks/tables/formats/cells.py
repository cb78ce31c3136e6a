"""The cells of a table as they are printed, alike in Markdown, LaTeX, terminal and page.

What is bold or underlined is decided in best.py, how many digits a number has in digits.py. "–"
stands for what is missing.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tables.digits import number, with_spread
from benchmarks.tables.layout import Column, Table

MISSING = "–"
WORDS = ("failure",)  # columns of sentences


def text(value: Any) -> str:
    """A word as it is, a number with its significant digits, a dash for None."""
    if isinstance(value, str):
        return value
    return MISSING if value is None else number(value)


def exact(value: Any) -> str:
    """A number with every digit that it was published with, and at least three."""
    short = text(value)
    lossy = not isinstance(value, str) and value is not None and float(short) != value
    return f"{value:.10g}" if lossy else short


def cells(table: Table, column: Column) -> dict[str, tuple[str, str]]:
    """(value, deviation) of each row of a column as they are printed; "" for no deviation."""
    values, known = table.cells[column], table.spread.get(column, {})
    instead = table.words.get(column, {})

    def printed(row: str) -> tuple[str, str]:
        value = values.get(row)
        if row in instead:
            return instead[row], ""
        if row in known:
            assert value is not None
            return with_spread(value, known[row].sd)
        return (exact(value) if row in table.published else text(value)), ""

    return {row: printed(row) for row in table.rows}


def cell_texts(table: Table, column: Column) -> dict[str, str]:
    """The cells of a column by row as they are printed: `98.4`, `98.4 ± 0.3`."""
    return {row: " ± ".join(filter(None, cell)) for row, cell in cells(table, column).items()}
