"""Rank agreement of metrics, and what is not marked where distances disagree on the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks.tables.agreement import rankings, tau, tau_b
from benchmarks.tables.formats.markdown import markdown
from benchmarks.tables.table import tabulate
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.table import join_extractors
from hierdiff.results.record import Record
from tests.benchmarks.rows import identity, quality, record
from tests.metrics.sets import images, kept

METRICS = {"FD": ("frechet", "low"), "KD": ("kernel", "low"), "precision": ("manifold", "high")}


def rows(
    values: Mapping[str, Mapping[str, float]],
    spread: float | None = 0.1,
    side: int = 64,
    **changed: Any,
) -> list[Record]:
    """A record for each method; values: {metric: {method: value}}, of three seeds."""
    methods = list(dict.fromkeys(method for own in values.values() for method in own))

    def row(metric: str, value: float) -> Any:
        estimator, better = METRICS[metric]
        about = {"metric": metric, "better": better, "floor": None, "values": (value,) * 3}
        how = identity(side, estimator=estimator)
        return quality(side, "native", value, spread=spread, identity=how, **about | changed)

    return [
        record(
            method,
            quality=tuple(row(m, own[method]) for m, own in values.items() if method in own),
            scale={},
            resolutions=(side,),
        )
        for method in methods
    ]


def marks(records: list[Record], preset: str = "per_resolution") -> dict[str, dict[str, int]]:
    table = tabulate(records, preset)
    return {column.what: dict(own) for column, own in table.places.items()}


@pytest.mark.parametrize(
    ("order", "expected"), [((1, 2, 3), 1.0), ((1, 3, 2), 1 / 3), ((3, 2, 1), -1.0)]
)
def test_tau_is_that_of_pairs_in_and_out_of_order(order, expected):
    found = {"FD": {"a": 1.0, "b": 2.0, "c": 3.0}, "KD": dict(zip("abc", order, strict=True))}
    (own,) = rankings({r.name: r for r in rows(found)}).values()
    assert tau(*own) == pytest.approx(expected) and tau(own[1], own[0]) == tau(*own)


def test_tau_is_that_of_scipy_also_with_ties():
    drawn = np.random.default_rng(0).integers(0, 6, (20, 2, 9)).astype(float).tolist()
    for x, y in drawn:
        assert tau_b(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)
    assert tau_b([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_of_a_metric_that_is_better_when_high_the_order_is_turned_round():
    found = {"FD": {"a": 1.0, "b": 2.0, "c": 3.0}, "precision": {"a": 0.9, "b": 0.5, "c": 0.1}}
    note = "64 px, rank agreement with FD over 3 methods (Kendall's tau): precision 1.00"
    assert note in tabulate(rows(found)).notes


def test_two_methods_have_no_rank_agreement_and_neither_has_a_constant():
    two = {"FD": {"a": 1.0, "b": 2.0}, "KD": {"a": 1.0, "b": 2.0}}
    constant = {"FD": {"a": 1.0, "b": 2.0, "c": 3.0}, "KD": dict.fromkeys("abc", 1.0)}
    for found in (two, constant):
        assert not [note for note in tabulate(rows(found)).notes if "rank agreement" in note]


AGREED = {"FD": {"a": 1.0, "b": 5.0, "c": 9.0}, "KD": {"a": 10.0, "b": 50.0, "c": 90.0}}
APART = {**AGREED, "KD": {"a": 50.0, "b": 10.0, "c": 90.0}}
PRECISION = {"precision": {"a": 0.9, "b": 5.9, "c": 0.1}}


def test_distances_that_agree_on_the_best_are_marked_whatever_one_aspect_says():
    found = marks(rows({**AGREED, **PRECISION}))
    assert found["FD"] == found["KD"] == {"a": 1, "b": 2} and found["precision"]["b"] == 1


def test_distances_that_disagree_on_the_best_are_not_marked_and_the_note_says_who_is_best():
    table = tabulate(rows({**APART, **PRECISION}), "per_resolution")
    assert {column.what for column in table.places} == {"precision"}
    assert "64 px: no distance is bold, since they disagree on the best: a by FD; b by KD" in (
        table.notes
    )
    assert "**5.9" in markdown(table) and "**1.0" not in markdown(table)
    assert "have no best method in common, none of them is bold" in table.caption


def test_a_metric_that_the_table_does_not_show_counts_as_well():
    assert marks(rows(APART), "main") == {} and marks(rows(AGREED), "main")["FD"]["a"] == 1


def test_a_disagreement_at_one_level_is_none_of_another():
    fine, coarse = rows(AGREED), rows(APART, side=32)
    both = [
        record(a.name, quality=(*a.quality, *b.quality), scale={}, resolutions=(64, 32))
        for a, b in zip(fine, coarse, strict=True)
    ]
    table = tabulate(both, "per_resolution")
    assert {(c.group, c.what) for c in table.places} == {("64 px", "FD"), ("64 px", "KD")}


def test_a_best_within_the_spread_is_in_common():
    """By KD b is the best and a is not apart from it, by FD a is: that is no disagreement."""
    close = {**AGREED, "KD": {"a": 10.05, "b": 10.0, "c": 90.0}}
    found = marks(rows(close))
    assert found["FD"]["a"] == 1 and found["KD"]["a"] == found["KD"]["b"] == 1


def test_a_distance_of_unknown_spread_has_no_say():
    known, unknown = rows({"FD": APART["FD"]}), rows({"KD": APART["KD"]}, spread=None)
    both = [
        record(a.name, quality=(*a.quality, *b.quality), scale={}, resolutions=(64,))
        for a, b in zip(known, unknown, strict=True)
    ]
    assert marks(both) == {"FD": {"a": 1, "b": 2}}


def test_distances_that_were_measured_otherwise_in_a_row_have_no_say_in_a_table_without_them():
    *others, last = rows(APART)
    kd = next(q for q in last.quality if q.metric == "KD")
    changed = quality(64, "native", kd.value, metric="KD", identity=identity(64, resize="other"))
    fd = (q for q in last.quality if q.metric == "FD")
    records = [*others, record("c", quality=(*fd, changed), scale={}, resolutions=(64,))]
    assert marks(records, "main")["FD"] == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="would mix"):
        tabulate(records, "per_resolution")


def test_real_images_and_costs_take_no_part():
    real = [quality(64, "pooled", 0.5, metric="KD", identity=identity(64, estimator="kernel"))]
    records = [
        record(r.name, quality=r.quality, scale={"real": real}, resolutions=(64,))
        for r in rows(AGREED)
    ]
    assert marks(records)["FD"]["a"] == 1
    assert not [note for note in tabulate(rows(APART), "cost").notes if "agree" in note]


def test_fidelity_metrics_say_whether_they_compare_whole_distributions():
    extractor = RandomConv(width=12)
    names = ["fd", "fd_infinity", "kd", "mind", "pr", "dc", "clipped_dc", "nearest", "haar"]
    join_extractors(extractor, names)
    meter = FidelityMeter(extractor, kept([images()], extractor), names)
    meter.add({16: images(30, seed=1)})
    whole = {q.metric for q in meter.qualities() if q.whole}
    assert whole == {f"{kind}-RandomConv" for kind in ("FD", "FDinf", "KD", "MIND")}
