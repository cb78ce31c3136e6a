"""Golden files are made again by `python -m tests.benchmarks.test_tables`; read their diff."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.tables import csv, find, frame, latex, main, markdown, rich_table
from tests.benchmarks.rows import cost, five, quality, record

GOLDEN = {
    "five.md": lambda: markdown(frame(five())),
    "five.tex": lambda: latex(frame(five())),
}
FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", GOLDEN)
def test_the_table_of_five_records_is_the_golden_one(name: str):
    assert GOLDEN[name]().encode() == (FOLDER / name).read_bytes()


@settings(max_examples=12)
@given(order=st.permutations(range(5)))
def test_a_table_has_one_row_a_method_whatever_the_order_of_records(order):
    records = [five()[i] for i in order]
    table = frame(records)
    assert list(table.index) == list(frame(five()).index)
    assert len(table) == 5 + 2
    assert markdown(table) == markdown(frame(five()))


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_copies_of_a_record_are_rows_with_names_of_their_own(copies: int):
    table = frame([five()[0]] * copies)
    assert len(set(table.index)) == copies + 2


@pytest.mark.parametrize(
    "changed",
    [{"n": 256}, {"n_reference": 999}, {"identity": "efficientnet_lite0@57938833:bilinear"}],
)
def test_other_metric_identities_are_refused_by_name_with_a_way_out(changed):
    one = record("a", quality=(quality(64, "native", 1.0),))
    other = record("b", quality=(quality(64, "native", 2.0, **changed),))
    with pytest.raises(ValueError, match="would mix .* images .a. with .* images .b.: leave one"):
        frame([one, other])


def test_a_scale_of_another_identity_is_refused():
    scale = {"real": [quality(64, "pooled", 10.0, n=100)]}
    one = record("a", quality=(quality(64, "native", 1.0),), scale=scale)
    with pytest.raises(ValueError, match="real images"):
        frame([one])


def test_data_sets_do_not_share_a_table():
    with pytest.raises(ValueError, match="critters, elpv cannot share a table.*data=critters"):
        frame([record("a"), record("b", data="elpv")])


@pytest.mark.parametrize("changed", [{"device": "cuda"}, {"dtype": "bfloat16"}])
def test_devices_and_dtypes_do_not_share_a_cost_column(changed):
    one, other = cost(64, 1.0, 1.0), cost(64, 2.0, 2.0, **changed)
    with pytest.raises(ValueError, match="mix numbers from cpu .Abacus 1., float32 .a. with"):
        frame([record("a", cost=(one,)), record("b", cost=(other,))])


def test_two_models_of_processor_do_not_share_a_cost_column():
    one = record("a", cost=(cost(64, 1.0, 1.0),))
    other = replace(one, name="b", provenance={"machine": {"cpu": "Abacus 2"}})
    with pytest.raises(ValueError, match=r"Abacus 1.*Abacus 2"):
        frame([one, other])


def test_parameters_and_flops_may_come_from_any_device():
    timed = dict.fromkeys(key for key in cost(64, 1, 1) if "_s" in key or "memory" in key)
    rows = [
        record(device, cost=(cost(64, None, None, device=device) | timed,))
        for device in ("cpu", "cuda")
    ]
    table = frame(rows, "cost")
    assert list(table[("64 px", "params M")]) == [2.345678, 2.345678]


def test_the_best_is_bold_ties_within_rounding_share_it_and_the_scale_never_is():
    values = {"a": 98.41, "b": 98.44, "c": 98.6}
    rows = [record(name, quality=(quality(64, "native", v),)) for name, v in values.items()]
    lines = markdown(frame(rows)).splitlines()
    strong = [line.split("|")[1].strip() for line in lines if "**" in line]
    assert strong == ["a", "b"]


def test_of_a_rate_the_highest_is_bold_and_of_a_memory_the_lowest():
    low = cost(64, 1.0, 1.0, train_memory_mib=1.0)
    high = cost(64, 2.0, 2.0, train_memory_mib=2.0)
    text = markdown(frame([record("low", cost=(low,)), record("high", cost=(high,))]))
    cells = {line.split("|")[1].strip(): line for line in text.splitlines() if "**" in line}
    assert re.findall(r"\*\*(\d+)\*\*", cells["low"]) == ["1", "512"]
    assert re.findall(r"\*\*(\d+)\*\*", cells["high"]) == ["2", "2", "512"]


def test_a_single_method_is_not_its_own_best():
    assert "**" not in markdown(frame(five()[:1]))


def test_what_was_not_measured_is_a_dash_and_never_zero():
    table = frame([record("a", quality=(quality(64, "native", None), quality(32, "native", 3.5)))])
    assert "nan" not in markdown(table).lower()
    assert " 0 " not in markdown(table)
    only = frame([record("a", resolutions=(64,))])
    assert only.shape == (1, 0)
    assert markdown(only)
    assert latex(only)


def test_a_failed_run_is_a_row_with_its_reason():
    table = frame(five())
    assert table.loc["latent", ("", "failure")] == "out of memory at batch_size 32: lower it"
    assert table.loc["latent"].drop([("", "failure")]).isna().all()


def test_records_of_one_name_are_told_apart_by_what_differs(tmp_path: Path):
    table = frame([replace(five()[0], config={"seed": i, "steps": 50}) for i in range(3)])
    assert list(table.index[:3]) == [f"mdm (seed={i})" for i in range(3)]
    for name in ("first", "second"):
        replace(five()[0], training={"name": name}).write(tmp_path / name)
    assert list(frame(find([tmp_path])).index[:2]) == ["mdm (first)", "mdm (second)"]


def test_budgets_that_differ_get_a_column():
    table = frame([record("a", budget="smoke"), record("b")])
    assert list(table[("", "budget")]) == ["smoke", "default"]


def test_a_record_changed_by_hand_is_marked_in_its_row_and_beneath(tmp_path: Path):
    path = five()[2].write(tmp_path)
    path.write_text(path.read_text().replace("120.5", "1.5"))
    text = markdown(frame(find([tmp_path])))
    assert "| end_to_end (edited) |" in text
    assert "- changed by hand since they were measured: end_to_end (edited)" in text


def test_the_newest_record_gives_the_scale():
    old = record("a", quality=(quality(64, "native", 1.0),))
    scale = {"real": [quality(64, "pooled", 12.5)]}
    new = replace(old, name="b", scale=scale, provenance={"ended": "2026-02-01T00:00:00+00:00"})
    for records in ([old, new], [new, old]):
        value = frame(records).loc["real images", ("64 px", "FD-EffLite0 ↓")]
        assert value == 12.5


def test_csv_keeps_every_digit():
    third = record("a", quality=(quality(64, "native", 100 / 3),))
    read = pd.read_csv(io.StringIO(csv(frame([third]))), dtype=str)
    assert float(read["64 px FD-EffLite0"][0]) == 100 / 3
    assert list(read["data"]) == ["critters"] * 3


@pytest.mark.parametrize("preset", ["main", "cost", "all"])
def test_latex_compiles_or_at_least_has_the_form_of_what_does(tmp_path: Path, preset: str):
    source = latex(frame(five(), preset))
    body = source[source.index(r"\toprule") : source.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if re.search(r"[^\\]&|^ &", line)]
    width = len(re.search(r"\\begin{tabular}{(.*)}", source)[1].replace("p{4cm}", "p"))
    for row in rows:
        spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", row)]
        assert len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans) - len(spans) == width
        assert row.endswith(r"\\")
    assert len(rows) == 2 + len(frame(five(), preset))
    assert not re.search(
        r"(?<!\\)[%_#]", source.partition("\n")[2].replace("{%\n", "").replace("pt}%", "")
    )
    assert source.isascii()
    assert "multirow" not in source
    for opening, closing in (("{", "}"), (r"\begin{", r"\end{")):
        bare = source.replace(r"\{", "").replace(r"\}", "")
        assert bare.count(opening) == bare.count(closing)
    if shutil.which("pdflatex"):
        document = (
            r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}%s\end{document}"
        )
        (tmp_path / "t.tex").write_text(document % source)
        command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "t.tex"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_names_reach_latex_escaped():
    source = latex(frame([record(r"a_b%c&d#e$f{g}h~i^j\k"), record("b")]))
    assert r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k" in source


def test_the_terminal_shows_every_number_of_the_table():
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(rich_table(frame(five())))
    text = console.export_text()
    assert all(word in text for word in ("98.4", "mdm (seed=1)", "Gaussian", "out of memory"))


def test_the_command_prints_writes_filters_and_refuses(tmp_path: Path, capsys):
    for i, one in enumerate(five()):
        one.write(tmp_path / "runs" / str(i))
    replace(five()[0], data="elpv").write(tmp_path / "runs" / "other")
    runs = str(tmp_path / "runs")
    assert main([runs]) == 1
    assert capsys.readouterr().err.startswith("error: data sets critters, elpv cannot share")
    assert main([runs, runs, "--where", "data=critters"]) == 0
    assert capsys.readouterr().out == (FOLDER / "five.md").read_text()
    assert main([runs, "--where", "data=critters", "--format", "latex", "-o", f"{runs}/t.tex"]) == 0
    assert Path(runs, "t.tex").read_bytes() == (FOLDER / "five.tex").read_bytes()
    for wrong in ([str(tmp_path / "none")], [runs, "--where", "name=x"], [runs, "--where", "x=y"]):
        assert main(wrong) == 1
        assert re.fullmatch(r"error: .*: .*\n", capsys.readouterr().err)


if __name__ == "__main__":
    os.makedirs(FOLDER, exist_ok=True)
    for golden, made in GOLDEN.items():
        (FOLDER / golden).write_text(made(), encoding="utf-8")
