"""The cells of a table as they are printed, alike in Markdown, LaTeX, terminal and page.

What is bold or underlined is decided in best.py, how many digits a number has in digits.py. "–"
stands for what is missing.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tables.digits import with_spread
from benchmarks.tables.layout import Column, Table

MISSING = "–"
WORDS = ("failure",)  # columns of sentences


SIGNIFICANT = 0.05  # a difference with a lower p-value has a star


def text(value: Any, digits: int | None = None) -> str:
    """A word as it is, a number with its digits, a dash for None.

    digits: behind the point, None for as many as are significant.
    """
    if isinstance(value, str):
        return value
    return MISSING if value is None else with_spread(value, None, digits)[0]


def exact(value: Any, digits: int | None = None) -> str:
    """A number with every digit that it was published with, and at least three, or with `digits`
    behind the point."""
    short = text(value, digits)
    if digits is not None:
        return short
    lossy = not isinstance(value, str) and value is not None and float(short) != value
    return f"{value:.10g}" if lossy else short


def cells(table: Table, column: Column) -> dict[str, tuple[str, str]]:
    """(value, deviation) of each row of a column as they are printed; "" for no deviation."""
    values, known = table.cells[column], table.spread.get(column, {})
    instead, tested = table.words.get(column, {}), table.p_values.get(column, {})

    def printed(row: str) -> tuple[str, str]:
        value = values.get(row)
        if row in instead:
            return instead[row], ""
        if row in known:
            assert value is not None
            return with_spread(value, known[row].sd, column.digits)
        shown = exact if row in table.published else text
        return shown(value, column.digits), ""

    def dressed(row: str) -> tuple[str, str]:
        number, spread = printed(row)
        plus = "+" if column.signed and (values.get(row) or 0) > 0 else ""
        star = "*" if tested.get(row, 1.0) < SIGNIFICANT else ""
        return f"{plus}{number}{star}", spread

    return {row: dressed(row) for row in table.rows}


def cell_texts(table: Table, column: Column) -> dict[str, str]:
    """The cells of a column by row as they are printed: `98.4`, `98.4 ± 0.3`."""
    return {row: " ± ".join(filter(None, cell)) for row, cell in cells(table, column).items()}


def label_of(table: Table) -> str:
    """The label by which a text refers to the table."""
    return table.label or f"tab:hierdiff-{table.preset.replace('_', '-')}"
