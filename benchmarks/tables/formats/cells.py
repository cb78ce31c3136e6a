"""How a frame of numbers is printed: Markdown, LaTeX, CSV, terminal. Knows no records.

A frame has pairs (group, what) as columns; "what" ends in an arrow where one side is better. Its
`attrs` are

caption, notes: above and beneath. data: of the rows. preset: the kind of table.
spread: by column and row a `Spread`, printed behind a ±.
noise: the same over repeats of a timing, which is not printed.
resolution: by column the part of a number below which two of them are alike.
words: by column and row what stands in place of a number that could not be measured (`OOM`).
scale: rows that are no method. published: rows that were not measured here, with their data set.
    Both stand last, in sections of their own, and take no part in what is best.

What is bold or underlined (not in Markdown) is decided in best.py, how many digits a
number has in digits.py. "–" stands for what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.tables.digits import number, with_spread
from benchmarks.tables.keys import Key, keys, spreads

if TYPE_CHECKING:
    pass

MISSING = "–"
WORDS = ("failure",)  # columns of sentences


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return MISSING if pd.isna(value) else number(value)


def exact(value: Any) -> str:
    """Every digit that it was published with, and three at least."""
    told = text(value)
    lossy = not isinstance(value, str) and not pd.isna(value) and float(told) != value
    return f"{value:.10g}" if lossy else told


def cells(table: pd.DataFrame, key: Key) -> list[tuple[str, str]]:
    """The cells of a column as they are printed: value, and deviation or nothing."""
    known, published = spreads(table, key), table.attrs.get("published", {})
    instead = table.attrs.get("words", {}).get(key, {})

    def printed(row: str, value: Any) -> tuple[str, str]:
        if row in instead:
            return instead[row], ""
        if row in known:
            return with_spread(value, known[row].sd)
        return (exact(value) if row in published else text(value)), ""

    return [printed(row, value) for row, value in zip(table.index, table[key], strict=True)]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The cells as they are printed: `98.4`, `98.4 ± 0.3`."""
    return pd.DataFrame(
        {
            key: [" ± ".join(filter(None, cell)) for cell in cells(table, key)]
            for key in keys(table)
        },
        index=table.index,
    )


def heading(key: Key) -> str:
    return " ".join(filter(None, key))


def words(key: Key) -> bool:
    """Whether a column holds text."""
    return key[0] in ("", "options")
