"""A table in Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.tables.best import best
from benchmarks.tables.keys import keys
from hierdiff.config import printable

if TYPE_CHECKING:
    pass
from benchmarks.tables.formats.cells import MISSING, heading, shown, words


# Text of records (names, reasons, options, notes) is anybody's: each format writes it so that it is
# read as text and nothing else, by one function of its own.
def markdown(table: pd.DataFrame) -> str:
    printed, bold = shown(table), best(table)
    published = [row in table.attrs.get("published", ()) for row in table.index]

    def dressed(cell: str, strong: bool, slanted: bool) -> str:
        mark = "**" if strong else "*" if slanted and cell != MISSING else ""
        return f"{mark}{markdown_text(cell)}{mark}"

    flat = pd.DataFrame(
        {
            markdown_text(heading(key)): [
                dressed(*one) for one in zip(printed[key], bold[key], published, strict=True)
            ]
            for key in keys(table)
        },
        index=[dressed(row, False, p) for row, p in zip(table.index, published, strict=True)],
    )
    align = ("left", *("left" if words(key) else "right" for key in keys(table)))
    body = flat.to_markdown(disable_numparse=True, colalign=align)
    beneath = "".join(f"- {markdown_text(note)}\n" for note in table.attrs["notes"])
    caption = markdown_text(table.attrs["caption"])
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
    text = printable(words)
    for pattern, instead in MARKDOWN:
        text = pattern.sub(instead, text)
    return text
