from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tables.table import tabulate
from hierdiff.data.captions import told_in
from hierdiff.files.log import read_log
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import CurvePoint, Quality
from hierdiff.resolution import Named, plain_of, resolution_of
from hierdiff.results import dataframe
from hierdiff.results.cost import BatchTrial, Cost, CostPart
from hierdiff.results.form import (
    COST,
    FORM,
    QUALITY,
    _fault,
    _test,
)
from hierdiff.results.plain import content_hash, plain
from hierdiff.results.provenance import git_state, now, provenance
from hierdiff.results.record import SCHEMA, Record
from hierdiff.sampled import own_files
from tests.benchmarks.rows import cost, five, identity, of_schema, point, quality, record, ten


@pytest.mark.parametrize("written", five(), ids=lambda r: r.name)
def test_a_record_reads_back_as_it_was_written(tmp_path: Path, written: Record):
    read = Record.read(written.write(tmp_path))
    assert read.content() == written.content()
    assert read.hash == written.hash
    assert not read.edited
    assert read.path == tmp_path / "record.json"


def test_every_digit_and_every_none_survives(tmp_path: Path):
    rows = (cost(64, 0.1 + 0.2, None),)
    read = Record.read(record("mdm", cost=rows).write(tmp_path))
    assert read.cost[0].train_images_per_s == 0.1 + 0.2
    assert read.cost[0].sample_images_per_s is None


def test_a_value_changed_by_hand_is_noticed(tmp_path: Path):
    path = five()[0].write(tmp_path)
    path.write_text(path.read_text().replace("98.41", "8.41"))
    assert Record.read(path).edited


def test_a_record_without_its_hash_counts_as_changed(tmp_path: Path):
    path = five()[0].write(tmp_path)
    content = json.loads(path.read_text())
    del content["hash"]
    path.write_text(json.dumps(content))
    assert Record.read(path).edited


def test_layout_and_order_of_keys_are_no_change(tmp_path: Path):
    path = five()[0].write(tmp_path)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert not Record.read(path).edited


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, float(np.float32("nan"))])
def test_a_number_that_is_none_is_refused_by_its_place_and_nothing_is_written(tmp_path, value):
    rows = (quality(64, "native", 1.0), quality(32, "native", 1.0, spread=value))
    broken = record("mdm", quality=rows)
    with pytest.raises(ValueError, match=r"quality\[1\]\.spread is -?(nan|inf): write None"):
        broken.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_infinite_option_in_the_config_does_not_lose_the_run(tmp_path: Path):
    read = Record.read(record("mdm", config={"interval": [0, math.inf]}).write(tmp_path))
    assert read.config == {"interval": [0, "inf"]}


def test_what_is_neither_number_nor_text_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match=r"training\.seconds is a complex"):
        record("mdm", training={"seconds": 1j}).write(tmp_path)


def test_numpy_scalars_are_written_as_numbers():
    assert plain([np.int64(3), np.float32(0.5)], "x") == [3, 0.5]


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, "2"])
def test_another_schema_is_refused_in_a_sentence(tmp_path: Path, schema):
    path = five()[0].write(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema": schema}))
    with pytest.raises(
        ValueError, match=f"record schema {schema!r}, this version reads {SCHEMA}: "
    ):
        Record.read(path)


def test_a_record_of_schema_1_is_read_and_its_hash_still_holds(tmp_path: Path):
    path = five()[0].write(tmp_path)
    old = of_schema(json.loads(path.read_text()), 1)
    path.write_text(json.dumps(old))
    assert not Record.read(path).edited and Record.read(path).analysis == {}
    path.write_text(json.dumps({**old, "name": "better"}))
    assert Record.read(path).edited


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": NaN}', '{"schema": 1}'])
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, text: str):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="record.json"):
        Record.read(path)


