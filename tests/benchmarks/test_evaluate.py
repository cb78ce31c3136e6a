"""Images from elsewhere, measured: their record, what it shares a table with, and refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks.conditions import EvaluationConditions, OwnConditions
from benchmarks.external import evaluate, external_settings
from benchmarks.measure.scale import real_references
from benchmarks.report.content import page
from benchmarks.report.pictures import ReportFiles
from benchmarks.sweep.finished import Unlike
from benchmarks.tables.beside import beside
from benchmarks.tables.notes import protocols
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.table import tabulate
from hierdiff.command import plain_config
from hierdiff.config import folder_of_configs
from hierdiff.data import ImageData, datasets
from hierdiff.files.lock import worked_in
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.frechet import Statistics, distance
from hierdiff.metrics.reference import feature_batches, levels_of, write_moments
from hierdiff.results.record import Record
from tests.benchmarks.measure.test_external import put
from tests.benchmarks.measured import quality

N, SIDE = 40, 8


def pixels(n: int = N, side: int = SIDE, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Real images, 40 generated ones as PNG files and as an array."""
    folder = tmp_path_factory.mktemp("evaluate")
    put(folder / "real", pixels(80, seed=2))
    put(folder / "png", pixels())
    np.savez(folder / "a.npz", arr_0=pixels())
    return folder


