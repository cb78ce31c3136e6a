"""A table in Markdown. Text of records (names, reasons, options, notes) is anybody's: it is written
so that it is read as text and nothing else."""

from __future__ import annotations

import re

from tabulate import tabulate

from benchmarks.tables.formats.cells import MISSING, cell_texts, label_of
from benchmarks.tables.layout import BENEATH, FOOTNOTE, Table
from hierdiff.config import printable


def markdown(table: Table) -> str:
    """The table in Markdown: the best of a column is bold, published numbers are in italics."""
    names, headings, lines = _cells(table)
    left = [column.is_text for column in table.columns]
    if table.transposed:
        names, headings, left = headings, names, [False] * len(table.rows)
        lines = [list(line) for line in zip(*lines, strict=True)]
    align = ("left", *("left" if is_left else "right" for is_left in left))
    whole = [[name, *line] for name, line in zip(names, lines, strict=True)]
    body = tabulate(
        whole, headers=["", *headings], tablefmt="pipe", disable_numparse=True, colalign=align
    )
    notes = [markdown_text(note) for note in table.notes]
    caption = markdown_text(table.caption)
    if notes and table.notes_in == FOOTNOTE:
        mark = f"[^{label_of(table)}]"
        return f"{caption}{mark}\n\n{body}\n\n{mark}: " + "\n\n    ".join(notes) + "\n"
    beneath = "".join(f"- {note}\n" for note in notes if table.notes_in == BENEATH)
    return f"{caption}\n\n{body}\n" + (f"\n{beneath}" if beneath else "")


def markdown_appendix(table: Table) -> str:
    """The notes of a table as a section of their own."""
    lines = "".join(f"- {markdown_text(note)}\n" for note in table.notes)
    return f"### Conditions of {label_of(table)}\n\n{lines}"


def _cells(table: Table) -> tuple[list[str], list[str], list[list[str]]]:
    """Names of rows, headings of columns, and the cells of each row, all as Markdown."""

    def dressed(cell: str, strong: bool, slanted: bool) -> str:
        mark = "**" if strong else "*" if slanted and cell != MISSING else ""
        return f"{mark}{markdown_text(cell)}{mark}"

    columns = [
        [
            dressed(cell, table.place(column, row) == 1, row in table.published)
            for row, cell in cell_texts(table, column).items()
        ]
        for column in table.columns
    ]
    names = [dressed(row, False, row in table.published) for row in table.rows]
    lines = [[column[i] for column in columns] for i in range(len(names))]
    return names, [markdown_text(column.heading) for column in table.columns], lines


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
