"""Golden files are made again by `python -m tests.benchmarks.test_tables`; read their diff."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.tables import published as papers
from benchmarks.tables.__main__ import main
from benchmarks.tables.best import interval, student
from benchmarks.tables.costs import expected_iqr
from benchmarks.tables.formats.csv import csv
from benchmarks.tables.formats.latex import latex
from benchmarks.tables.formats.markdown import markdown
from benchmarks.tables.formats.terminal import rich_table, terminal
from benchmarks.tables.layout import Table
from benchmarks.tables.mixing import Company
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.table import tabulate
from hierdiff.results.cost import BatchTrial, Cost, CostPart
from hierdiff.results.folders import records
from hierdiff.results.record import SCHEMA, Record
from tests.benchmarks.rows import (
    TEN,
    cells,
    cost,
    five,
    identity,
    marks,
    of_schema,
    quality,
    record,
    ten,
    training,
)


def six() -> list[Record]:
    """Three that seeds cannot tell apart, and three that they can."""
    factors = {"a": 1.0, "b": 1.005, "c": 0.995, "d": 1.05, "e": 1.2, "f": 1.3}
    return [ten(name, factor) for name, factor in factors.items()]


def ablation() -> list[Record]:
    """Width, rule and a part that one of them lacks; the folder is no option."""
    options: tuple[dict[str, Any], ...] = (
        {"denoiser": {"name": "unet", "width": 64}, "sampler": {"rule": {"name": "ddim"}}},
        {"denoiser": {"name": "unet", "width": 32}, "sampler": {"rule": {"name": "ddim"}}},
        {
            "denoiser": {"name": "unet", "width": 64},
            "sampler": {"rule": {"name": "heun"}},
            "ema": 8,
        },
    )
    return [
        ten("mdm", 1 + i / 10, config={**node, "seed": i, "folder": f"runs/{i}"})
        for i, node in enumerate(options)
    ]


def others(*conditions: str) -> list[papers.Published]:
    return papers.select_rows(
        papers.read_rows(), conditions or ("method=ADM,CDM,DiT-XL/2", "resolution=256")
    )


def printed(records: Sequence[Record], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(rich_table(tabulate(records, "all")))
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines())


GOLDEN = {
    "five.md": lambda: markdown(tabulate(five())),
    "five.tex": lambda: latex(tabulate(five())),
    "five_cost.md": lambda: markdown(tabulate(five(), "cost")),
    "five_all.csv": lambda: csv(tabulate(five(), "all", others())),
    "ablation.md": lambda: markdown(tabulate(ablation(), "ablation")),
    "published.md": lambda: markdown(tabulate(six(), "main", others())),
    "published.tex": lambda: latex(tabulate(six(), "cost", others())),
    "per_resolution.tex": lambda: latex(tabulate(six(), "per_resolution")),
    "all.txt": lambda: printed(six(), 160),
}
FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", GOLDEN)
def test_a_table_is_the_golden_one(name: str):
    assert GOLDEN[name]().encode() == (FOLDER / name).read_bytes()


@settings(max_examples=12)
@given(order=st.permutations(range(5)))
def test_a_table_has_one_row_a_method_whatever_the_order_of_records(order):
    records = [five()[i] for i in order]
    table = tabulate(records)
    assert list(cells(table).index) == list(cells(tabulate(five())).index)
    assert len(table.rows) == 4 + 2
    assert markdown(table) == markdown(tabulate(five()))


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_copies_of_a_record_are_rows_with_names_of_their_own(copies: int):
    table = tabulate([five()[0]] * copies)
    assert len(set(cells(table).index)) == copies + 2


@pytest.mark.parametrize(
    "changed",
    [{"n": 256}, {"n_reference": 999}, {"identity": identity(64, resize="bilinear-224")}],
)
def test_other_metric_identities_are_refused_by_name_with_a_way_out(changed):
    one = record("a", quality=(quality(64, "native", 1.0),))
    other = record("b", quality=(quality(64, "native", 2.0, **changed),))
    with pytest.raises(ValueError, match="would mix .* images .a. with .* images .b.: leave one"):
        tabulate([one, other])


@pytest.mark.parametrize(
    "changed",
    [
        {"n": 600},
        {"identity": identity(64, resize="bilinear-224", n=100)},
        {"identity": identity(32)},
    ],
)
def test_a_scale_of_another_identity_is_refused(changed):
    scale = {"real": [quality(64, "pooled", 10.0, **{"n": 100, **changed})]}
    one = record("a", quality=(quality(64, "native", 1.0),), scale=scale)
    with pytest.raises(ValueError, match="real images"):
        tabulate([one])


def test_real_images_that_are_fewer_stand_beside_the_samples_and_a_note_says_so():
    """Fifty thousand samples of data that has 100 test images; the Gaussian is as many."""
    few = identity(64, n=100, estimator="frechet-factor")
    scale = {
        "real": [quality(64, "pooled", 10.0, n=100, identity=few)],
        "gaussian": [quality(64, "pooled", 90.0)],
    }
    table = tabulate([record("a", quality=(quality(64, "native", 1.0),), scale=scale)])
    (column,) = [column for column in cells(table).columns if column[1].startswith("FD")]
    assert cells(table)[column].tolist() == [1.0, 10.0, 90.0]
    note = "real images: only 100, the whole test part, against 512 generated ones"
    assert note in table.notes
    alone = tabulate([record("a", quality=(quality(64, "native", 1.0),))])
    assert not [note for note in alone.notes if note.startswith("real images")]
    with pytest.raises(ValueError, match="Gaussian"):
        scale["gaussian"] = [quality(64, "pooled", 90.0, n=100)]
        tabulate([record("a", quality=(quality(64, "native", 1.0),), scale=scale)])


def test_images_of_unknown_conditions_stand_beside_any_and_let_no_others_mix():
    def of(name: str, rows: str | None) -> Record:
        row = quality(64, "native", 1.0, identity=identity(64, rows=rows))
        return record(name, quality=(row,), scale={})

    external, one, other = of("a", None), of("b", "rows=permuted(119)"), of("c", "rows=permuted(9)")
    for run in (one, other):
        assert len(tabulate([external, run]).rows) == 2
        Company([run]).check(external)
    with pytest.raises(ValueError, match="would mix .*permuted.119.* with .*permuted.9."):
        tabulate([external, one, other])
    with pytest.raises(ValueError, match="would mix"):
        Company([external, one]).check(other)


def test_data_sets_do_not_share_a_table():
    with pytest.raises(ValueError, match="critters, elpv cannot share a table.*data=critters"):
        tabulate([record("a"), record("b", data="elpv")])


@pytest.mark.parametrize("changed", [{"device": "cuda"}, {"dtype": "bfloat16"}])
def test_devices_and_dtypes_do_not_share_a_cost_column(changed):
    one, other = cost(64, 1.0, 1.0), cost(64, 2.0, 2.0, **changed)
    with pytest.raises(ValueError, match="mix numbers from cpu .Abacus 1., float32 .a. with"):
        tabulate([record("a", cost=(one,)), record("b", cost=(other,))])


def test_two_models_of_processor_do_not_share_a_cost_column():
    one = record("a", cost=(cost(64, 1.0, 1.0),))
    other = replace(one, name="b", provenance={"machine": {"cpu": "Abacus 2"}})
    with pytest.raises(ValueError, match=r"Abacus 1.*Abacus 2"):
        tabulate([one, other])


def test_parameters_and_flops_may_come_from_any_device():
    timed = {f.name: None for f in fields(Cost) if f.name.endswith(("_s", "_mib"))}
    rows = [
        record(device, cost=(cost(64, None, None, **{"device": device, **timed}),))
        for device in ("cpu", "cuda")
    ]
    table = tabulate(rows, "cost")
    assert list(cells(table)[("64 px", "params M")]) == [2.345678, 2.345678]


def test_the_best_is_bold_ties_as_printed_share_it_and_the_scale_never_is():
    """98.412 and 98.414 are apart by their many seeds, and read the same."""
    seeds = {"values": (1.0,) * 10_000, "spread": 0.05}
    values = {"a": 98.412, "b": 98.414, "c": 98.6}
    rows = [
        record(name, quality=(quality(64, "native", v, **seeds),)) for name, v in values.items()
    ]
    lines = markdown(tabulate(rows)).splitlines()
    strong = [line.split("|")[1].strip() for line in lines if "**" in line]
    assert strong == ["a", "b"]


def test_of_a_rate_the_highest_is_bold_and_of_a_memory_the_lowest():
    low = timed(1.0, 0.1, train_memory_mib=1.0)
    high = timed(2.0, 0.1, train_memory_mib=2.0)
    text = markdown(tabulate([record("low", cost=(low,)), record("high", cost=(high,))]))
    cells = {line.split("|")[1].strip(): line for line in text.splitlines() if "**" in line}
    assert re.findall(r"\*\*(\d+)\*\*", cells["low"]) == ["1"]
    assert re.findall(r"\*\*(\d+)\*\*", cells["high"]) == ["2"]


def test_a_single_method_is_not_its_own_best():
    assert "**" not in markdown(tabulate(five()[:1]))


def rows_of(**values: float | tuple[float, float, int]) -> Table:
    """A table of one metric: values, or value, standard deviation and number of seeds."""
    told = {name: v if isinstance(v, tuple) else (v, None, 1) for name, v in values.items()}
    return tabulate(
        [
            record(name, quality=(quality(64, "native", v, spread=s, values=(v,) * n),), scale={})
            for name, (v, s, n) in told.items()
        ]
    )


def test_the_best_is_bold_only_beyond_the_interval_of_the_difference():
    t, s = 2.776445, 1.0  # of 4 degrees of freedom, which Welch's are for equal spreads
    edge = t * math.hypot(s, s) / math.sqrt(3)
    assert student(4) == pytest.approx(t, rel=1e-6)
    inside = rows_of(a=(100.0, s, 3), b=(100.0 + 0.99 * edge, s, 3))
    beyond = rows_of(a=(100.0, s, 3), b=(100.0 + 1.01 * edge, s, 3))
    assert (ranks(inside), ranks(beyond)) == ({"a": 0, "b": 0}, {"a": 1, "b": 0})


def test_degrees_of_freedom_are_those_of_welch_and_satterthwaite():
    """Of one spread that is nearly all of it the freedom is its own."""
    assert interval([(1.0, 2), (1e-9, 1000)]) == pytest.approx(student(2), rel=1e-6)
    assert interval([(0.5, 2), (0.5, 2)]) == pytest.approx(student(4))
    assert interval([]) == math.inf


def test_more_seeds_tell_methods_apart_that_few_do_not():
    few, many = (rows_of(a=(100.0, 2.0, n), b=(103.0, 2.0, n)) for n in (2, 20))
    assert (ranks(few), ranks(many)) == ({"a": 0, "b": 0}, {"a": 1, "b": 0})


def test_who_is_not_apart_from_the_best_shares_its_place():
    table = rows_of(a=(100.0, 1.0, 9), b=(100.4, 1.0, 9), c=(140.0, 1.0, 9))
    assert ranks(table) == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize(
    "unknown",
    [
        {"values": (1.0,), "spread": None},  # one repeat
        {"spread": None},
        {"values": (1.0, 1.0), "spread": 0.0},  # repeats that agree in every digit
        {"values": (1.0, 1.0), "spread": 1e-16},
        {"values": (1.0, 2.0), "spread": 0.1, "between": 0.1, "within": None, "draws": 1},
    ],
)
@pytest.mark.parametrize("value", [0.0, 1e-3, 1.0, 50.0, 1e4])
def test_nobody_is_marked_in_a_column_where_a_spread_is_unknown(unknown, value):
    """Neither the row whose spread it is, better or worse than the rest, nor another."""
    known = {"values": (1.0, 1.0), "spread": 0.01}
    rows = [("a", 10.0, known), ("b", 20.0, known), ("c", value, unknown)]
    table = tabulate(
        [record(name, quality=(quality(64, "native", v, **more),)) for name, v, more in rows]
    )
    assert marks(table).to_numpy().sum() == 0 and "**" not in markdown(table)
    assert ranks(tabulate([record(n, quality=(quality(64, "native", v, **known),))
                        for n, v, _ in rows[:2]])) == {"a": 1, "b": 0}  # fmt: skip


def ranks(table: pd.DataFrame) -> dict[str, int]:
    place = marks(table)[("64 px", "FD-EffLite0 ↓")]
    return {row: int(place[row]) for row in cells(table).index if row not in table.scale}


def test_the_second_of_three_is_underlined_and_shared_as_the_best_is():
    def sure(**values: float) -> Table:
        return rows_of(**{name: (value, 0.001, 5) for name, value in values.items()})

    assert ranks(sure(a=3.0, b=2.0, c=1.0)) == {"a": 0, "b": 2, "c": 1}
    assert ranks(sure(a=3.0, b=2.0)) == {"a": 0, "b": 1}
    assert ranks(sure(a=1.0, b=1.0, c=2.0, d=2.0, e=3.0)) == dict(a=1, b=1, c=2, d=2, e=0)
    assert ranks(sure(a=1.0, b=1.0)) == dict(a=0, b=0)  # nothing is apart
    table = latex(sure(a=3.0, b=2.0, c=1.5))
    assert (r"\textbf{1.500}" in table, r"\underline{2.000}" in table) == (True, True)


def test_equal_as_printed_is_equal_whether_or_not_a_number_is_whole():
    assert ranks(rows_of(a=(98.0, 0.5, 9999), b=(98.04, 0.5, 9999), c=(99.0, 0.5, 9999))) == {
        "a": 1, "b": 1, "c": 2,
    }  # fmt: skip


def test_the_side_that_a_row_says_is_better_is_marked():
    def arrows(**changed: Any) -> list[str]:
        rows = [
            record(
                name,
                quality=(quality(64, "native", value, values=(1.0,) * 3, spread=0.01, **changed),),
                scale={},
            )
            for name, value in (("a", 1.0), ("b", 2.0))
        ]
        table = tabulate(rows)
        bold = marks(table).iloc[:, 0]
        return [cells(table).columns[0][1], *bold.index[bold == 1]]

    assert arrows(metric="new", better="high") == ["new ↑", "b"]
    assert arrows(metric="new", better="low") == ["new ↓", "a"]
    assert arrows(metric="new", better=None) == ["new"]
    assert arrows(metric="FD-EffLite0") == ["FD-EffLite0 ↓", "a"]


@pytest.mark.parametrize(
    ("value", "spread", "cell"),
    [
        (98.41, 0.456, "98.4 ± 0.5"),
        (98.0, 1.0, "98 ± 1"),
        (373.1234, 0.003, "373.123 ± 0.003"),
        (0.0067, 0.0001, "0.0067 ± 0.0001"),
        (12345.0, 234.0, "12300 ± 200"),
        (0.0049, 0.0, "0.00490"),  # once 0.00 ± 0.00
    ],
)
def test_every_format_has_the_digits_of_the_spread(value: float, spread: float, cell: str):
    table = rows_of(a=(value, spread, 3))
    assert f"| {cell} |" in re.sub(" +", " ", markdown(table))
    assert cell in printed_table(table)
    number, _, error = cell.partition(" ± ")
    assert number in latex(table) and (not error or rf"$\pm$\,{error}" in latex(table))
    read = pd.read_csv(io.StringIO(csv(table)))  # which keeps all of them
    assert read["64 px FD-EffLite0"][0] == value and read["64 px FD-EffLite0 sd"][0] == spread


def printed_table(table: pd.DataFrame) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(rich_table(table))
    return console.export_text()


def test_training_seeds_are_one_row_with_mean_and_deviation_and_their_number():
    values = (98.0, 101.0, 104.0)
    seeds = [
        record("mdm", quality=(quality(64, "native", v),), scale={}, config={"seed": i})
        for i, v in enumerate(values)
    ]
    table = tabulate(seeds)
    assert list(cells(table).index) == ["mdm (3 seeds)"]
    assert "| mdm (3 seeds) | 101 ± 3 |" in re.sub(" +", " ", markdown(table))
    assert "A row with a number of seeds is the mean over that many trainings" in table.caption
    assert "Each row is one training." in tabulate(seeds[:1]).caption


def test_seeds_measured_under_two_identities_are_refused_and_not_averaged():
    rows = [
        record("mdm", quality=(quality(64, "native", 1.0, n=n),), config={"seed": n}, scale={})
        for n in (256, 512)
    ]
    with pytest.raises(ValueError, match="would mix"):
        tabulate(rows)


def test_what_was_not_measured_is_a_dash_and_never_zero():
    table = tabulate(
        [record("a", quality=(quality(64, "native", None), quality(32, "native", 3.5)))]
    )
    assert "nan" not in markdown(table).lower()
    assert " 0 " not in markdown(table)
    only = tabulate([record("a", resolutions=(64,))])
    assert (only.rows, only.columns) == (["a"], [])
    assert markdown(only)
    assert latex(only)


def test_a_failed_run_is_a_row_with_its_reason():
    table = tabulate(five())
    assert cells(table).loc["latent", ("", "failure")] == "out of memory at batch_size 32: lower it"
    assert cells(table).loc["latent"].drop([("", "failure")]).isna().all()


def test_records_of_one_name_are_told_apart_by_what_differs(tmp_path: Path):
    table = tabulate([replace(five()[0], config={"steps": i, "width": 50}) for i in range(3)])
    assert list(cells(table).index[:3]) == [f"mdm (steps={i})" for i in range(3)]
    for name in ("first", "second"):
        replace(five()[0], training={"name": name}).write(tmp_path / name)
    assert list(cells(tabulate(records(tmp_path))).index[:2]) == ["mdm (first)", "mdm (second)"]


def test_a_failed_seed_stays_a_row_beside_the_others():
    failed = record("mdm", failure="out of memory", config={"seed": 2}, resolutions=(64,))
    table = tabulate([*five()[:2], failed])
    assert list(cells(table).index[:2]) == [
        "mdm (resolutions=64)",
        "mdm (resolutions=64x32, 2 seeds)",
    ]
    assert cells(table)[("", "failure")].iloc[0] == "out of memory"


def test_budgets_that_differ_get_a_column():
    table = tabulate([record("a", budget="smoke"), record("b")])
    assert list(cells(table)[("", "budget")]) == ["smoke", "default"]


def test_the_caption_says_which_budget_was_matched_and_the_columns_what_was_spent():
    table = tabulate(five())
    assert "matched by flops (1.50 PFLOPs)." in table.caption
    assert cells(table).loc["end_to_end", ("spent", "images")] == 24000
    assert cells(table).loc["end_to_end", ("spent", "PFLOPs")] == pytest.approx(1.25)
    planned = cells(tabulate(five(), "cost")).loc["end_to_end"]
    assert planned[("planned", "images")] == 22400
    old = record("a", training={"images": 320, "seconds": 2.0, "steps": 10, "notes": []})
    assert cells(tabulate([old]))[("spent", "images")].iloc[0] == 320


def test_the_caption_says_what_read_the_captions_where_all_rows_have_some():
    def made(name, text):
        one = record(name)
        return replace(one, config={**one.config, "data": {"name": "critters", "text": text}})

    rows = [made("mdm", {"name": "minilm"}), made("r3gan", {"name": "minilm", "length": 40})]
    assert ", captions read by minilm, budget " in tabulate(rows).caption
    assert "captions read" not in tabulate([*rows, made("latent", None)]).caption


def test_a_pretrained_stage_is_marked_and_a_trained_one_counted():
    def stages(pretrained: bool) -> dict[str, Any]:
        own = {"name": "autoencoder", "flops": 1e15, "images": 10, "pretrained": pretrained}
        rest = {"name": "diffusion", "flops": 3e15, "images": 30, "pretrained": False}
        return training(40, 4e15, stages=[own, rest])

    marked = tabulate([record("x", training=stages(True))], "cost")
    assert list(cells(marked).index) == ["x ‡"]
    assert "‡ trained beforehand, outside the budget: x (autoencoder)" in marked.notes
    counted = tabulate([record("x", training=stages(False))], "cost")
    assert "x, PFLOPs by stage: autoencoder 25 %, diffusion 75 %" in counted.notes
    assert not any("pretrained" in note for note in counted.notes)


def test_a_record_changed_by_hand_is_marked_in_its_row_and_beneath(tmp_path: Path):
    path = five()[2].write(tmp_path)
    path.write_text(path.read_text().replace("120.5", "1.5"))
    text = markdown(tabulate(records(tmp_path)))
    assert "| end_to_end (edited) |" in text
    assert "- records edited by hand after they were measured: end_to_end (edited)" in text


def test_memory_that_ran_out_is_a_cell_and_its_reason_a_note():
    out = {"train_failure": "out of memory at batch 8", "train_memory_mib": None}
    broken = {"sample_failure": "error: no luck", "latency_s": None, "sample_memory_mib": None}
    found = [
        record("a", cost=(cost(64, 40.0, 5.0),)),
        record("b", cost=(cost(64, None, 4.0, **out),)),
        record("c", cost=(cost(64, 30.0, None, **broken),)),
    ]
    table = tabulate(found, "cost")
    text = markdown(table)
    head = next(line for line in text.splitlines() if "train img/s" in line).split(" | ")
    row = {line.split(" | ")[0]: line.split(" | ") for line in text.splitlines() if "|" in line}
    for label, name, word in (
        ("| b", "64 px train img/s ↑", "OOM"),
        ("| b", "64 px train MiB ↓", "OOM"),
        ("| c", "64 px sample img/s ↑", "failed"),
        ("| c", "64 px latency ms ↓", "failed"),
    ):
        assert (
            row[next(key for key in row if key.startswith(label))][
                [h.strip() for h in head].index(name)
            ].strip()
            == word
        )
    assert "- b at 64 px, train: out of memory at batch 8" in text
    assert "- c at 64 px, sample: error: no luck" in text
    assert "OOM" in latex(table) and "64 px train img/s failure" in csv(table)
    assert math.isnan(cells(table).loc["b", ("64 px", "train img/s ↑")])


def timed(rate: float, iqr: float, **changed: Any) -> Cost:
    return cost(64, rate, 5.0, train_batch=32, train_iqr_s=iqr, repeats=5, **changed)


def bold(*rows: Cost, column: str = "train img/s ↑") -> list[bool]:
    records = [record(name, cost=(row,)) for name, row in zip("abcde", rows, strict=False)]
    return (marks(tabulate(records, "cost"))["64 px", column] == 1).tolist()[: len(rows)]


def test_rates_whose_repeats_overlap_are_not_apart():
    assert bold(timed(40.0, 0.001), timed(38.0, 0.001)) == [True, False]
    assert bold(timed(40.0, 0.1), timed(38.0, 0.1)) == [False, False]
    # s = iqr / 0.994 * rate^2 / batch of 5 repeats; the gap is 2 =
    # t(0.975, 7.93) sqrt(pi/2 (s1^2 + s2^2) / 5) at 0.0227
    assert bold(timed(40.0, 0.0222), timed(38.0, 0.0222)) == [True, False]
    assert bold(timed(40.0, 0.0232), timed(38.0, 0.0232)) == [False, False]


def test_the_interquartile_range_of_few_repeats_is_that_of_few_normals():
    """The mean over many draws; of two it is half their distance, 1 / sqrt(pi)."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 10):
        low, high = np.quantile(rng.standard_normal((200_000, n)), [0.25, 0.75], axis=1)
        assert expected_iqr(n) == pytest.approx((high - low).mean(), rel=0.05)
    assert expected_iqr(100_000) == pytest.approx(1.349, rel=1e-3)


