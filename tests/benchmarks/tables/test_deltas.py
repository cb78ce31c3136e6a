"""Differences from a baseline: which seeds are paired, and the known answers of the test."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.stats import ttest_rel

from benchmarks.tables.deltas import paired
from benchmarks.tables.formats.csv import csv
from benchmarks.tables.formats.markdown import markdown
from benchmarks.tables.layout import DELTA
from benchmarks.tables.table import tabulate
from hierdiff.results.record import Record
from tests.benchmarks.rows import quality, record


def run(name: str, values: tuple[float, ...], samples: list[int], **changed: Any) -> Record:
    """A run of one training seed with a value for each sampling seed."""
    mean = sum(values) / len(values)
    row = quality(64, "native", mean, values=values, spread=1.0, better="low")
    seeds = {"training": 0, "samples": samples}
    told = {"quality": (row,), "scale": {}, "provenance": {"seeds": seeds}, **changed}
    return record(name, **told)


def trained(name: str, values: tuple[float, ...]) -> list[Record]:
    """Runs that differ in the training seed alone."""
    return [
        record(
            name,
            quality=(quality(64, "native", value, values=(value,), better="low"),),
            scale={},
            config={"seed": seed},
        )
        for seed, value in enumerate(values)
    ]


def test_the_p_value_of_three_pairs_is_that_of_two_degrees_of_freedom():
    """For them the distribution of t has a closed form: p = 1 - t / sqrt(2 + t^2)."""
    spread, p = paired([1.0, 1.1, 0.9])
    t = 1.0 / (0.1 / math.sqrt(3))
    assert spread.sd == pytest.approx(0.1)
    assert p == pytest.approx(1 - t / math.sqrt(2 + t**2))


def test_the_test_is_the_paired_one_of_scipy():
    a, b = [10.2, 11.9, 9.7, 14.1], [9.9, 11.0, 9.8, 13.0]
    _, p = paired([x - y for x, y in zip(a, b, strict=True)])
    assert p == pytest.approx(ttest_rel(a, b).pvalue)


def test_differences_that_are_all_equal_have_no_p_value():
    assert paired([2.0, 2.0, 2.0])[1] is None


def test_runs_of_the_same_training_seeds_are_paired_by_them():
    """The values vary by 10 between seeds, the differences by 0.1."""
    runs = [*trained("base", (90.0, 100.0, 110.0)), *trained("ours", (89.0, 98.9, 109.1))]
    table = tabulate(runs, baseline="base (3 seeds)")
    column = table.column("64 px", f"{DELTA} FD-EffLite0")
    assert table.cells[column]["ours (3 seeds)"] == pytest.approx(-1.0)
    assert table.spread[column]["ours (3 seeds)"].sd == pytest.approx(0.1)
    assert table.p_values[column]["ours (3 seeds)"] == pytest.approx(0.003317, rel=1e-3)
    assert "base (3 seeds)" not in table.cells[column]
    assert r"-1.0\* ± 0.1" in markdown(table)
    assert any("paired t-test over 3 training seeds" in note for note in table.notes)


def test_rows_and_baseline_are_found_without_what_their_labels_say_behind_the_name():
    runs = [*trained("base", (9.0, 10.0, 11.0)), *trained("ours", (8.9, 9.9, 11.0))]
    table = tabulate(runs, baseline="base", rows=["ours", "base"])
    assert list(table.rows) == ["ours (3 seeds)", "base (3 seeds)"]
    assert list(table.cells[table.column("64 px", f"{DELTA} FD-EffLite0")]) == ["ours (3 seeds)"]
    with pytest.raises(ValueError, match="several rows are the baseline 'base': choose one of"):
        tabulate([*runs, run("base", (1.0,), [0], method="external")], baseline="base")


def test_single_runs_are_paired_by_the_seeds_of_their_samples():
    runs = [run("base", (1.0, 5.0, 9.0), [0, 1, 2]), run("ours", (3.0, 7.1, 10.9), [0, 1, 2])]
    table = tabulate(runs, baseline="base")
    column = table.column("64 px", f"{DELTA} FD-EffLite0")
    assert table.p_values[column]["ours"] == pytest.approx(ttest_rel((3, 7.1, 10.9), (1, 5, 9))[1])
    assert "+2.0\\* ± 0.1" in markdown(table)
    assert any("over 3 sampling seeds" in note for note in table.notes)
    header, _, ours = csv(table).splitlines()
    assert f"64 px {DELTA} FD-EffLite0 p" in header
    assert f"{table.p_values[column]['ours']}" in ours


@pytest.mark.parametrize(
    "other",
    [
        run("ours", (3.0, 7.1, 10.9), [3, 4, 5]),
        run("ours", (3.0, 7.1), [0, 1]),
        run("ours", (3.0, 7.1, 10.9), [0, 1, 2], method="external"),
    ],
)
def test_seeds_that_are_not_shared_give_a_difference_and_no_test(other: Record):
    table = tabulate([run("base", (1.0, 5.0, 9.0), [0, 1, 2]), other], baseline="base")
    column = table.column("64 px", f"{DELTA} FD-EffLite0")
    assert len(table.cells[column]) == 1 and not table.p_values and column not in table.spread
    assert any(note.startswith(f"{DELTA} without a test") for note in table.notes)


def test_an_unknown_baseline_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no row is the baseline 'bass': choose one of base"):
        tabulate([run("base", (1.0, 2.0), [0, 1])], baseline="bass")