@pytest.mark.parametrize("name", ["record.json", "samples.json", "log.jsonl", "captions.jsonl"])
def test_json_that_nests_too_deeply_is_an_error_of_its_file(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text("[" * 200_000 + "\n")
    readers = {
        "record.json": lambda: Record.read(path),
        "samples.json": lambda: own_files(tmp_path),
        "log.jsonl": lambda: read_log(path),
        "captions.jsonl": lambda: told_in(path.read_text(), path, {"a": "a"}),
    }
    with pytest.raises(ValueError, match=name):
        readers[name]()


@pytest.mark.parametrize("value", [10**300, 1e308, -1e101])
def test_a_number_whose_square_is_none_is_refused_by_its_place(tmp_path: Path, value: float):
    path = record("small", quality=(quality(8, "native", 2.0),)).write(tmp_path)
    content = json.loads(path.read_text())
    content["quality"][0]["spread"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"quality\[0\].spread is .* up to 1e\+100 or null"):
        Record.read(path)


def test_a_failed_write_keeps_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = five()[0].write(tmp_path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        five()[1].write(tmp_path)
    assert path.read_bytes() == before


def test_a_quality_row_has_a_view_and_a_side_that_is_better():
    with pytest.raises(ValueError, match="has view 'both': it is one of"):
        quality(64, "both", 1.0)
    with pytest.raises(ValueError, match="has better 'up': it is one of"):
        quality(64, "native", 1.0, better="up")


@pytest.mark.parametrize("kind", [Quality, CurvePoint])
def test_a_row_comes_back_from_its_plain_form(kind):
    """Every field has a value of its own, so that none is lost or taken for another."""
    spent = {
        "stage": "64",
        "step": 5,
        "images": 6.5,
        "flops": 7.5,
        "seconds": 8.5,
        "half_life": 9.5,
    }
    row = kind(
        Named("base", (8, 16, 16)), "pooled", "FD", 1.5, identity(64), n=10, n_reference=11,
        floor=0.5, route="pairs", better=None, values=(1.25, 1.75), spread=0.25, between=0.125,
        within=0.0625, draws=2, **(spent if kind is CurvePoint else {}),
    )  # fmt: skip
    again = kind.read(json.loads(json.dumps(row.plain())))
    assert again == row and again.resolution == (8, 16, 16)


def test_a_cost_comes_back_from_its_plain_form():
    """Every field has a value of its own, so that none is lost or taken for another."""
    numbers = {f.name: i + 0.5 for i, f in enumerate(fields(Cost)) if f.type == "float | None"}
    texts = {f.name: f.name for f in fields(Cost) if f.type == "str | None"}
    row = Cost(
        Named("base", (8, 16, 16)), (Named("base", (8, 16, 16)), (4, 16, 16), 8), runs=3,
        channels_last=True, train_noisy=False, sample_noisy=True,
        breakdown=(CostPart("decoder", 0.5, 3.0), CostPart("rest", 0.25)),
        train_sweep=(BatchTrial("batch 4", 2.0, 8.0),),
        sample_sweep=(BatchTrial("batch 8", failure="out of memory"),), **numbers, **texts,
    )  # fmt: skip
    assert None not in vars(row).values()
    again = Cost.read(json.loads(json.dumps(row.plain())))
    assert again == row and again.resolution == (8, 16, 16)


@pytest.mark.parametrize("place", ["cost", "breakdown"])
@pytest.mark.parametrize("schema", [4, SCHEMA])
def test_an_unknown_field_of_a_cost_is_refused_in_a_sentence_and_of_old_ones_left_out(
    tmp_path: Path, place, schema
):
    row = cost(64, 1.0, 2.0, breakdown=(CostPart("decoder", 0.5),))
    path = record("a", cost=(row,)).write(tmp_path)
    content = json.loads(path.read_text())
    (stored,) = content["cost"]
    (stored if place == "cost" else stored["breakdown"][0])["carbon_g"] = 3.0
    path.write_text(json.dumps(of_schema(content, schema) if schema < SCHEMA else content))
    if schema < SCHEMA and place == "cost":
        assert Record.read(path).cost == (row,)
        return
    where = "cost[0]" if place == "cost" else "cost[0].breakdown[0]"
    with pytest.raises(ValueError, match=f"{re.escape(where)}.carbon_g is no field that this"):
        Record.read(path)


def damaged(value: Any) -> Iterator[Any]:
    """A tree of JSON with one node in turn lost, or put in place of by a value of another kind."""
    yield from (None, -1, 1e200, True, "x y", [], [None], {}, {"x": 0})
    if isinstance(value, dict):
        for key in value:
            yield {name: one for name, one in value.items() if name != key}
            yield from ({**value, key: other} for other in damaged(value[key]))
    if isinstance(value, list) and value:
        yield from ([other, *value[1:]] for other in damaged(value[0]))


def test_whatever_breaks_the_form_has_a_sentence():
    whole = json.loads(json.dumps(ten("a").content()))
    row, bare = whole["quality"][0], {**whole, "quality": [], "cost": [], "config": {}}
    for value, form in ((row, QUALITY), (whole["cost"][0], COST), (bare, FORM)):
        holds = _test(form)
        faults = {_fault(one, form, "") for one in damaged(value) if not holds(one)}
        assert holds(value) and None not in faults and len(faults) > 30
        assert not any(_fault(one, form, "") for one in damaged(value) if holds(one))


def older(path: Path, text: str, **changed: Any) -> Record:
    """A record of schema 4, whose identities were text."""
    whole = record("a", quality=(quality(64, "native", 1.5),), provenance={"protocol": 2})
    content = of_schema(whole.content(), 4)
    for row in (*content["quality"], *(row for rows in content["scale"].values() for row in rows)):
        row.update({"identity": text, **changed})
    del content["hash"]
    (path / "record.json").write_text(json.dumps({**content, "hash": content_hash(content)}))
    return Record.read(path)


FORMS = {  # text of schema 4: parts
    "a@1 : bicubic-224 : uint8 : N=512 : rows=permuted(9) : ref=a1b2 : frechet": Identity(
        "a@1", "bicubic-224", "uint8", 512, None, "rows=permuted(9)", "a1b2", 2, "frechet"
    ),
    "torchmetrics : uint8 : N=8 : ref=abc": Identity(
        "torchmetrics", None, "uint8", 8, reference="abc", protocol=2
    ),
    "pixels : block-mean : uint8 : N=8 : frames=16 : ref=own : rms": Identity(
        "pixels", "block-mean", "uint8", 8, 16, None, "own", 2, "rms"
    ),
    **{
        text: Identity(text, protocol=2)
        for text in ("", "k=3", "a:b", "N=1 : x", "a : N=1 : b : c", "a:b:c:d:N=1:e", "a : N=one")
    },
}


@pytest.mark.parametrize("text", FORMS)
def test_identities_of_schema_4_are_parted_once_and_have_the_protocol_of_the_run(tmp_path, text):
    read = older(tmp_path, text)
    assert not read.edited and read.schema == SCHEMA
    assert {q.identity for q in (*read.quality, *read.scale["real"])} == {FORMS[text]}
    again = Record.read(read.write(tmp_path / "again"))
    assert not again.edited and again.quality == read.quality


@pytest.mark.parametrize(("metric", "better"), [("FD", "low"), ("recall", "high")])
def test_a_row_that_does_not_say_which_side_is_better_is_told_by_its_metric(
    tmp_path, metric, better
):
    assert older(tmp_path, "x", metric=metric).quality[0].better == better


@pytest.mark.parametrize("rows", ["quality", "curves", "scale"])
def test_a_row_of_the_present_schema_without_its_better_side_is_refused(tmp_path: Path, rows):
    row = point(64, "native", 0.9, metric="recall", better="high")
    own = {rows: {"real": (row,)} if rows == "scale" else (row,)}
    path = record("a", **own).write(tmp_path)
    content = json.loads(path.read_text())
    stored = content[rows]["real"] if rows == "scale" else content[rows]
    del stored[0]["better"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{rows}.*\[0\] lacks 'better'"):
        Record.read(path)


@pytest.mark.parametrize(
    "wrong", ["a@1 : uint8 : N=8", None, {}, {"maker": "a", "m": 1}, {"maker": 1}]
)
def test_an_identity_of_another_form_is_refused_by_its_place(tmp_path: Path, wrong):
    path = record("a", quality=(quality(64, "native", 1.5),)).write(tmp_path)
    content = json.loads(path.read_text())
    content["quality"][0]["identity"] = wrong
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"quality\[0\].identity"):
        Record.read(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda child: st.lists(child) | st.dictionaries(st.text(), child),
    max_leaves=8,
)


@settings(max_examples=30)
@given(content=st.dictionaries(st.text(), json_values))
def test_the_hash_is_of_the_values_alone(content):
    turned = dict(reversed(content.items()))
    assert content_hash(turned) == content_hash(json.loads(json.dumps(content)))
    assert content_hash({**content, "one more": 1}) != content_hash({**content, "one more": 2})


def test_provenance_is_a_record_s_and_tells_configs_apart(tmp_path: Path):
    started = now()
    one = provenance(started=started, seeds={"train": 3}, config={"steps": 50})
    other = provenance(started=started, seeds={"train": 3}, config={"steps": 51})
    read = Record.read(replace(record("mdm"), provenance=one).write(tmp_path)).provenance
    assert read == one
    assert one["config_hash"] != other["config_hash"]
    assert one["started"] == started <= one["ended"]
    assert one["seeds"] == {"train": 3}
    assert one["packages"]["torch"]
    assert one["machine"]["threads"] >= 1
    assert one["machine"]["cpu"]


def git(root: Path, *arguments: str) -> None:
    author = ("-c", "user.name=t", "-c", "user.email=t")
    subprocess.run(["git", *author, "-C", str(root), *arguments], check=True, capture_output=True)


def test_git_state_follows_commits_changes_and_new_files(tmp_path: Path):
    nothing = {"commit": None, "dirty": None, "diff_hash": None}
    assert git_state(tmp_path) == nothing
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["diff_hash"]) == (False, None)
    (tmp_path / "a").write_text("2")
    changed = git_state(tmp_path)
    (tmp_path / "b").write_text("3")
    added = git_state(tmp_path)
    assert changed["dirty"]
    assert len({changed["diff_hash"], added["diff_hash"], None}) == 3
    assert added["commit"] == clean["commit"]
    (tmp_path / "inside").mkdir()
    assert git_state(tmp_path / "inside") == nothing


def test_the_repository_is_that_of_the_code_also_in_a_git_hook(tmp_path: Path, monkeypatch):
    root = Path(__file__).parents[2]
    before = git_state(root)["commit"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert git_state(root)["commit"] == before
    assert git_state(tmp_path)["commit"] is None and git_state(tmp_path)["dirty"] is False


def test_levels_of_any_sides_and_of_the_same_sides_are_written_and_read_by_name(tmp_path):
    def row(name, view="native"):
        return Quality(name, view, "FD", 1.0, Identity("x"), n=8)

    names = [(8, 16, 16), Named("base", (8, 16, 16)), (4, 16, 16)]
    record = Record(
        name="video",
        method="video",
        data="clips",
        budget="smoke",
        resolutions=tuple(map(plain_of, names)),
        quality=tuple(map(row, names)),
        cost=tuple(Cost(name, trajectory=tuple(names[:2])) for name in names),
    )
    record.write(tmp_path / "video")
    again = Record.read(tmp_path / "video")
    assert not again.edited and again.resolutions == ([8, 16, 16], "base", [4, 16, 16])
    assert list(again.levels) == [q.level for q in again.quality] == names
    assert resolution_of(again.levels[1]) == (8, 16, 16)
    groups = list(dict.fromkeys(column.group for column in tabulate([again]).cells))
    assert groups == ["8x16x16 px", "base, 8x16x16 px", "4x16x16 px"]
    wanted = ["8x16x16", "base", "4x16x16"]
    assert list(dataframe(tmp_path).query("kind == 'quality'")["resolution"]) == wanted


NOWHERE = [{"resolution": one} for one in ([8, 0, 16], [8, "16"], "64", 0, True, None)]


@pytest.mark.parametrize("place", [*NOWHERE, {"level": "../a"}])
def test_a_row_of_no_level_is_refused(tmp_path, place):
    row = Quality(64, "native", "FD", 1.0, Identity("x"))
    record = Record("a", "a", "d", "b", (64,), quality=(row,))
    path = record.write(tmp_path)
    content = json.loads(path.read_text())
    content["quality"][0].update(place)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no record that can be read"):
        Record.read(path)
