from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tables.best import interval
from benchmarks.tables.columns import spread_of
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.table import tabulate
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import Candidate
from hierdiff.results.cost import CostPart
from hierdiff.results.folders import paths, readable, records
from hierdiff.results.frames import COLUMNS, SPENT, dataframe, wide
from hierdiff.results.record import Record
from hierdiff.results.seeds import _over_runs, deviation, over_seeds
from tests.benchmarks.rows import cost, five, of_schema, point, quality, record, ten, training


def written(folder: Path, *found: Record) -> Path:
    for i, one in enumerate(found):
        one.write(folder / f"{i}-{one.name.replace('/', '_')}")
    return folder


def test_records_are_found_once_at_or_below_folders_and_files(tmp_path: Path):
    written(tmp_path, *five()[:3])
    file = tmp_path / "0-mdm" / "record.json"
    found = records(tmp_path, file, tmp_path / "0-mdm")
    assert [one.name for one in found] == ["mdm", "mdm", "end_to_end"]
    assert [one.name for one in records(file)] == ["mdm"]
    with pytest.raises(FileNotFoundError, match="none does not exist: name a folder"):
        records(tmp_path / "none")


ODD = {  # a file that is no record of ours
    "newer": json.dumps({"schema": 99}),
    "empty": "",
    "half": '{"schema": 3, "name": "a',
    "list": "[1]",
    "not_utf8": b"\xff\xfe{",
    "deep": "[" * 100_000,
    "nested": json.dumps({"schema": 3}).replace("3", "[" * 300 + "]" * 300),
    "infinite": '{"schema": 3, "name": 1e999}',
    "long": '{"schema": ' + "9" * 5000 + "}",
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with one whole run and every odd thing."""
    written(tmp_path, five()[0])
    for name, content in ODD.items():
        (tmp_path / name).mkdir()
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name / "record.json").write_bytes(data)
    for name in ("pipe", "dangling", "circle", "linked"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "record.json")
    (tmp_path / "dangling" / "record.json").symlink_to("nothing")
    (tmp_path / "circle" / "record.json").symlink_to("record.json")
    (tmp_path / "linked" / "again").symlink_to(tmp_path)
    return tmp_path


def test_one_odd_record_does_not_keep_the_others_out(odd: Path, caplog: pytest.LogCaptureFixture):
    found, left_out = readable(odd)
    assert [one.name for one in found] == ["mdm"]
    assert len(left_out) == len(ODD) + 3
    for name in (*ODD, "pipe", "dangling", "circle"):
        (line,) = (one for one in left_out if str(odd / name / "record.json") in one)
        assert len(line) < 1000 and "\n" not in line
    assert records(odd) == found
    assert len([one for one in caplog.messages if one.startswith("left out: ")]) == len(left_out)


def test_copies_and_hidden_folders_are_no_runs(tmp_path: Path):
    written(tmp_path, five()[0])
    whole = tmp_path / "0-mdm"
    names = (".ipynb_checkpoints", ".hidden", "0-mdm~", "0-mdm.bak", "0-mdm (copy)", "0-mdm - Copy",
             "0-mdm copy 2", "0-mdm.old")  # fmt: skip
    for name in names:
        shutil.copytree(whole, tmp_path / name)
    shutil.copytree(whole, tmp_path / "deeper" / ".trash" / "a")
    for name in ("record (copy).json", "record.json~", ".record.json.swp", "record.json.bak"):
        shutil.copy(whole / "record.json", whole / name)
    written(tmp_path / "copycat", five()[2])
    assert [path.parent.name for path in paths(tmp_path)] == ["0-mdm", "0-end_to_end"]
    assert readable(tmp_path)[1] == []
    assert paths(tmp_path / "0-mdm.bak")  # it was asked for


def test_a_copied_run_is_one_row_and_said(tmp_path: Path):
    written(tmp_path, five()[0])
    shutil.copytree(tmp_path / "0-mdm", tmp_path / "1-mdm")
    found, left_out = readable(tmp_path)
    assert [one.path.parent.name for one in found if one.path] == ["0-mdm"]
    assert left_out == [
        f"{tmp_path / '1-mdm' / 'record.json'} is a copy of {tmp_path / '0-mdm' / 'record.json'}, "
        f"which has the row"
    ]


def test_what_lies_deeper_than_asked_is_not_looked_for(tmp_path: Path):
    written(tmp_path, five()[0])
    written(tmp_path / "more", five()[2])
    assert [path.parent.name for path in paths(tmp_path, depth=1)] == ["0-mdm"]


def leaves(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children: Any = ()
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    yield place
    for key, child in children:
        yield from leaves(child, (*place, key))


WRONG = (None, True, -1, 0, 1.5, 10**400, "word", "", [], {}, [{}], {"a": 1})


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_value_of_another_type_is_shown_or_left_out_and_never_a_traceback(data: Any):
    """What comes of it is a table, or a sentence."""
    whole = ten("a", provenance={"machine": {"cpu": "x", "gpu": {"names": ["y"]}}, "git": {}})
    content = json.loads(json.dumps({**whole.content(), "config": {"match": {}, "seed": 0}}))
    place = data.draw(st.sampled_from(list(leaves(content))[1:]))
    node = content
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = data.draw(st.sampled_from(WRONG))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bad").mkdir()
        (Path(folder) / "bad" / "record.json").write_text(json.dumps(content))
        record("b").write(Path(folder) / "good")
        found, left_out = readable(folder)
        assert len(found) + len(left_out) == 2 and "b" in {one.name for one in found}
        for preset in ("all", "ablation"):
            with suppress(ValueError):  # as of another data set: a sentence
                table = tabulate(found, preset, left_out=left_out)
                for form in FORMATS.values():
                    form(table)


def test_each_measured_number_is_one_line_with_where_it_is_from(tmp_path: Path):
    frame = dataframe(written(tmp_path, *five()))
    assert list(frame.columns) == [*COLUMNS, *SPENT]
    own = frame[(frame.run == "0-mdm") & (frame.kind == "quality")]
    assert list(own.value) == [98.41, 98.41, 61.2, 60.1]
    first = own.iloc[0]
    assert (first.method, first.data, first.budget, first.seed) == ("mdm", "critters", "default", 0)
    assert (first.resolution, first["view"], first.metric) == (64, "native", "FD-EffLite0")
    assert first.n == 512 and first.identity.startswith("efficientnet_lite0@57938833")
    assert Path(first.path).parent.name == "0-mdm" and not first.edited
    costs = frame[(frame.run == "0-mdm") & (frame.kind == "cost") & (frame.resolution == 64)]
    values = dict(zip(costs.metric, costs.value, strict=True))
    assert values["train_images_per_s"] == 40.123
    assert "train_memory_reserved_mib" not in values  # None is no number
    assert "sample_noisy" not in values
    identities = dict(zip(costs.metric, costs.identity, strict=True))
    assert identities["latency_s"] == "cpu (Abacus 1), float32, batch 32"
    assert pd.isna(identities["parameters"])
    scale = frame[(frame.run == "0-mdm") & (frame.kind == "scale")]
    assert set(scale.method) == {"real", "gaussian"}


def test_a_failed_run_is_a_line_with_its_reason_and_no_value(tmp_path: Path):
    frame = dataframe(written(tmp_path, *five()))
    (failed,) = frame[frame.kind == "failure"].to_dict("records")
    assert (failed["kind"], failed["name"]) == ("failure", "latent")
    assert failed["failure"] == "out of memory at batch_size 32: lower it"
    assert math.isnan(failed["value"])


def test_a_curve_has_its_places_and_options_their_columns(tmp_path: Path):
    curve = [
        point(64, "native", 100.0 - step, step=step, images=32 * step, flops=1e9) for step in (1, 2)
    ]
    one = record("a", curves=tuple(curve), config={"seed": 3, "denoiser": {"width": 64}})
    frame = dataframe(written(tmp_path, one), options=["denoiser.width", "denoiser.heads"])
    drawn = frame[frame.kind == "curve"]
    assert list(drawn.images) == [32, 64] and list(drawn.value) == [99.0, 98.0]
    assert set(frame["denoiser.width"]) == {64} and frame["denoiser.heads"].isna().all()
    assert frame[frame.kind == "scale"].images.isna().all()


def test_older_schemas_are_read_and_edited_records_flagged(tmp_path: Path):
    path = record("old", quality=(quality(64, "native", 1.5),)).write(tmp_path)
    path.write_text(json.dumps(of_schema(json.loads(path.read_text()), 1)))
    assert not dataframe(tmp_path).edited.any()
    path.write_text(path.read_text().replace("1.5", "0.5"))
    edited = dataframe(tmp_path)
    assert edited.edited.all() and 0.5 in set(edited.value)


def test_no_run_is_an_empty_frame_of_the_same_columns(tmp_path: Path):
    frame = dataframe(tmp_path)
    assert list(frame.columns) == [*COLUMNS, *SPENT] and frame.empty


def test_wide_has_a_line_a_run_and_refuses_to_mix_identities(tmp_path: Path):
    frame = dataframe(written(tmp_path, *five()))
    table = wide(frame)
    assert len(table) == 4
    assert list(table.columns[0]) == [64, "native", "FD-EffLite0"]
    assert table.loc[("0-mdm", "mdm", 0), (32, "pooled", "FD-EffLite0")] == 60.1
    assert wide(frame, "cost").loc[("0-mdm", "mdm", 0), (64, "", "latency_s")] == 1.2345
    other = record(
        "b", quality=(quality(64, "native", 1.0, identity=Identity("another")),), scale={}
    )
    mixed = dataframe(written(tmp_path / "more", *five(), other))
    with pytest.raises(ValueError, match="more than one identity: choose one, frame"):
        wide(mixed)
    with pytest.raises(ValueError, match="is there twice"):
        wide(pd.concat([frame, frame]))
    with pytest.raises(ValueError, match="plot the long form"):
        wide(frame, "curve")


# ---------------------------------------------------------------- training seeds


def seeds(*values: float, **changed: object) -> list[Record]:
    return [
        record(
            "a",
            quality=(quality(64, "native", v, values=(v,), spread=None),),
            cost=(cost(64, 10.0 * v, 1.0, sample_noisy=v > 2, breakdown=(CostPart("decode", v),)),),
            training=training(int(100 * v), 1e15, notes=[f"note {v > 1}"]),
            config={"seed": i, "folder": f"runs/{i}", "denoiser": {"width": 64}},
            **changed,
        )
        for i, v in enumerate(values)
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.floats(-1e6, 1e6))
def test_the_deviation_is_that_of_a_sample_and_zero_of_equal_values(values, same):
    exact = statistics.stdev(values)
    assert math.isclose(deviation(values), exact, rel_tol=1e-12, abs_tol=1e-300)
    assert deviation([same] * len(values)) == 0


def test_records_that_differ_in_the_seed_alone_become_their_mean(tmp_path: Path):
    (one,) = over_seeds(seeds(1.0, 2.0, 6.0))
    (row,) = one.quality
    assert (row.value, row.values) == (3.0, (1.0, 2.0, 6.0))
    assert row.spread == pytest.approx(math.sqrt(7.0))
    assert one.config["seed"] == [0, 1, 2]
    (spent,) = one.cost
    assert spent.train_images_per_s == pytest.approx(30.0)
    assert [(p.name, p.seconds) for p in spent.breakdown] == [("decode", pytest.approx(3.0))]
    assert (spent.parameters, spent.sample_noisy) == (2_345_678, True)
    assert one.training["spent"]["images"] == pytest.approx(300.0)
    assert one.training["plan"] == {"flops": 1.5e15}
    assert one.training["notes"] == ["note False", "note True"]
    assert Record.read(one.write(tmp_path)).hash == one.hash


def test_the_order_of_runs_does_not_matter_to_their_mean():
    ordered, turned = over_seeds(seeds(1.0, 2.0, 6.0)), over_seeds(seeds(1.0, 2.0, 6.0)[::-1])
    assert [one.content() for one in ordered] == [one.content() for one in turned]


def test_a_run_without_a_value_has_no_say_in_the_mean():
    one, two, three = seeds(1.0, 2.0, 4.0)
    hollow = replace(three, quality=(quality(64, "native", None),))
    (row,) = over_seeds([one, two, hollow])[0].quality
    assert (row.value, row.values) == (1.5, (1.0, 2.0))


def test_what_differs_in_more_than_the_seed_stays_apart():
    one, two = seeds(1.0, 2.0)
    wider = replace(two, config={**two.config, "denoiser": {"width": 32}})
    again = replace(two, config={**two.config, "seed": 0})
    elsewhere = replace(two, provenance={"machine": {"cpu": "Abacus 2"}})
    fewer = replace(two, quality=(quality(64, "native", 2.0, n=256),))
    failed = replace(two, quality=(), cost=(), failure="out of memory")
    for other in (wider, again, elsewhere, fewer, failed, replace(two, budget="smoke")):
        assert over_seeds([one, other]) == [one, other]


def test_seeds_for_which_another_average_was_selected_stay_apart():
    def selected(record: Record, half_life: float) -> Record:
        row = vars(quality(64, "native", 1.0))
        kept = (Candidate(**row, half_life=2000.0), Candidate(**row, half_life=8000.0))
        kept = tuple(replace(one, chosen=one.half_life == half_life) for one in kept)
        return replace(record, selection=kept)

    one, two = seeds(1.0, 2.0)
    assert len(over_seeds([selected(one, 2000.0), selected(two, 2000.0)])) == 1
    assert len(over_seeds([selected(one, 2000.0), selected(two, 8000.0)])) == 2


def test_seeds_of_runs_made_from_other_code_or_files_stay_apart():
    one, two = seeds(1.0, 2.0)

    def made_of(record: Record, digest: str) -> Record:
        inputs = {"data": "1", "source of my_net": digest}
        return replace(record, provenance={**record.provenance, "inputs": inputs})

    assert len(over_seeds([made_of(one, "1"), made_of(two, "1")])) == 1
    assert len(over_seeds([made_of(one, "1"), made_of(two, "2")])) == 2


@pytest.mark.parametrize(("budget", "part"), [("seconds", "trainer"), ("latency", "sampler")])
def test_steps_that_a_clock_decided_keep_no_seeds_apart(budget: str, part: str):
    def made(seed: int, steps: int, **match: float) -> Record:
        return record("a", config={"seed": seed, part: {"steps": steps}, "match": match})

    assert len(over_seeds([made(0, 90, **{budget: 60.0}), made(1, 91, **{budget: 60.0})])) == 1
    assert len(over_seeds([made(0, 90, **{budget: 60.0}), made(1, 91, **{budget: 50.0})])) == 2
    assert len(over_seeds([made(0, 90, images=1e4), made(1, 91, images=1e4)])) == 2


def test_a_best_batch_that_seeds_disagree_on_is_no_number():
    found = [
        record("a", config={"seed": seed}, cost=(cost(64, 40.0, 5.0, batch=batch, train_batch=8),))
        for seed, batch in enumerate((16, 64))
    ]
    (merged,) = over_seeds(found)
    assert merged.cost[0].batch is None and merged.cost[0].train_batch == 8
    assert merged.cost[0].sample_images_per_s == 5.0


def test_one_edited_run_marks_the_mean_as_edited():
    one, two = seeds(1.0, 2.0)
    assert over_seeds([one, replace(two, edited=True)])[0].edited
    assert not over_seeds([one, two])[0].edited


# ---------------------------------------------------------------- both sources of spread


def runs_of(values: np.ndarray, sd: bool = True) -> list[Record]:
    """Runs under training seeds (rows of values), each under the same sampling seeds (columns)."""
    return [
        record(
            "a",
            config={"seed": seed},
            quality=(
                quality(
                    64, "native", float(own.mean()), values=tuple(own.tolist()),
                    spread=float(own.std(ddof=1)) if sd else None,
                ),
            ),
        )
        for seed, own in enumerate(values)
    ]  # fmt: skip


def test_merging_training_seeds_keeps_the_spread_of_the_samples():
    """Once 0.0067 became 0.0001, because all runs share their sampling seeds."""
    sampling = np.array([-0.0067, 0.0, 0.0067])
    values = 1 + sampling + np.array([[-0.0001], [0.0], [0.0001]])
    (merged,) = over_seeds(runs_of(values))
    (row,) = merged.quality
    assert row.values == pytest.approx([0.9999, 1.0, 1.0001])
    assert row.between == pytest.approx(1e-4) and row.within == pytest.approx(0.0067)
    assert row.spread == pytest.approx(math.hypot(1e-4, 0.0067)) and row.draws == 3


def test_runs_of_one_sampling_seed_know_the_spread_of_training_alone():
    (merged,) = over_seeds(runs_of(np.array([[1.0], [2.0], [3.0]]), sd=False))
    (row,) = merged.quality
    assert (row.spread, row.between, row.within) == (1.0, 1.0, None)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("training", "sampling", "rest"),
    [(1.0, 1.0, 1.0), (0.01, 1.0, 0.01), (1.0, 0.01, 0.01), (0.01, 0.01, 1.0), (0.3, 1.0, 0.3)],
)
def test_the_printed_spread_is_that_of_one_result_and_its_interval_covers_the_truth(
    shared, training, sampling, rest
):
    """Over 400 experiments of 4 training and 4 sampling seeds, with known variances."""
    rng, k, m = np.random.default_rng(0), 4, 4
    squares, covered = [], 0
    for _ in range(400):
        common = rng.normal(0, sampling, (1 if shared else k, m))
        values = 5 + rng.normal(0, training, (k, 1)) + common + rng.normal(0, rest, (k, m))
        (row,) = _over_runs([one.quality for one in runs_of(values)])
        squares.append(row.spread**2)
        known = spread_of(row)
        assert known is not None
        covered += abs(row.value - 5) <= interval([*known.parts.values()])
    true = training**2 + sampling**2 + rest**2
    ceiling = true + (rest**2 + (0 if shared else sampling**2)) / m
    assert 0.9 * true <= np.mean(squares) <= 1.1 * ceiling
    assert covered >= 0.93 * 400


def test_merged_timings_know_how_they_vary_between_runs():
    rows = [
        record("a", config={"seed": seed}, cost=(cost(64, rate, 5.0),))
        for seed, rate in enumerate((38.0, 40.0, 42.0))
    ]
    (merged,) = over_seeds(rows)
    assert merged.cost[0].train_images_per_s_between == 2.0
    assert merged.cost[0].latency_s_between == 0.0
    assert merged.cost[0].runs == 3


def test_a_part_alone_is_another_kind_of_cost_and_not_merged_with_the_trajectory(tmp_path):
    def rows(seed: int) -> tuple[dict, ...]:
        whole = cost(32, 40.0, 20.8, trajectory=(64, 32), part=None)
        return whole, cost(32, 70.0, 33.5 + seed, trajectory=(32,), part="alone")

    found = [record("a", config={"seed": seed}, cost=rows(seed)) for seed in (0, 1)]
    (merged,) = over_seeds(found)
    assert [c.sample_images_per_s for c in merged.cost] == [20.8, 34.0]
    found[0].write(tmp_path)
    table = dataframe(tmp_path)
    rates = table[table.metric == "sample_images_per_s"].set_index("kind").value
    assert rates.to_dict() == {"cost": 20.8, "cost alone": 33.5}
    assert wide(table, "cost").notna().any(axis=None)
