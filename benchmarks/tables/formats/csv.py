"""A table as CSV: every digit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from benchmarks.tables.keys import DOWN, UP, keys, spreads
from hierdiff.config import printable

if TYPE_CHECKING:
    pass
from benchmarks.tables.formats.cells import heading


def csv(table: pd.DataFrame) -> str:
    """Every digit, empty where missing; headings without arrows; deviations and seeds beside."""
    columns: dict[str, Any] = {}
    published = table.attrs.get("published", {})
    columns["data"] = [published.get(row, table.attrs["data"]) for row in table.index]
    for key in keys(table):
        name = heading(key).rstrip(f" {UP}{DOWN}")
        columns[name] = table[key].to_list()
        known = spreads(table, key)
        if known:
            columns[f"{name} sd"] = [known[r].sd if r in known else None for r in table.index]
            seeds = [known[row].count if row in known else None for row in table.index]
            columns[f"{name} seeds"] = pd.array(seeds, dtype="Int64")
        instead = table.attrs.get("words", {}).get(key)
        if instead:
            columns[f"{name} failure"] = [instead.get(row) for row in table.index]
    safe = pd.DataFrame(columns, index=table.index).rename(index=csv_text, columns=csv_text)
    safe = safe.apply(lambda column: column if is_numeric_dtype(column) else column.map(csv_text))
    return safe.to_csv(index_label="row", lineterminator="\n")


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
