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

What is bold or underlined (not in Markdown) is decided in benchmarks/best.py, how many digits a
number has in benchmarks/digits.py. "–" stands for what is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from benchmarks.best import DOWN, UP, Key, best, keys, methods, places, spreads
from benchmarks.digits import number, with_spread
from hierdiff.config import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

MISSING = "–"
WORDS = ("failure",)  # columns of sentences
WIDE = 16  # columns of a LaTeX table; more are cut into tables below each other
WIDTH_OF_SPREAD = 1.75  # of a column with deviations, in columns


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


# Text of records (names, reasons, options, notes) is anybody's: each format writes it so that it is
# read as text and nothing else, by one function of its own.


# ---------------------------------------------------------------- Markdown and CSV


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


def words(key: Key) -> bool:
    """Whether a column holds text."""
    return key[0] in ("", "options")


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


# ---------------------------------------------------------------- LaTeX


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


# ---------------------------------------------------------------- terminal


def rich_table(table: pd.DataFrame) -> Group:
    """For a terminal, which is narrow: a column for each row of the frame, a section a group."""
    from rich.console import Group
    from rich.table import Table

    printed, place = shown(table), places(table)
    out = Table()
    out.add_column("", no_wrap=True)
    for row in table.index:
        out.add_column(said(row), justify="right", overflow="fold")
    for i, (group, what) in enumerate(keys(table)):
        styles = [{1: "bold", 2: "underline"}.get(rank, "") for rank in place.iloc[:, i]]
        out.add_row(
            said(heading((group, what))),
            *(said(c, b) for c, b in zip(printed.iloc[:, i], styles, strict=True)),
            end_section=[g for g, _ in keys(table)][i + 1 : i + 2] != [group],
        )
    return Group(said(table.attrs["caption"]), out, *map(said, table.attrs["notes"]))


def said(words: Any, style: str = "") -> Text:
    """Words for a terminal: no markup, nothing that it would obey."""
    from rich.text import Text

    return Text(printable(str(words)), style=style)


FORMATS = {"markdown": markdown, "latex": latex, "csv": csv}