@pytest.mark.parametrize(
    "unknown",
    [
        {"train_noisy": True},
        {"train_iqr_s": 0.21 * 32 / 90},  # as wide as what is marked noisy
        {"train_iqr_s": None},
        {"train_iqr_s": 0.0},
        {"repeats": 1},
        {"repeats": None},
    ],
)
def test_a_timing_that_is_noisy_or_of_one_repeat_wins_nothing(unknown):
    fast = replace(timed(90.0, 0.001), **unknown)
    assert bold(timed(40.0, 0.001), fast) == [False, False]
    assert bold(timed(40.0, 0.001), timed(90.0, 0.001)) == [False, True]


def test_memory_is_known_to_two_percent():
    def held(mib: float) -> Cost:
        return cost(64, 40.0, 5.0, train_memory_mib=mib)

    assert bold(held(1051.0), held(1047.0), column="train MiB ↓") == [False, False]
    assert bold(held(1051.0), held(1020.0), column="train MiB ↓") == [False, True]
    assert bold(held(1051.0), held(1047.0), held(2000.0), column="train MiB ↓") == [
        True, True, False,
    ]  # fmt: skip


def test_an_energy_that_was_taken_once_wins_nothing():
    rows = [cost(64, 40.0, 5.0, energy_j=joules) for joules in (1.0, 100.0)]
    assert bold(*rows, column="J/image ↓") == [False, False]


