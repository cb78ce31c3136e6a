"""A table as CSV. Text that a spreadsheet would take for a formula is written as text."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.tables.layout import Table
from hierdiff.config import printable


def csv(table: Table) -> str:
    """Every digit, empty where missing; headings without arrows; deviations, seeds and p-values
    beside. No caption and no notes."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    columns: dict[str, Any] = {}
    columns["data"] = [table.published.get(row, table.data) for row in table.rows]
    for column in table.columns:
        name = column.key
        values = [table.cells[column].get(row) for row in table.rows]
        columns[name] = values if not table.is_number(column) else pd.array(values, dtype="float64")
        known = table.spread.get(column, {})
        if known:
            columns[f"{name} sd"] = [known[r].sd if r in known else None for r in table.rows]
            seeds = [known[row].count if row in known else None for row in table.rows]
            columns[f"{name} seeds"] = pd.array(seeds, dtype="Int64")
        tested = table.p_values.get(column)
        if tested:
            columns[f"{name} p"] = [tested.get(row) for row in table.rows]
        instead = table.words.get(column)
        if instead:
            columns[f"{name} failure"] = [instead.get(row) for row in table.rows]
    safe = {
        csv_text(name): values if is_numeric_dtype(values) else list(map(csv_text, values))
        for name, values in columns.items()
    }
    flat = pd.DataFrame(safe, index=list(map(csv_text, table.rows)))
    head = "column" if table.transposed else "row"
    return (flat.T if table.transposed else flat).to_csv(index_label=head, lineterminator="\n")


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
