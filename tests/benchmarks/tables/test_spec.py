"""A table as a file asks for it: columns, rows, names, digits, caption, width, notes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tables.__main__ import main
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.formats.widths import panels
from benchmarks.tables.layout import LINE, Table
from benchmarks.tables.spec import Spec, arranged
from benchmarks.tables.table import tabulate
from hierdiff.results.folders import readable
from tests.benchmarks.rows import five, ten

ROOT = Path(__file__).resolve().parents[3]


def spec(folder: Path, **node: Any) -> Spec:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(node, allow_unicode=True), encoding="utf-8")
    return Spec.read(path)


def shown(folder: Path, **node: Any) -> Table:
    """The table of two methods with ten metrics as a file asks for it."""
    wanted = spec(folder, **node)
    table = tabulate(
        [ten("a"), ten("b", 1.2)],
        wanted.preset,
        rows=[one.row for one in wanted.rows],
        columns=[one.column for one in wanted.columns],
        baseline=wanted.baseline,
    )
    return arranged(table, wanted)


def test_columns_stand_in_the_order_of_the_file_under_their_new_names(tmp_path: Path):
    table = shown(
        tmp_path,
        preset="all",
        columns=["64 px recall", {"column": "64 px FD-EffLite0", "name": "FD"}, "32 px sample *"],
    )
    keys = [column.key for column in table.columns]
    assert keys == ["64 px recall", "64 px FD", "32 px sample img/s", "32 px sample MiB"]
    assert "names: FD is FD-EffLite0" in table.notes
    assert not any("precision" in note for note in table.notes if " px, " in note)


def test_rows_stand_in_the_order_of_the_file_and_the_best_is_of_those_shown(tmp_path: Path):
    table = shown(tmp_path, rows=[{"row": "b", "name": "Ours"}, "a"])
    assert list(table.rows) == ["Ours", "a"]
    column = table.column("64 px", "FD-EffLite0")
    assert (table.place(column, "a"), table.place(column, "Ours")) == (1, 0)
    alone = shown(tmp_path, rows=["b"])
    assert list(alone.rows) == ["b"] and not alone.places.get(column)


def test_digits_are_those_of_the_file_and_what_reads_the_same_is_equal(tmp_path: Path):
    def table(digits: int) -> Table:
        wanted = spec(tmp_path, columns=[{"column": "64 px FD-EffLite0", "digits": digits}])
        runs = [ten("a", spread=1e-4), ten("b", 1.002, spread=1e-4), ten("c", 2.0, spread=1e-4)]
        return arranged(tabulate(runs), wanted)

    fine, coarse = table(3), table(0)
    assert "98.000 ± 0.010" in FORMATS["markdown"](fine)
    assert "**98 ± 0**" in FORMATS["markdown"](coarse)
    (column,) = fine.columns
    assert [fine.place(column, row) for row in "abc"] == [1, 2, 0]
    (column,) = coarse.columns
    assert [coarse.place(column, row) for row in "abc"] == [1, 1, 2]


def test_a_caption_of_ones_own_moves_the_conditions_into_the_notes(tmp_path: Path):
    table = shown(tmp_path, caption="Ours.")
    assert table.caption == "Ours." and table.notes[0].startswith("critters, budget default,")


def test_a_transposed_table_has_the_cells_of_the_other_one(tmp_path: Path):
    plain, turned = (shown(tmp_path, transpose=turn) for turn in (False, True))
    cells = [
        [re.sub(r"[*\\]", "", cell).strip() for cell in line.split("|")[1:-1]]
        for table in (plain, turned)
        for line in FORMATS["markdown"](table).splitlines()
        if line.startswith("|") and "---" not in line
    ]
    split = len(plain.rows) + 1
    assert list(map(list, zip(*cells[:split], strict=True))) == cells[split:]
    assert FORMATS["csv"](turned).startswith("column,a,b\ndata,critters,critters\n")
    assert re.search(r"│ a +│ +98 ± 1", FORMATS["terminal"](turned))
    source = FORMATS["latex"](turned)
    assert r"\begin{tabular}{lrr}" in source and r"\multicolumn{3}{l}{\emph{64 px}}" in source


@pytest.mark.parametrize("transpose", [False, True])
def test_no_column_is_lost_on_a_narrow_line(tmp_path: Path, transpose: bool):
    table = shown(tmp_path, preset="all", width=240, transpose=transpose)
    parts = panels(table)
    assert len(parts) > 1 or transpose
    assert [one for part in parts for one in part] == (
        list(table.rows) if transpose else table.columns
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"colums": []}, "has no option 'colums', did you mean 'columns'"),
        ({"columns": [{"column": "x", "digit": 2}]}, "no option 'digit', did you mean 'digits'"),
        ({"columns": [{"name": "x"}]}, "does not say which column: add column: NAME"),
        ({"columns": "x"}, "columns takes a list"),
        ({"columns": [{"column": "x", "digits": -1}]}, "digits takes a whole number"),
        ({"notes": "below"}, "notes"),
        ({"width": 0}, "width takes a number above 0"),
        ({"label": "a}b"}, "label 'a}b' is no label of LaTeX"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_what_is_wrong(tmp_path: Path, node, message):
    with pytest.raises(ValueError, match=r"spec\.yaml: ") as error:
        spec(tmp_path, **node)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"columns": ["64 px FD-EffLite1"]}, "did you mean '64 px FD-EffLite0'"),
        ({"rows": ["c"]}, "there is no row 'c', rows: a, b"),
        ({"rows": ["a", "c*"]}, "there is no row 'c*', rows: a, b"),
        ({"columns": ["* recall", "* MIND"]}, "there is no column '* recall'"),
        ({"rows": [{"row": "a", "name": "b"}, "b"]}, "two rows would have one name"),
        ({"baseline": "c"}, "no row is the baseline 'c'"),
        ({"columns": [{"column": "64 px *", "name": "x"}]}, "two columns would have one heading"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(tmp_path: Path, node, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shown(tmp_path, **node)


def test_a_pattern_that_finds_no_column_is_left_out_and_said(tmp_path: Path, caplog):
    table = shown(tmp_path, columns=["* FD-EffLite0", "* attribute accuracy"])
    assert {column.what for column in table.columns} == {"FD-EffLite0"}
    assert "left out: there is no column '* attribute accuracy'" in caplog.text


def test_notes_stand_beneath_in_a_footnote_or_in_an_appendix(tmp_path: Path):
    told = "efficientnet"
    of = {where: shown(tmp_path, notes=where, caption="C.", label="tab:x")
          for where in ("beneath", "footnote", "appendix")}  # fmt: skip
    latex = {where: FORMATS["latex"](table) for where, table in of.items()}
    body = {where: text.split(r"\end{table}") for where, text in latex.items()}
    assert told in body["beneath"][0].replace("\\_", "_")
    assert told not in body["footnote"][0] and r"\footnotetext" in body["footnote"][1]
    assert told not in latex["appendix"] and r"Appendix~\ref{app:tab:x}" in latex["appendix"]
    markdown = FORMATS["markdown"](of["footnote"])
    assert markdown.startswith("C.[^tab:x]\n") and "\n[^tab:x]: critters" in markdown


def test_the_command_writes_the_appendix_beside_the_table(tmp_path: Path, capsys):
    for i, one in enumerate(five()):
        one.write(tmp_path / "runs" / str(i))
    path = tmp_path / "s.yaml"
    path.write_text("notes: appendix\nrows: ['mdm*', end_to_end]\nlabel: tab:x\n")
    words = [str(tmp_path / "runs"), "--spec", str(path), "--format"]
    main([*words, "latex", "-o", str(tmp_path / "t.tex")])
    assert r"\label{app:tab:x}" in (tmp_path / "t-appendix.tex").read_text()
    assert r"\label{tab:x}" in (tmp_path / "t.tex").read_text()
    main([*words, "markdown"])
    assert "\n### Conditions of tab:x\n" in capsys.readouterr().out
    main([*words, "terminal"])
    assert "mdm (2 seeds)" in capsys.readouterr().out


def test_the_example_of_four_columns_fits_one_column_of_a_paper(tmp_path: Path):
    """What it needs is compiled where there is LaTeX; nothing is shrunk, nothing sticks out."""
    wanted = Spec.read(ROOT / "examples" / "table.yaml")
    table = arranged(
        tabulate(
            readable(ROOT / "results" / "study" / "critters-32px-4e13")[0],
            rows=[one.row for one in wanted.rows],
            columns=[one.column for one in wanted.columns],
            baseline=wanted.baseline,
        ),
        wanted,
    )
    assert len(table.columns) == 4 and table.width == LINE
    source = FORMATS["latex"](table)
    assert source.count(r"\begin{tabular}") == 1 and "resizebox" not in source
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}{source}\\end{{document}}")
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "t.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "Overfull \\hbox" not in (tmp_path / "t.log").read_text(errors="replace")


def test_a_spec_that_does_not_exist_is_refused_with_an_example(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.yaml does not exist: give a file such as ex"):
        Spec.read(tmp_path / "no.yaml")