def test_a_coarse_level_has_the_cost_of_its_trajectory_and_a_part_alone_a_group_of_its_own():
    def joint(side: int, **more: Any) -> dict[str, Any]:
        return cost(side, 40.0, 20.8, trajectory=(64, 32), part=None, **more)

    alone = cost(32, 70.0, 33.5, trajectory=(32,), part="alone", sample_noisy=True)
    one = record("mdm", quality=(quality(32, "native", 24.4),), cost=(joint(64), joint(32), alone))
    for preset in ("main", "all"):
        table = tabulate([one], preset)
        assert cells(table).loc["mdm", ("32 px", "sample img/s ↑")] == 20.8
        assert not any("alone" in group for group, _ in cells(table).columns)
        assert not any("a wide spread" in note for note in table.notes)
    table = tabulate([one], "cost")
    assert cells(table).loc["mdm", ("32 px", "sample img/s ↑")] == 20.8
    assert cells(table).loc["mdm", ("network alone 32 px", "sample img/s ↑")] == 33.5
    assert "timings with a wide spread: mdm at 32 px (alone) (sample)" in table.notes


def test_an_older_record_does_not_show_a_level_alone_as_what_made_its_images(tmp_path: Path):
    """Before schema 4 a coarse cost of joint levels was that of the inner network alone."""

    def older(name: str, *stages: list[str]) -> Record:
        rows = tuple(
            cost(side, 40.0, rate, breakdown=tuple(CostPart(f"stage {s}", flops=1) for s in own))
            for side, rate, own in zip((64, 32), (20.8, 33.5), stages, strict=True)
        )
        path = record(name, cost=rows).write(tmp_path / name)
        path.write_text(json.dumps(of_schema(json.loads(path.read_text()), 3)))
        return Record.read(path)

    joint = older("mdm", ["64x32"], ["32"])
    chain = older("cascaded", ["32", "32to64"], ["32"])
    table = tabulate([joint, chain])
    shown = cells(table)["32 px", "sample img/s ↑"]
    assert math.isnan(shown["mdm"]) and shown["cascaded"] == 33.5
    assert (
        cells(tabulate([joint], "cost")).loc["mdm", ("network alone 32 px", "sample img/s ↑")]
        == 33.5
    )
    assert not joint.edited and joint.schema == SCHEMA
    note = "training timed by an earlier version, not with the step of the run: mdm (plain AdamW)"
    assert any(one.startswith(note) for one in tabulate([joint]).notes)


