"""A table in Markdown. Text of records (names, reasons, options, notes) is anybody's: it is written
so that it is read as text and nothing else."""

from __future__ import annotations

import re

import pandas as pd

from benchmarks.tables.formats.cells import MISSING, cell_texts
from benchmarks.tables.layout import Table
from hierdiff.config import printable


def markdown(table: Table) -> str:
    """The table in Markdown: the best of a column is bold, published numbers are in italics."""

    def dressed(cell: str, strong: bool, slanted: bool) -> str:
        mark = "**" if strong else "*" if slanted and cell != MISSING else ""
        return f"{mark}{markdown_text(cell)}{mark}"

    flat = pd.DataFrame(
        {
            markdown_text(column.heading): [
                dressed(cell, table.place(column, row) == 1, row in table.published)
                for row, cell in cell_texts(table, column).items()
            ]
            for column in table.columns
        },
        index=[dressed(row, False, row in table.published) for row in table.rows],
    )
    align = ("left", *("left" if column.is_text else "right" for column in table.columns))
    body = flat.to_markdown(disable_numparse=True, colalign=align)
    beneath = "".join(f"- {markdown_text(note)}\n" for note in table.notes)
    caption = markdown_text(table.caption)
    return f"{caption}\n\n{body}\n" + (f"\n{beneath}" if beneath else "")


MARKDOWN = (  # what would be a sign of Markdown or HTML, and how it is read as text
    (re.compile(r"[\\`*|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])"), r"\\\g<0>"),
    (re.compile(r"&(?=#?\w+;)"), "&amp;"),
    (re.compile("<"), "&lt;"),
    (re.compile(">"), "&gt;"),
    (re.compile(r"(?i)(https?|ftp):(?=//)|(www)\.(?=\w)"), lambda m: m[0][:-1] + "\\" + m[0][-1]),
    (re.compile(r"^(#|[-+]\s|\d+(?=[.)]\s))"), lambda m: _escaped_first(m[0])),
)


def _escaped_first(sign: str) -> str:
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"


def markdown_text(words: str) -> str:
    """Words in which no sign is one of Markdown or HTML."""
    text = printable(words)
    for pattern, instead in MARKDOWN:
        text = pattern.sub(instead, text)
    return text
