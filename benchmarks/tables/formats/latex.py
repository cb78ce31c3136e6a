"""A table in LaTeX. Text of records is escaped, so that it is read as text and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from benchmarks.tables.formats.cells import MISSING, WORDS, cells, label_of
from benchmarks.tables.formats.widths import names_are_broken, names_width, panels
from benchmarks.tables.layout import APPENDIX, BENEATH, DOWN, FOOTNOTE, UP, Column, Table
from hierdiff.config import printable

LATEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{UP: r"$\uparrow$", DOWN: r"$\downarrow$", MISSING: "--", "\n": " "},
        **{"±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "Δ": r"$\Delta$"},
    }
)


def escape(words: str) -> str:
    """A word that begins with `[` or `*` is in braces: a line break before it would take it in."""
    return re.sub(r"(?<!\S)[\[*]", r"{\g<0>}", printable(words).translate(LATEX))


def latex(table: Table) -> str:
    """A `table` float of booktabs in small text, in as many tables below each other as the
    width of the line (`Table.width`) asks for; its first line says what it needs."""
    packages = ["booktabs", *(["xcolor"] if table.published else [])]
    apart = bool(table.notes) and table.notes_in != BENEATH
    lines = [
        f"% needs \\usepackage{{{','.join(packages)}}}",
        r"\begin{table}[t]",
        *([r"\stepcounter{footnote}%"] if apart and table.notes_in == FOOTNOTE else []),
        r"\centering",
        rf"\caption{_caption(table)}",
        rf"\label{{{label_of(table)}}}",
        r"\par\smallskip\footnotesize\setlength{\tabcolsep}{4pt}%",
    ]
    across = _rows_across if table.transposed else _columns_across
    for i, panel in enumerate(panels(table)):
        lines += [r"\par\medskip"] if i else []
        lines += across(table, panel)
    if table.notes and not apart:
        lines.append(rf"\par\smallskip{{\raggedright {_notes(table)}\par}}")
    lines.append(r"\end{table}")
    if apart and table.notes_in == FOOTNOTE:
        lines.append(rf"\footnotetext[\value{{footnote}}]{{\raggedright {_notes(table)}\par}}")
    return "\n".join([*lines, ""])


def latex_appendix(table: Table) -> str:
    """The notes of a table as a section for the appendix, to which its caption refers."""
    items = (rf"\item {_breakable(escape(note))}" for note in table.notes)
    head = rf"\subsection{{Conditions of Table~\ref{{{label_of(table)}}}}}"
    lines = [head, rf"\label{{app:{label_of(table)}}}", r"\begin{itemize}", *items]
    return "\n".join([*lines, r"\end{itemize}", ""])


def _caption(table: Table) -> str:
    """The argument of a caption. Notes that stand elsewhere are referred to; a mark of a footnote
    counts itself, so that the list of tables gets the caption without it."""
    words = escape(table.caption)
    if table.notes and table.notes_in == FOOTNOTE:
        return rf"[{{{words}}}]{{{words}\protect\footnotemark[\value{{footnote}}]}}"
    if table.notes and table.notes_in == APPENDIX:
        words += rf" Conditions: Appendix~\ref{{app:{label_of(table)}}}."
    return f"{{{words}}}"


def _notes(table: Table) -> str:
    return r" \\ ".join(_breakable(escape(note)) for note in table.notes)


def _columns_across(table: Table, columns: Sequence[Column]) -> Iterator[str]:
    align = "".join("p{4cm}" if column.what in WORDS else "l" if column.is_text else "r"
                    for column in columns)  # fmt: skip
    name = _name_cell(table)
    yield from _top(table, align)
    groups = [column.group for column in columns]
    if any(groups):
        spans = [(group, groups.count(group)) for group in dict.fromkeys(groups)]
        yield _line("", *(rf"\multicolumn{{{n}}}{{c}}{{{escape(g)}}}" for g, n in spans))
        yield _rules(groups)
    yield _line("", *(_stacked(column.title) for column in columns))
    yield r"\midrule"
    printed = {column: cells(table, column) for column in columns}
    known = {row for column in columns for row, v in table.cells[column].items() if v is not None}
    own = table.methods
    sections = [
        own if not known.isdisjoint(own) or not table.published else [],
        *([row for row in rows if row in known] for rows in (table.scale, table.published)),
    ]
    for i, section in enumerate(section for section in sections if section):
        yield from [r"\midrule"] if i else []
        for row in section:
            line = [_cell(printed[column][row], table.place(column, row)) for column in columns]
            dress = _grey if row in table.published else str
            yield _line(*map(dress, (name(row), *line)))
    yield from (r"\bottomrule", r"\end{tabular}")


def _rows_across(table: Table, rows: Sequence[str]) -> Iterator[str]:
    """A line for each column, under the name of its group; those that no row has are left out."""
    name = _name_cell(table)
    yield from _top(table, "r" * len(rows))
    heads = (_grey(_stacked(r)) if r in table.published else _stacked(r) for r in rows)
    yield _line("", *heads)
    known = [c for c in table.columns if any(table.cells[c].get(r) is not None for r in rows)]
    for group, own in groupby(known, key=lambda column: column.group):
        yield r"\midrule"
        if group:
            yield _line(rf"\multicolumn{{{len(rows) + 1}}}{{l}}{{\emph{{{escape(group)}}}}}")
        for column in own:
            printed = cells(table, column)
            line = (_cell(printed[row], table.place(column, row)) for row in rows)
            dressed = (_grey(c) if r in table.published else c
                       for r, c in zip(rows, line, strict=True))  # fmt: skip
            yield _line(name(column.title), *dressed)
    yield from (r"\bottomrule", r"\end{tabular}")


def _top(table: Table, align: str) -> Iterator[str]:
    names = f"p{{{names_width(table):.0f}pt}}" if names_are_broken(table) else "l"
    yield rf"\begin{{tabular}}{{{names}{align}}}"
    yield r"\toprule"


def _name_cell(table: Table) -> Callable[[str], str]:
    """How a name is written in the first column."""
    broken = names_are_broken(table)
    return lambda name: rf"\raggedright {escape(name)}" if broken else escape(name)


def _line(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: tuple[str, str], place: int) -> str:
    value, spread = cell
    words = re.sub(r"^-(?=\d)", "$-$", escape(value))
    marked = {1: r"\textbf{%s}", 2: r"\underline{%s}"}.get(place, "%s") % words
    return marked + (rf"{{\scriptsize\,$\pm$\,{escape(spread)}}}" if spread else "")


def _grey(cell: str) -> str:
    return rf"\textcolor{{gray}}{{{cell}}}"


def _rules(groups: Sequence[str]) -> str:
    """A thin rule under each column group; column 1 holds the names."""
    ends = {g: (groups.index(g) + 2, groups.index(g) + groups.count(g) + 1) for g in groups if g}
    return " ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in ends.values())


def _stacked(what: str) -> str:
    """A heading with a line for each word; an arrow stays with the last, a delta with the next."""
    parts = escape(what).replace(" $", "~$").replace(r"\Delta$ ", r"\Delta$~").split(" ")
    stack = r"\\".join(parts)
    return rf"\shortstack[r]{{{stack}}}" if len(parts) > 1 else stack


def _breakable(words: str) -> str:
    return words.replace(":", r":\allowbreak{}").replace("@", r"@\allowbreak{}")