def test_interquartile_ranges_are_columns_of_the_costs():
    table = tabulate([record("a", cost=(timed(40.0, 0.0125, latency_iqr_s=0.5),))], "cost")
    assert cells(table).loc["a", ("64 px", "train batch IQR ms")] == 12.5
    assert cells(table).loc["a", ("64 px", "latency IQR ms")] == 500


def test_times_under_other_numbers_of_threads_share_no_column():
    rows = [record(str(n), cost=(cost(64, 40.0, 5.0, threads=n),)) for n in (1, 2)]
    with pytest.raises(ValueError, match="float32, 1 thread .* float32, 2 threads"):
        tabulate(rows)


def test_records_of_two_protocols_share_no_table():
    def measured(protocol: int) -> Record:
        row = quality(64, "native", 1.0, identity=identity(64, protocol=protocol))
        return record(str(protocol), quality=(row,), scale={})

    with pytest.raises(ValueError, match="would mix .*protocol=2.* with .*protocol=3"):
        tabulate(map(measured, (2, 3)))


def test_what_a_process_had_before_the_method_is_a_note_on_a_cpu():
    base = {"train_memory_baseline_mib": 814.6, "sample_memory_baseline_mib": 817.2}
    note = "memory on a CPU is that of the process, which had 815–817 MiB before the method"
    for device, told in (("cpu", [note]), ("cuda", [])):
        table = tabulate([record("a", cost=(cost(64, 40.0, 5.0, device=device, **base),))])
        assert [one for one in table.notes if "before the method" in one] == told


