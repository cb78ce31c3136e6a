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
    if isinstance(value, str):
        return value
    return MISSING if value is None else number(value)


def exact(value: Any) -> str:
    """Every digit that it was published with, and three at least."""
    short = text(value)
    lossy = not isinstance(value, str) and value is not None and float(short) != value
    return f"{value:.10g}" if lossy else short


def cells(table: Table, column: Column) -> dict[str, tuple[str, str]]:
    """By row the cells of a column as they are printed: value, and deviation or nothing."""
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


def shown(table: Table, column: Column) -> dict[str, str]:
    """By row the cells of a column as they are printed: `98.4`, `98.4 ± 0.3`."""
    return {row: " ± ".join(filter(None, cell)) for row, cell in cells(table, column).items()}
