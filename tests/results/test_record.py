from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tables.table import tabulate
from hierdiff.data.folder import read_captions
from hierdiff.levels import Named, plain_of, resolution_of
from hierdiff.results import dataframe
from hierdiff.results.plain import content_hash, plain
from hierdiff.results.provenance import git_state, now, provenance
from hierdiff.results.record import SCHEMA, Record
from hierdiff.results.rows import better, level_of, place_of
from hierdiff.sample import own_files
from hierdiff.training import log
from tests.benchmarks.rows import cost, five, quality, record


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
    assert read.cost[0]["train_images_per_s"] == 0.1 + 0.2
    assert read.cost[0]["sample_images_per_s"] is None


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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_number_that_is_none_is_refused_by_its_place_and_nothing_is_written(tmp_path, value):
    broken = record("mdm", quality=(quality(64, "native", 1.0), quality(32, "native", value)))
    with pytest.raises(ValueError, match=r"quality\[1\]\.value is -?(nan|inf): write None"):
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
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("analysis", "hash")}
    old["schema"] = 1
    path.write_text(json.dumps({**old, "hash": content_hash(old)}))
    assert not Record.read(path).edited and Record.read(path).analysis == {}
    path.write_text(json.dumps({**old, "name": "better", "hash": content_hash(old)}))
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
        "log.jsonl": lambda: log.read(path),
        "captions.jsonl": lambda: read_captions(path, {"a": "a"}),
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


@pytest.mark.parametrize("broken", [{"view": "both"}, {"value": 1.0}])
def test_a_quality_row_says_what_and_where(broken):
    row = quality(64, "native", 1.0) | broken
    if "view" not in broken:
        del row["identity"]
    with pytest.raises(ValueError, match="a row of quality (lacks|has view)"):
        record("mdm", quality=(row,))


def test_a_row_says_which_side_is_better_and_an_old_one_is_told_by_its_name():
    assert better(quality(64, "native", 1.0)) == "low"
    assert better(quality(64, "native", 1.0, metric="recall")) == "high"
    assert better(quality(64, "native", 1.0, metric="recall", better="low")) == "low"
    assert better(quality(64, "native", 1.0, better=None)) is None
    with pytest.raises(ValueError, match="has better 'up': it is one of"):
        record("mdm", quality=(quality(64, "native", 1.0, better="up"),))


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
        told = {"view": view, "metric": "FD", "value": 1.0, "identity": "x", "n": 8}
        return {**place_of(name), **told}

    names = [(8, 16, 16), Named("base", (8, 16, 16)), (4, 16, 16)]
    record = Record(
        name="video",
        method="video",
        data="clips",
        budget="smoke",
        resolutions=tuple(map(plain_of, names)),
        quality=tuple(map(row, names)),
        cost=tuple({**place_of(name), "trajectory": names[:2]} for name in names),
    )
    record.write(tmp_path / "video")
    again = Record.read(tmp_path / "video")
    assert not again.edited and again.resolutions == ([8, 16, 16], "base", [4, 16, 16])
    assert list(again.levels) == [level_of(q) for q in again.quality] == names
    assert resolution_of(again.levels[1]) == (8, 16, 16)
    groups = list(dict.fromkeys(column.group for column in tabulate([again]).cells))
    assert groups == ["8x16x16 px", "base, 8x16x16 px", "4x16x16 px"]
    wanted = ["8x16x16", "base", "4x16x16"]
    assert list(dataframe(tmp_path).query("kind == 'quality'")["resolution"]) == wanted


NOWHERE = [{"resolution": one} for one in ([8, 0, 16], [8, "16"], "64", 0, True, None)]


@pytest.mark.parametrize("place", [*NOWHERE, {"level": "../a"}])
def test_a_row_of_no_level_is_refused(tmp_path, place):
    quality = {"view": "native", "metric": "FD", "value": 1.0, "identity": "x"}
    record = Record("a", "a", "d", "b", (64,), quality=({"resolution": 64, **quality},))
    path = record.write(tmp_path)
    content = json.loads(path.read_text())
    content["quality"][0].update(place)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no record that can be read"):
        Record.read(path)