def test_a_cost_that_nobody_could_measure_still_has_its_column():
    none = cost(64, None, None, train_failure="out of memory at batch 1", train_memory_mib=None)
    table = tabulate([record("a", cost=(none,))], "cost")
    assert ("64 px", "train img/s ↑") in cells(table).columns


def test_the_parts_of_a_cost_have_units():
    parts = (CostPart("decoder", seconds=0.0025, flops=3e9),)
    table = tabulate([record("a", cost=(cost(64, 1.0, 1.0, breakdown=parts),))], "cost")
    assert cells(table).loc["a", ("64 px", "breakdown decoder ms/image")] == 2.5
    assert cells(table).loc["a", ("64 px", "breakdown decoder GFLOPs/image")] == 3.0


def test_the_newest_record_gives_the_scale():
    old = record("a", quality=(quality(64, "native", 1.0),))
    scale = {"real": [quality(64, "pooled", 12.5)]}
    new = replace(old, name="b", scale=scale, provenance={"ended": "2026-02-01T00:00:00+00:00"})
    for both in ([old, new], [new, old]):
        value = cells(tabulate(both)).loc["real images", ("64 px", "FD-EffLite0 ↓")]
        assert value == 12.5


def test_csv_keeps_every_digit():
    third = record("a", quality=(quality(64, "native", 100 / 3),))
    read = pd.read_csv(io.StringIO(csv(tabulate([third]))), dtype=str)
    assert float(read["64 px FD-EffLite0"][0]) == 100 / 3
    assert list(read["data"]) == ["critters"] * 3


