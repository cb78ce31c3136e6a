"""A table in LaTeX. Text of records is escaped, so that it is read as text and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from benchmarks.tables.formats.cells import MISSING, WORDS, cells
from benchmarks.tables.layout import DOWN, UP, Column, Table
from hierdiff.config import printable

WIDE = 16  # columns of a LaTeX table; more are cut into tables below each other
WIDTH_OF_SPREAD = 1.75  # of a column with deviations, in columns
LATEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{UP: r"$\uparrow$", DOWN: r"$\downarrow$", MISSING: "--", "\n": " "},
        **{"±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$"},
    }
)


def escape(words: str) -> str:
    """A word that begins with `[` or `*` is in braces: a line break before it would take it in."""
    return re.sub(r"(?<!\S)[\[*]", r"{\g<0>}", printable(words).translate(LATEX))


def latex(table: Table) -> str:
    """A `table` float of booktabs that fits the line; its first line says what it needs."""
    packages = ["booktabs", "graphicx", *(["xcolor"] if table.published else [])]
    lines = [
        f"% needs \\usepackage{{{','.join(packages)}}}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:hierdiff-{table.preset.replace('_', '-')}}}",
        r"\footnotesize\setlength{\tabcolsep}{4pt}%",
    ]
    for i, panel in enumerate(panels(table)):
        lines += [r"\par\medskip"] if i else []
        lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        lines += [*_tabular(table, panel)]
        lines[-1] += "}"
    if table.notes:
        beneath = r" \\ ".join(_breakable(escape(note)) for note in table.notes)
        lines.append(rf"\par\smallskip{{\raggedright {beneath}\par}}")
    return "\n".join([*lines, r"\end{table}", ""])


def panels(table: Table) -> list[list[Column]]:
    """The columns in tables of at most WIDE; a group is cut, evenly, only where it is wider."""

    def width(columns: Sequence[Column]) -> float:
        return sum(WIDTH_OF_SPREAD if table.spread.get(column) else 1 for column in columns)

    found: list[list[Column]] = [[]]
    for group in dict.fromkeys(column.group for column in table.columns):
        own = [column for column in table.columns if column.group == group]
        size = math.ceil(len(own) / math.ceil(width(own) / WIDE))
        for piece in (own[i : i + size] for i in range(0, len(own), size)):
            if found[-1] and width(found[-1] + piece) > WIDE:
                found.append([])
            found[-1] += piece
    return found


def _tabular(table: Table, columns: Sequence[Column]) -> Iterator[str]:
    align = ["p{4cm}" if column.what in WORDS else "l" if column.is_text else "r"
             for column in columns]  # fmt: skip
    groups = [column.group for column in columns]
    yield rf"\begin{{tabular}}{{l{''.join(align)}}}"
    yield r"\toprule"
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
            yield _line(*map(dress, (escape(row), *line)))
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _line(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: tuple[str, str], place: int) -> str:
    value, spread = cell
    marked = {1: r"\textbf{%s}", 2: r"\underline{%s}"}.get(place, "%s") % escape(value)
    return marked + (rf"{{\scriptsize\,$\pm$\,{escape(spread)}}}" if spread else "")


def _grey(cell: str) -> str:
    return rf"\textcolor{{gray}}{{{cell}}}"


def _rules(groups: Sequence[str]) -> str:
    """A thin rule under each column group; column 1 holds the names."""
    ends = {g: (groups.index(g) + 2, groups.index(g) + groups.count(g) + 1) for g in groups if g}
    return " ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in ends.values())


def _stacked(what: str) -> str:
    """A heading with a line for each word; the arrow stays with the last."""
    parts = escape(what).replace(" $", "~$").split(" ")
    stack = r"\\".join(parts)
    return rf"\shortstack[r]{{{stack}}}" if len(parts) > 1 else stack


def _breakable(words: str) -> str:
    return words.replace(":", r":\allowbreak{}").replace("@", r"@\allowbreak{}")
