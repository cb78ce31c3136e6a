"""How a frame of numbers is printed: Markdown, LaTeX, CSV, terminal. Knows no records.

A frame has pairs (group, what) as columns; "what" ends in an arrow where one side is better.
`attrs` holds `caption`, `notes` (beneath), `data` and `scale` (rows that are no method, last).
The best method is bold, methods equal after rounding share it, and "–" stands for what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rich.table import Table

MISSING = "–"
UP, DOWN = "↑", "↓"
TEXT_COLUMNS = {"failure": "p{4cm}"}  # LaTeX alignment of columns that hold words
Key = tuple[str, str]


def keys(table: pd.DataFrame) -> list[Key]:
    """The columns as pairs (group, what)."""
    return cast(list[Key], table.columns.to_list())


def number(value: float) -> str:
    """Three significant digits, more where they stand before the point; whole numbers as such."""
    if float(value).is_integer():
        return str(int(value))
    digits = math.floor(math.log10(abs(value))) + 1
    return f"{value:.{max(0, 3 - digits)}f}"


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return MISSING if pd.isna(value) else number(value)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The cells as they are printed."""
    return pd.DataFrame(
        {key: [text(value) for value in table[key]] for key in keys(table)}, index=table.index
    )


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Which cells are bold: the best of two or more methods; equal after rounding shares it."""
    bold = pd.DataFrame(False, index=table.index, columns=table.columns)
    methods = [row for row in table.index if row not in table.attrs["scale"]]
    for key in keys(table):
        if key[1][-1] not in (UP, DOWN):
            continue
        column = table.loc[methods, key].dropna()
        if len(column) > 1:
            winner = text(column.min() if key[1].endswith(DOWN) else column.max())
            bold.loc[column.index, key] = np.array([text(value) == winner for value in column])
    return bold


def heading(key: Key) -> str:
    return " ".join(filter(None, key))


def markdown(table: pd.DataFrame) -> str:
    cells, bold = shown(table), best(table)
    flat = pd.DataFrame(
        {
            _bar(heading(key)): [
                f"**{_bar(cell)}**" if strong else _bar(cell)
                for cell, strong in zip(cells[key], bold[key], strict=True)
            ]
            for key in keys(table)
        },
        index=[_bar(row) for row in table.index],
    )
    align = ("left", *("left" if not key[0] else "right" for key in keys(table)))
    body = flat.to_markdown(disable_numparse=True, colalign=align)
    beneath = "".join(f"- {note}\n" for note in table.attrs["notes"])
    return f"{table.attrs['caption']}\n\n{body}\n" + (f"\n{beneath}" if beneath else "")


def _bar(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def csv(table: pd.DataFrame) -> str:
    """Every digit, empty where missing; headings without arrows."""
    flat = table.copy()
    flat.columns = pd.Index([heading(key).rstrip(f" {UP}{DOWN}") for key in keys(table)])
    flat.insert(0, "data", table.attrs["data"])
    return flat.to_csv(index_label="row", lineterminator="\n")


LATEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{UP: r"$\uparrow$", DOWN: r"$\downarrow$", MISSING: "--", "\n": " "},
    }
)


def escape(words: str) -> str:
    return words.translate(LATEX)


def latex(table: pd.DataFrame) -> str:
    """A `table` float for a document with `\\usepackage{booktabs,graphicx}`; fits the line."""
    cells = shown(table).map(escape)
    cells.index = pd.Index([escape(row) for row in table.index])
    escaped = [(escape(a), _stacked(b)) for a, b in keys(table)]
    cells.columns = pd.MultiIndex.from_tuples(escaped, names=(None, None))
    bold = best(table).to_numpy()
    source = cells.style.apply(
        lambda data: pd.DataFrame(
            [["textbf:--rwrap;" if strong else "" for strong in row] for row in bold],
            index=data.index,
            columns=data.columns,
        ),
        axis=None,
    ).to_latex(
        hrules=True,
        multicol_align="c",
        column_format="l" + "".join("r" if a else TEXT_COLUMNS.get(b, "l") for a, b in keys(table)),
        caption=escape(table.attrs["caption"]),
        label="tab:hierdiff",
        position="t",
        position_float="centering",
    )
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(_dressed(table, source)) + "\n"


def _dressed(table: pd.DataFrame, source: str) -> Iterator[str]:
    """Rules under the groups and above the scale, notes beneath, all of it within the line."""
    lines = iter(source.splitlines())
    scale = len(table.attrs["scale"])
    left = len(table.index) - scale  # rows of methods that are still to come
    for line in lines:
        if line.startswith(r"\begin{tabular}"):
            yield r"\footnotesize\setlength{\tabcolsep}{4pt}%"
            yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        yield line + ("}" if line == r"\end{tabular}" else "")
        if line == r"\toprule":
            yield next(lines)
            yield from _rules([group for group, _ in keys(table)])
        elif line == r"\midrule":
            for _ in range(left):
                yield next(lines)
            yield from [r"\midrule"] if scale and left else []
        elif line == r"\end{tabular}" and table.attrs["notes"]:
            beneath = r" \\ ".join(_breakable(escape(note)) for note in table.attrs["notes"])
            yield rf"\par\smallskip{{\raggedright {beneath}\par}}"


def _rules(groups: Sequence[str]) -> list[str]:
    """A thin rule under each column group; column 1 holds the names."""
    ends = {g: (groups.index(g) + 2, groups.index(g) + groups.count(g) + 1) for g in groups if g}
    rules = " ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in ends.values())
    return [rules] if rules else []


def _stacked(what: str) -> str:
    """A heading with a line for each word; the arrow stays with the last."""
    words = escape(what).replace(" $", "~$").split(" ")
    stack = r"\\".join(words)
    return rf"\shortstack[r]{{{stack}}}" if len(words) > 1 else stack


def _breakable(words: str) -> str:
    return words.replace(":", r":\allowbreak{}").replace("@", r"@\allowbreak{}")


def rich_table(table: pd.DataFrame) -> Table:
    """For a terminal, which is narrow: a column for each row of the frame, a section a group."""
    from rich.table import Table
    from rich.text import Text

    cells, bold = shown(table), best(table)
    notes = Text("\n".join(table.attrs["notes"]))
    printed = Table(title=Text(table.attrs["caption"]), caption=notes, caption_justify="left")
    printed.add_column("", no_wrap=True)
    for row in table.index:
        printed.add_column(Text(str(row)), justify="right", overflow="fold")
    for i, (group, what) in enumerate(keys(table)):
        styles = ["bold" if strong else "" for strong in bold.iloc[:, i]]
        printed.add_row(
            Text(heading((group, what))),
            *(Text(str(c), style=b) for c, b in zip(cells.iloc[:, i], styles, strict=True)),
            end_section=[g for g, _ in keys(table)][i + 1 : i + 2] != [group],
        )
    return printed


FORMATS = {"markdown": markdown, "latex": latex, "csv": csv}