def test_csv_has_deviations_and_seeds_in_columns_of_their_own():
    third = rows_of(a=(100 / 3, 1 / 3, 3), b=50.0)
    read = pd.read_csv(io.StringIO(csv(third)), dtype=str)
    assert [float(v) for v in read["64 px FD-EffLite0"]] == [100 / 3, 50.0]
    assert float(read["64 px FD-EffLite0 sd"][0]) == 1 / 3
    assert read["64 px FD-EffLite0 seeds"][0] == "3"
    assert read["64 px FD-EffLite0 sd"].isna()[1]


def test_main_shows_the_first_metric_and_per_resolution_all_of_them_in_both_views():
    shown = {what for _, what in cells(tabulate(six())).columns if "±" not in what}
    assert {w for w in shown if any(m in w for m in TEN)} == {
        "FD-EffLite0 ↓", "FD-EffLite0 native ↓", "FD-EffLite0 pooled ↓",
    }  # fmt: skip
    columns = list(cells(tabulate(six(), "per_resolution")).columns)
    assert len(columns) == len(TEN) * (1 + 2)
    assert {what for group, what in columns if "native" in what and group == "64 px"} == set()


def test_metrics_that_come_first_in_some_record_have_a_column_each():
    rows = [record("a", quality=(quality(64, "native", 1.0),)),
            record("b", quality=(quality(64, "native", 2.0, metric="FID"),))]  # fmt: skip
    assert [c for c in cells(tabulate(rows)).columns if "F" in c[1]] == [
        ("64 px", "FD-EffLite0 ↓"), ("64 px", "FID ↓"),
    ]  # fmt: skip