def measured(place: Path, *words: str, images: str = "a.npz", out: str = "out") -> Record:
    """The record of images with a few words of the command line."""
    own = ["label=VAR", f"folder={place / out}"]
    if not any(word.startswith("images=") for word in words):
        own.append(f"images={place / images}")
    if not any(word.startswith("data=") for word in words):
        own += ["data=folder", f"data.root={place / 'real'}", f"data.resolution={SIDE}"]
    own += ["measure.extractor={name: random_conv}", "measure.metrics=[fd,kd,auto]"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        chosen = [word for word in (*own, *words) if word != "data=none"]
        config = plain_config(compose("evaluate", overrides=chosen))
    settings = external_settings(config)
    with worked_in(settings.place):
        return evaluate(settings)


def known(record: Record) -> dict[str, Any]:
    """All of a record but paths and times."""
    content = record.content()
    content["config"] = {
        k: v for k, v in content["config"].items() if k not in ("images", "folder")
    }
    told = content["provenance"]
    for name in ("started", "ended", "config_hash", "machine"):
        del told[name]
    return content


def test_files_and_an_array_of_the_same_images_give_the_same_record(place):
    array, files = measured(place, out="one"), measured(place, images="png", out="two")
    assert known(array) == known(files)
    assert array.external and array.budget == "unknown" and array.data == "folder"
    assert array.resolutions == (8,) and {q.level for q in array.quality} == {8, 4}
    assert set(array.stated.values()) == {"unknown"}
    assert {q.metric for q in array.quality} == {"FD-RandomConv", "KD-RandomConv"}
    assert all(q.n == N and q.spread is None for q in array.quality)
    assert all(q.floor is not None for q in array.quality if q.metric == "FD-RandomConv")
    assert set(array.scale) == {"real", "gaussian"}
    assert (place / "one" / "samples.png").is_file() and (place / "one" / "real.png").is_file()


def test_the_distance_is_that_of_the_library_on_the_same_features(place):
    record, extractor = measured(place, out="library"), RandomConv()
    (data,) = [datasets.build(dict(record.config["data"]))]
    references = real_references(data, extractor, [8, 4], place / "statistics")
    images = torch.from_numpy(pixels().transpose(0, 3, 1, 2).copy())
    for side, level in levels_of(images, [8, 4]).items():
        batches = [one["features"] for one in feature_batches(extractor, level)]
        expected = distance(Statistics.of(torch.cat(batches)), references[side].statistics).value
        (row,) = {q.value for q in record.quality if (q.level, q.metric[:2]) == (side, "FD")}
        assert row == pytest.approx(expected, rel=1e-6)


def run_record(place: Path, external: Record, folder: Path, **changed: Any) -> Record:
    """The record of a run on the same data, with as many images under the conditions of a test."""
    data: ImageData = datasets.build(dict(external.config["data"]))
    extractor = RandomConv()
    references = real_references(data, extractor, [8, 4], place / "statistics")
    images = torch.from_numpy(pixels(seed=3).transpose(0, 3, 1, 2).copy())
    rows = quality([[{8: images}]], extractor, references, ["fd", "kd"],
                   conditions=data.part("test"))  # fmt: skip
    told = {"name": "mdm", "method": "mdm", "data": "folder", "budget": "default"}
    made = Record(**{**told, "resolutions": (8,), "quality": tuple(rows), **changed})
    return Record.read(made.write(folder))


def test_it_stands_beside_a_run_and_is_marked(place):
    external = measured(place, "stated.guidance=1.5", out="table/var")
    run = run_record(place, external, place / "table" / "mdm")
    assert run.quality[0].identity.rows is not None and external.quality[0].identity.rows is None
    for records in ([external, run], beside(external, place / "table" / "var")):
        table = tabulate(records)
        assert set(table.rows) == {"VAR (external)", "mdm", "real images", "Gaussian"}
        column = next(c for c in table.columns if c.title.startswith("FD"))
        assert set(table.cells[column]) == set(table.rows)
        (note,) = [note for note in table.notes if note.startswith("VAR (external)")]
        assert "one set, so no spread, under conditions that are not known" in note
        assert "states: guidance 1.5; unknown: method, checkpoint" in note
    shown = page([external, run], ReportFiles())
    (section,) = shown.sections
    assert [entry.label for entry in section.entries] == ["VAR (external)", "mdm"]
    assert len(section.groups) == 1 and not shown.unread


def test_a_table_refuses_to_mix_it_with_what_is_measured_otherwise(place):
    external = measured(place, out="mix/var")
    fewer = measured(place, "measure.samples=20", out="mix/fewer")
    with pytest.raises(ValueError, match="would mix"):
        tabulate([external, fewer])
    run = run_record(place, external, place / "mix" / "mdm")
    other = run_record(place, external, place / "mix" / "other", data="critters")
    with pytest.raises(ValueError, match="cannot share a table"):
        tabulate([external, other])
    with pytest.raises(ValueError, match="would mix"):
        tabulate([run, fewer])


def test_disjoint_sets_give_a_spread(place):
    record = measured(place, "measure.samples=16", "measure.batch=16", out="sets")
    for q in record.quality:
        assert q.n == 16 and len(q.values) == 2 and q.spread is not None
    assert record.provenance["images"]["left over"] == 8
    put(place / "half", pixels()[:16])
    one = measured(place, "measure.metrics=[fd]", images="half", out="half")
    same = [q for q in record.quality if q.metric == "FD-RandomConv"]
    assert [q.values[0] for q in same] == [q.value for q in one.quality]


@pytest.mark.parametrize("kind", [EvaluationConditions, OwnConditions])
def test_the_images_of_a_later_set_have_conditions_of_their_own(kind, place, monkeypatch):
    captions = np.array([f"image {i}" for i in range(N)])
    np.savez(place / "sets.npz", arr_0=pixels(), captions=captions)
    asked: list[int] = []
    monkeypatch.setattr(kind, "captions", lambda self, places: asked.extend(places))
    word = "conditions=own" if kind is OwnConditions else "conditions=test"
    measured(place, word, "measure.samples=16", images="sets.npz", out=f"later/{kind.__name__}")
    of_scale = kind is EvaluationConditions  # real images and the Gaussian, asked for before
    assert asked[-32:] == list(range(32)) and (of_scale or len(asked) == 32)


def test_images_under_the_conditions_of_the_test_part_have_its_identity(place):
    record = measured(place, "conditions=test", out="conditions")
    assert {q.identity.rows for q in record.quality} == {
        q.identity.rows for q in record.scale["real"]
    }


def test_statistics_in_a_file_take_the_place_of_data(place):
    record = measured(place, out="stored")
    extractor = RandomConv()
    data = datasets.build(dict(record.config["data"]))
    references = real_references(data, extractor, [8, 4], place / "statistics")
    write_moments(place / "photos.npz", references[8], {})
    words = ["data=none", f"measure.references={{8: {place / 'photos.npz'}}}"]
    against = measured(place, *words, "measure.metrics=[fd]", out="moments")
    fd = [q.value for q in record.quality if (q.level, q.metric[:2]) == (8, "FD")]
    assert [q.value for q in against.quality] == pytest.approx(fd)
    assert against.data == "photos" and not against.scale
    named = measured(place, *words, "measure.metrics=[fd]", "dataset=Photos", out="named")
    assert named.data == "Photos"
    with pytest.raises(ValueError, match="kd.* holds moments alone"):
        measured(place, *words, out="kernel")


def test_the_same_command_reads_the_record_and_another_is_refused(place, monkeypatch):
    first = measured(place, out="again")

    def measured_twice(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("benchmarks.external.measure_images", measured_twice)
    assert measured(place, out="again").hash == first.hash
    assert measured(place, images="png", out="again").hash == first.hash  # the same pixels
    with pytest.raises(Unlike, match="made with stated.steps='unknown', now it is 50"):
        measured(place, "stated.steps=50", out="again")
    np.savez(place / "other.npz", arr_0=pixels(seed=9))
    with pytest.raises(Unlike, match="another content of images .*other.npz"):
        measured(place, images="other.npz", out="again")


def test_images_that_are_no_squares_are_to_be_cut(place):
    np.savez(place / "wide.npz", arr_0=np.zeros((4, SIDE, 2 * SIDE, 3), np.uint8))
    with pytest.raises(ValueError, match="images are of 8x16 px, .* of 8 px: cut them to squares"):
        measured(place, images="wide.npz", out="refused")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.resolution=4"], "images are of 8 px, data=folder of 4 px: give data.resolution=8"),
        (["data.channels=1"], "images are in colour, data=folder in greyscale"),
        (["data=none"], "nothing to be compared with at 8 px: give data=NAME"),
        (["measure.samples=41"], "a.npz: 40 images, 41 are needed"),
        (["measure.resolutions=[3]"], "3 does not divide 8"),
        (["measure.metrics=[attributes]"], "needs the conditions that images were made under"),
        (["measure.metrics=[fdd]"], "unknown metric 'fdd', did you mean"),
        (
            ["measure.references={2: a.npz}", "measure.resolutions=[4]"],
            "reference files for .2. px, where nothing is",
        ),
        (["split=test"], "split"),
        (["measure.sampels=3"], "has no option 'sampels', did you mean 'samples'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_measured(place, words, message):
    with pytest.raises((ValueError, TypeError), match=message):
        measured(place, *words, out="refused")
    assert not (place / "refused").exists()


def test_what_a_function_yields_is_the_same_record_and_says_its_origin(place, monkeypatch):
    (place / "their_model.py").write_text(
        "import numpy as np\n"
        "def draw(path, n):\n"
        "    yield from np.array_split(np.load(path)['arr_0'][:n], 3)\n"
    )
    monkeypatch.syspath_prepend(place)
    array, path = measured(place, out="of_array"), place / "a.npz"
    words = [f"images={{name: 'their_model:draw', path: {path}, n: {N}}}"]
    with pytest.raises(PermissionError, match="wants to import 'their_model:draw'"):
        measured(place, *words, out="of_function")
    drawn = measured(place, *words, f"trust=[{place / 'their_model.py'}]", out="of_function")
    assert drawn.quality == array.quality
    told = drawn.provenance["images"]
    assert told["sha256"] == array.provenance["images"]["sha256"]
    assert told["function"] == "their_model:draw" and told["arguments"]["n"] == N
    assert len(told["source"]) == 64
    again = measured(place, *words, "trust=[their_model]", out="of_function")
    assert again.hash == drawn.hash


def test_an_image_without_a_caption_has_no_clip_score(place):
    np.savez(place / "some.npz", arr_0=pixels(), captions=np.array(["a red owl", *[""] * 39]))
    with pytest.raises(ValueError, match="'clip_score': 39 images have no caption: give each one"):
        measured(
            place, "conditions=own", "measure.metrics=[clip_score]", images="some.npz", out="some"
        )


def test_captions_beside_images_are_their_own_conditions(place):
    np.savez(place / "told.npz", arr_0=pixels(), captions=np.array(["a red owl"] * N))
    with pytest.raises(ValueError, match="no caption or class is beside the images"):
        measured(place, "conditions=own", out="untold")
    record = measured(place, "conditions=own", images="told.npz", out="told")
    assert record.provenance["images"]["captions"] == N
    assert {q.identity.rows for q in record.quality} == {None}
    np.savez(place / "told.npz", arr_0=pixels(), captions=np.array(["a blue owl"] * N))
    with pytest.raises(Unlike, match="another content of captions and labels"):
        measured(place, "conditions=own", images="told.npz", out="told")


def test_the_same_images_under_another_folder_compute_no_feature_again(place, caplog):
    other = pixels(n=16, seed=5)
    np.savez(place / "b.npz", arr_0=other)
    with caplog.at_level("INFO"):
        first = measured(place, images="b.npz", out="first")
    assert "features of 32 images computed, of 0 kept" in caplog.text  # 16 at each of two sides
    caplog.clear()
    with caplog.at_level("INFO"):
        second = measured(place, "stated.steps=9", images="b.npz", out="second")
    assert "features of 0 images computed, of 32 kept" in caplog.text
    assert second.quality == first.quality


@pytest.mark.parametrize("preset", PRESETS)
def test_every_table_and_the_report_say_what_the_maker_states_and_what_not(preset, place):
    facts = {
        **{"method": "VAR", "checkpoint": "d30", "guidance": 1.5, "sampler": "top-k", "steps": 10},
        **{"ema": "none", "precision": "bf16", "seed": 7, "labels": "random"},
        **{"source": "a paper", "licence": "MIT"},
    }
    unknown = measured(place, out="states/nothing")
    all_known = measured(place, *(f"stated.{k}={v}" for k, v in facts.items()), out="states/all")
    assert set(unknown.stated) == set(facts) and dict(all_known.stated) == facts
    records = [replace(unknown, name="silent"), all_known]
    notes = "\n".join(tabulate(records, preset).notes)
    words = ", ".join(f"{name} {value}" for name, value in facts.items())
    begin = "one set, so no spread, under conditions that are not known; its maker states: "
    assert f"VAR (external): {begin}{words}" in notes
    assert f"silent (external): {begin}" in notes
    assert f"unknown: {', '.join(facts)}" in notes
    assert words in repr(page(records, ReportFiles()))


@pytest.mark.slow
def test_parts_agree_with_the_captions_beside_real_images_and_not_with_those_of_others(tmp_path):
    data = datasets.build({"name": "critters", "resolution": 32}).part("test")
    assert data.captions is not None
    count = 32
    put(tmp_path / "right", data.images[:count].transpose(0, 2, 3, 1))
    shutil.copytree(tmp_path / "right", tmp_path / "wrong")
    words = ["conditions=own", "data=critters", "data.resolution=32", "measure.resolutions=[32]"]
    agreement = {}
    for name, shift in (("right", 0), ("wrong", 5)):
        for i in range(count):
            text = data.captions[(i + shift) % count]
            (tmp_path / name / f"{i}.txt").write_text(text, encoding="utf-8")
        record = measured(tmp_path, *words, images=name, out=f"out/{name}")
        assert record.provenance["images"]["captions"] == count
        (found,) = {q.value for q in record.quality if q.metric == "attribute accuracy"}
        agreement[name] = found
    assert agreement["right"] > 0.9 > 0.5 > agreement["wrong"]


def test_a_published_protocol_measures_as_it_says_and_departures_are_told(place):
    words = ("protocol=fid50k_imagenet_256", f"measure.samples={N}", "measure.references=null")
    record = measured(place, *words, "stated.labels=random", out="as a paper")
    assert record.provenance["evaluation"] == {
        "protocol": "fid50k_imagenet_256",
        "departures": [
            "40 of 50,000 samples",
            "8 px instead of 256 px",
            "extractor random_conv instead of inception",
            "the training images instead of VIRTUAL_imagenet256_labeled.npz",
            "without sfid, is_in_order, pr_all",
        ],
    }
    silent = measured(place, *words, out="labels unknown")
    assert "unknown labels instead of random" in silent.provenance["evaluation"]["departures"]
    assert ", from which it departs: 40 of 50,000 samples" in str(list(protocols({"VAR": silent})))


def test_a_protocol_without_its_files_names_them_before_an_image_is_read(place):
    with pytest.raises(FileNotFoundError, match="needs VIRTUAL_imagenet256_labeled.npz .*https://"):
        measured(place, "protocol=fid50k_imagenet_256", images="absent.npz")
