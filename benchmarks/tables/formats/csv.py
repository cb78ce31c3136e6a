"""A table as CSV. Text that a spreadsheet would take for a formula is written as text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from csv import writer
from typing import Any

from benchmarks.tables.layout import Table
from hierdiff.config import printable


def csv(table: Table) -> str:
    """Every digit, empty where missing; headings without arrows; deviations, seeds and p-values
    beside. No caption and no notes."""
    columns: dict[str, Sequence[Any]] = {}
    columns["data"] = [table.published.get(row, table.data) for row in table.rows]
    for column in table.columns:
        name = column.key
        columns[name] = [table.cells[column].get(row) for row in table.rows]
        known = table.spread.get(column, {})
        if known:
            columns[f"{name} sd"] = [known[r].sd if r in known else None for r in table.rows]
            columns[f"{name} seeds"] = [known[r].count if r in known else None for r in table.rows]
        tested = table.p_values.get(column)
        if tested:
            columns[f"{name} p"] = [tested.get(row) for row in table.rows]
        instead = table.words.get(column)
        if instead:
            columns[f"{name} failure"] = [instead.get(row) for row in table.rows]
    first = ["column" if table.transposed else "row", *table.rows]
    flat = [first, *([name, *values] for name, values in columns.items())]
    text = io.StringIO()
    lines = writer(text, lineterminator="\n")
    for line in flat if table.transposed else zip(*flat, strict=True):
        lines.writerow(map(csv_text, line))
    return text.getvalue()


FORMULA = re.compile("^\\s*[=+\\-@＝＋－＠]")
A_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def csv_text(cell: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe, which it reads as text;
    numbers stay."""
    if not isinstance(cell, str):
        return cell
    formula = FORMULA.match(cell) or cell[:1] in ("\t", "\r")
    text = printable(cell)
    return f"'{text}" if formula and not A_NUMBER.fullmatch(text) else text