def test_an_ablation_puts_the_options_that_differ_first():
    table = tabulate(ablation(), "ablation")
    options = [what for group, what in cells(table).columns if group == "options"]
    assert options == ["ema", "width", "rule.name"]
    assert cells(table).columns[0] == ("options", "ema")
    assert list(cells(table)[("options", "ema")]) == ["8", "–", "–"]
    assert list(cells(table)[("options", "width")]) == ["64", "32", "64"]
    assert list(cells(table)[("options", "rule.name")]) == ["heun", "ddim", "ddim"]
    assert list(cells(table).index) == ["mdm", "mdm #2", "mdm #3"]


def test_an_ablation_of_many_options_names_those_that_have_no_column():
    rows = [ten("a", config={f"o{i}": seed for i in range(9)}) for seed in (0, 1)]
    table = tabulate(rows, "ablation")
    assert [w for g, w in cells(table).columns if g == "options"] == [f"o{i}" for i in range(6)]
    assert "these options differ as well: o6, o7, o8" in table.notes


def test_energy_compilation_and_the_batch_sizes_that_were_tried_are_columns():
    row = cost(64, 1.0, 1.0, energy_j=2.5, compile_s=8.0)
    tried = cost(64, 1.0, 1.0, train_sweep=(BatchTrial("batch 4", images_per_s=0.5),))
    table = tabulate([record("a", cost=(row,)), record("b", cost=(tried,))], "cost")
    assert cells(table).loc["a", ("64 px", "J/image ↓")] == 2.5
    assert cells(table).loc["a", ("64 px", "compile s ↓")] == 8.0
    assert cells(table).loc["b", ("64 px", "train sweep batch 4 img/s")] == 0.5
    assert cells(table).loc["b", ("64 px", "batch")] == 32


def test_published_numbers_have_rows_and_columns_of_their_own_and_are_never_the_best():
    measured = record("a", quality=(quality(256, "native", 50.0, metric="FID"),), scale={})
    second = replace(measured, name="b", quality=(quality(256, "native", 60.0, metric="FID"),))
    table = tabulate([measured, second], "main", others())
    assert ("256 px", "FID ↓") in cells(table).columns
    published = cells(table)[("256 px", "published FID ↓")]
    assert published[["a", "b"]].isna().all()
    assert published["ADM †1"] == 4.59
    own = cells(table)[("256 px", "FID ↓")]
    assert own[["ADM †1", "CDM †2", "DiT-XL/2 †1"]].isna().all()
    assert marks(table).loc[["ADM †1", "CDM †2", "DiT-XL/2 †1"]].to_numpy().sum() == 0
    text = markdown(table)
    assert "| *CDM †2* " in text and "*158.71*" in text
    assert "- †2 published, not measured here: ImageNet, by TF-GAN, a number of images" in text
    assert r"\textcolor{gray}{4.59}" in latex(table)
    assert latex(table).startswith("% needs \\usepackage{booktabs,xcolor}\n")
    lines = csv(table).splitlines()
    assert next(line for line in lines if line.startswith("ADM")).split(",")[1] == "ImageNet"


