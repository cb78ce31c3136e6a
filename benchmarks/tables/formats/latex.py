"""A table in LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.tables.best import places
from benchmarks.tables.keys import DOWN, UP, Key, keys, methods, spreads
from hierdiff.config import printable

if TYPE_CHECKING:
    pass
from benchmarks.tables.formats.cells import MISSING, WORDS, cells, words

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


def latex(table: pd.DataFrame) -> str:
    """A `table` float of booktabs that fits the line; its first line says what it needs."""
    packages = ["booktabs", "graphicx", *(["xcolor"] if table.attrs.get("published") else [])]
    lines = [
        f"% needs \\usepackage{{{','.join(packages)}}}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(table.attrs['caption'])}}}",
        rf"\label{{tab:hierdiff-{table.attrs['preset'].replace('_', '-')}}}",
        r"\footnotesize\setlength{\tabcolsep}{4pt}%",
    ]
    place = places(table)
    for i, panel in enumerate(panels(table)):
        lines += [r"\par\medskip"] if i else []
        lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        lines += [*_tabular(table, panel, place)]
        lines[-1] += "}"
    if table.attrs["notes"]:
        beneath = r" \\ ".join(_breakable(escape(note)) for note in table.attrs["notes"])
        lines.append(rf"\par\smallskip{{\raggedright {beneath}\par}}")
    return "\n".join([*lines, r"\end{table}", ""])


def panels(table: pd.DataFrame) -> list[list[Key]]:
    """The columns in tables of at most WIDE; a group is cut, evenly, only where it is wider."""

    def width(columns: Sequence[Key]) -> float:
        return sum(WIDTH_OF_SPREAD if spreads(table, key) else 1 for key in columns)

    found: list[list[Key]] = [[]]
    for group in dict.fromkeys(group for group, _ in keys(table)):
        own = [key for key in keys(table) if key[0] == group]
        size = math.ceil(len(own) / math.ceil(width(own) / WIDE))
        for piece in (own[i : i + size] for i in range(0, len(own), size)):
            if found[-1] and width(found[-1] + piece) > WIDE:
                found.append([])
            found[-1] += piece
    return found


def _tabular(table: pd.DataFrame, columns: Sequence[Key], place: pd.DataFrame) -> Iterator[str]:
    align = ["p{4cm}" if what in WORDS else "l" if words((group, what)) else "r"
             for group, what in columns]  # fmt: skip
    groups = [group for group, _ in columns]
    yield rf"\begin{{tabular}}{{l{''.join(align)}}}"
    yield r"\toprule"
    if any(groups):
        spans = [(group, groups.count(group)) for group in dict.fromkeys(groups)]
        yield _line("", *(rf"\multicolumn{{{n}}}{{c}}{{{escape(g)}}}" for g, n in spans))
        yield _rules(groups)
    yield _line("", *(_stacked(what) for _, what in columns))
    yield r"\midrule"
    printed = {key: cells(table, key) for key in columns}
    others = table.attrs.get("published", {})
    known = table[list(columns)].notna().any(axis=1)
    own = methods(table)
    sections = [
        own if known[own].any() or not others else [],
        *([row for row in rows if known[row]] for rows in (table.attrs["scale"], others)),
    ]
    for i, section in enumerate(section for section in sections if section):
        yield from [r"\midrule"] if i else []
        for row in section:
            at = list(table.index).index(row)
            line = [_cell(printed[key][at], int(place[key].iloc[at])) for key in columns]
            yield _line(*map(_grey if row in others else str, (escape(row), *line)))
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _line(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: tuple[str, str], place: int) -> str:
    value, spread = cell
    told = {1: r"\textbf{%s}", 2: r"\underline{%s}"}.get(place, "%s") % escape(value)
    return told + (rf"{{\scriptsize\,$\pm$\,{escape(spread)}}}" if spread else "")


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