def test_multiply_adds_and_flops_do_not_share_a_column():
    table = tabulate([record("a", cost=(cost(256, 1.0, 1.0),))], "cost", others())
    assert cells(table).loc["DiT-XL/2 †1", ("256 px", "published GMACs/call")] == 119
    assert cells(table).loc["DiT-XL/2 †1", ("256 px", "published params M")] == "675+49"
    assert pd.isna(cells(table).loc["DiT-XL/2 †1", ("256 px", "GFLOPs/call")])


def tables(preset: str) -> dict[str, Table]:
    """Of few and of many columns."""
    return {
        "five": tabulate(five(), preset),
        "ten metrics": tabulate(six(), preset),
        "published": tabulate(six()[:1], preset, others()),
        "all published": tabulate(ablation(), preset, papers.read_rows()),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_latex_of_every_preset_compiles(tmp_path: Path, preset: str):
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "t.tex"]
    elif shutil.which("tectonic"):
        command = ["tectonic", "t.tex"]
    else:
        pytest.skip("neither pdflatex nor tectonic is installed")
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx,xcolor}"
        r"\begin{document}%s\end{document}"
    )
    body = "\n".join(f"{latex(table)}\\clearpage" for table in tables(preset).values())
    (tmp_path / "t.tex").write_text(document % body)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")
    log = tmp_path / "t.log"
    assert not log.exists() or "Overfull \\hbox" not in log.read_text(errors="replace")


@pytest.mark.parametrize("preset", PRESETS)
def test_latex_has_the_form_of_what_compiles(preset: str):
    for table in tables(preset).values():
        source = latex(table)
        parts = re.findall(
            r"\\begin{tabular}{(\S+)}\n\\toprule\n(.*?)\\bottomrule", source, re.DOTALL
        )
        for columns, body in parts:
            width = len(re.sub(r"p{\w+}", "p", columns))
            for row in (line for line in body.splitlines() if " & " in line):
                spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", row)]
                assert len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans) - len(spans) == width
                assert row.endswith(r"\\")
        headings = sum(len(re.sub(r"p{\w+}", "p", columns)) - 1 for columns, _ in parts)
        assert headings == len(cells(table).columns)
        rest = source.partition("\n")[2].replace("{%\n", "").replace("pt}%", "")
        assert not re.search(r"(?<!\\)[%_#]", rest)
        assert source.isascii()
        bare = source.replace(r"\{", "").replace(r"\}", "")
        for opening, closing in (("{", "}"), (r"\begin{", r"\end{")):
            assert bare.count(opening) == bare.count(closing)


def test_names_reach_latex_escaped():
    source = latex(tabulate([record(r"a_b%c&d#e$f{g}h~i^j\k"), record("b")]))
    assert r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k" in source


def test_the_terminal_shows_every_number_of_the_table():
    text = printed(five(), 200)
    words = ("98.42 ± 0.02", "mdm (2 seeds)", "Gaussian", "out of memory", "matched by flops")
    assert all(word in text for word in words)


def test_the_terminal_shows_a_table_without_columns():
    assert "mdm" in terminal(tabulate([record("mdm")]))


@pytest.mark.parametrize(("count", "width"), [(1, 80), (6, 160)])
def test_the_terminal_keeps_each_number_of_ten_metrics_on_one_line(count: int, width: int):
    text = printed(six()[:count], width)
    body = [line for line in text.splitlines() if line.startswith("│")]
    assert len(body) == len(cells(tabulate(six()[:count], "all")).columns)
    assert all(line.count("│") == count + 2 for line in body)


def refused(*words: str) -> None:
    """The command ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1


def test_the_command_prints_writes_filters_and_refuses(tmp_path: Path, capsys):
    for i, one in enumerate(five()):
        one.write(tmp_path / "runs" / str(i))
    replace(five()[0], data="elpv").write(tmp_path / "runs" / "other")
    runs = str(tmp_path / "runs")
    refused(runs)
    assert capsys.readouterr().err.startswith("error: data sets critters, elpv cannot share")
    main([runs, runs, "--where", "data=critters"])
    assert capsys.readouterr().out == (FOLDER / "five.md").read_text()
    main([runs, "--where", "data=critters", "--format", "latex", "-o", f"{runs}/t.tex"])
    assert Path(runs, "t.tex").read_bytes() == (FOLDER / "five.tex").read_bytes()
    main([runs, "--where", "data=elpv", "--published", "method=CDM", "metric=IS"])
    assert "*158.71*" in capsys.readouterr().out
    for wrong in (
        [str(tmp_path / "none")], [runs, "--where", "name=x"], [runs, "--where", "x=y"],
        [runs, "--where", "data=elpv", "--published", "method=CDN"],
        [runs, "--where", "data=elpv", "--published", "tool=ADM"],
    ):  # fmt: skip
        refused(*wrong)
        assert re.fullmatch(r"error: .*: .*\n", capsys.readouterr().err)


if __name__ == "__main__":
    os.makedirs(FOLDER, exist_ok=True)
    for golden, made in GOLDEN.items():
        (FOLDER / golden).write_text(made(), encoding="utf-8")
