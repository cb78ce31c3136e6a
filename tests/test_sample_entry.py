from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hierdiff.batch import Cond
from hierdiff.files.atomic import part_of
from hierdiff.files.lock import worked_in
from hierdiff.files.samples import FORMS, Samples
from hierdiff.images import to_uint8
from hierdiff.inputs import inputs
from hierdiff.sampled import (
    check_options,
    class_counts,
    make,
    negative_of,
    origins,
    requested,
    sample,
    start,
    warn_of_changed_code,
)
from hierdiff.training.bounds import tensors_of
from hierdiff.training.format import save_weights
from hierdiff.training.load import load_method
from tests.training.runs import NESTED, NODE, built, command, config

CONFIG = {"class_names": ["round", "square"], "text": None}
TEXT = {"class_names": [], "text": {"name": "vocabulary", "words": ["a", "red", "owl"], "width": 4}}


def options(**given: Any) -> dict[str, Any]:
    nothing = {"n": None, "labels": None, "captions": None, "guidance": None, "steps": 2}
    nothing |= {"given": None, "negative": None, "seed": 0}
    return {**nothing, "batch_size": 64, "samples": "png", **given}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, tensors_of(built()), config())
    return path


def test_labels_are_names_or_numbers_and_are_repeated():
    n, cond = requested(options(labels=["square", 0, -1], n=5), CONFIG)
    assert n == 5
    assert cond.labels is not None and cond.labels.tolist() == [1, 0, -1, 1, 0]


def test_the_number_of_images_follows_the_labels():
    assert requested(options(labels=[0, 1, 1]), CONFIG)[0] == 3
    assert requested(options(), CONFIG) == (16, Cond())


def test_captions_become_tokens():
    n, cond = requested(options(captions=["a red owl", ""]), TEXT)
    assert n == 2
    assert cond.mask is not None and cond.mask.sum(1).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("given", "known", "message"),
    [
        ({"labels": [2]}, CONFIG, "class 2 is out of range: choose from 0 round, 1 square"),
        ({"labels": ["sqare"]}, CONFIG, "did you mean 'square'"),
        ({"labels": 1}, CONFIG, r"labels=1: labels takes a list of one or more .*\[0, 1\]"),
        ({"labels": [0, 1], "n": 1}, CONFIG, "leave n out"),
        ({"captions": ["a"]}, CONFIG, "this one knows classes round, square: use labels"),
        ({"labels": [0]}, TEXT, "a model without classes"),
        ({"captions": ["a blue owl"]}, TEXT, "'blue'"),
        ({"guidance": 2.0}, {"class_names": []}, "guidance=2.0 needs a model with"),
    ],
)
def test_bad_wishes_are_refused(given: dict[str, Any], known: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        requested(options(**given), known)


def test_an_image_does_not_depend_on_how_many_are_made_at_once(tmp_path: Path):
    cpu = torch.device("cpu")
    for folder, n, batch in (("a", 3, 64), ("b", 2, 1)):
        cond = Cond(labels=torch.tensor([0, 1, 2])[:n])
        sample(built(), [{}] * n, cond, tmp_path / folder, options(batch_size=batch), cpu)
    for side in (8, 4):
        assert len(list((tmp_path / "a" / str(side)).glob("*.png"))) == 3
        for i in range(2):
            one, other = (
                np.asarray(Image.open(tmp_path / f / str(side) / f"{i:04d}.png")).astype(int)
                for f in "ab"
            )
            assert one.shape == (side, side, 3)
            assert abs(one - other).max() <= 1  # sums are rounded otherwise in another batch


@pytest.mark.parametrize(
    "given",
    [
        {"guidance": []},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"guidance": [1.0, float("inf")]},
        {"guidance": True},
        {"guidance": "2"},
        {"labels": [1.5]},
        {"labels": [True]},
        {"labels": [None]},
        {"labels": []},
        {"captions": [1]},
        {"captions": "a red owl"},
        {"steps": 2.5},
        {"steps": 0},
        {"steps": True},
        {"n": 0},
        {"n": 2.0},
        {"n": 10**12},
        {"steps": 10**12},
        {"batch_size": 0},
        {"batch_size": None},
        {"seed": None},
        {"seed": 1.5},
    ],
)
def test_options_of_the_wrong_kind_are_refused_before_anything_is_read(given: dict[str, Any]):
    ((name, _),) = given.items()
    with pytest.raises(ValueError, match=f"^{name}=.*: {name} takes ") as error:
        check_options(options(**given))
    assert "\n" not in str(error.value)


def test_what_was_drawn_is_told_by_class_or_by_how_many_captions():
    one = {"class": None, "class_index": None, "caption": "an owl"}
    assert class_counts([one, one]) == "2 under 1 caption"
    assert class_counts([one, one, {**one, "caption": "a fox"}]) == "3 under 2 captions"
    labelled = {**one, "class": "owl", "class_index": 3}
    assert class_counts([one, labelled]) == "1 of no class, 1 of owl (class 3)"


def test_the_command_writes_a_sheet_single_images_and_what_they_are(tmp_path: Path, weights: Path):
    run = weights.parent  # the folder of a run, or its weights.safetensors
    arguments = [f"checkpoint={run}", "labels=[a,3,-1]", "steps=1", "guidance=2", "device=cpu"]
    code, said = command("hierdiff.sample", tmp_path, arguments)
    assert code == 0, said
    assert "drawn: 1 of a (class 0), 1 of d (class 3), 1 of no class" in said
    out = tmp_path / "samples"
    names = sorted(str(p.relative_to(tmp_path)) for p in out.rglob("*.png"))
    single = [f"samples/{side}/000{i}.png" for side in (4, 8) for i in (0, 1, 2)]
    assert names == [*single, "samples/sheet.png"]
    images = json.loads((out / "samples.json").read_text())["images"]
    assert images[1] == {
        "files": ["8/0001.png", "4/0001.png"],
        "image": 1,
        "class": "d",
        "class_index": 3,
        "caption": None,
        "seed": 0,
        "negative": None,
        "guidance": 2,
        "steps": 1,
        "checkpoint": str(weights),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    assert images[2]["class"] is None and images[2]["class_index"] is None


def test_code_that_changed_since_training_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "nets_of_this_test.py"
    module.write_text("WIDTH = 1")
    model = {"method": {"denoiser": {"name": "nets_of_this_test:Net"}}}
    model["inputs"] = inputs(model)
    warn_of_changed_code(model)
    warn_of_changed_code({**model, "inputs": None})
    assert not caplog.messages
    module.write_text("WIDTH = 20")
    warn_of_changed_code(model)
    (message,) = caplog.messages
    assert message.startswith("the source of nets_of_this_test has changed since the model was")


def test_what_the_model_was_configured_with_is_listed(tmp_path: Path, weights: Path):
    (one,) = origins(built(), 1, Cond(), {**options(steps=None), "checkpoint": weights}, ())
    assert (one["steps"], one["guidance"], one["class"]) == (2, 1.0, None)


def test_a_second_call_leaves_nothing_of_the_first_one(tmp_path: Path):
    out, cpu = tmp_path / "out", torch.device("cpu")
    sample(built(), [{}] * 3, Cond(), out, options(), cpu)
    (out / "4" / ".0000.png.killed.part").touch()  # a process was killed here
    with worked_in(out):
        sample(built(), [{}] * 2, Cond(), out, options(seed=1), cpu)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    names = ("0000.png", "0001.png", "metadata.jsonl")
    singles = {f"{side}/{name}" for side in (8, 4) for name in names}
    assert files - {".lock"} == {*singles, "sheet.png", "samples.json"}


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_has_the_same_pixels_classes_and_seeds(kind: str, tmp_path: Path):
    """And one call after another leaves nothing of the form before."""
    cond, cpu = Cond(labels=torch.tensor([0, 1, -1])), torch.device("cpu")
    facts = [{"image": i, "class_index": c, "seed": 0} for i, c in enumerate((0, 1, None))]
    for samples in (*(set(FORMS) - {kind}), kind):
        sample(built(), facts, cond, tmp_path, options(samples=samples, batch_size=2), cpu)
    listed = {
        "png": {f"{side}/{name}" for side in (8, 4) for name in (*PNGS, "metadata.jsonl")},
        "npz": {"8.npz", "4.npz"},
        "webdataset": {"8/000000.tar", "4/000000.tar"},
        "float": {"8.npy", "4.npy"},
    }
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    files = {name for name in files if (tmp_path / name).is_file()}
    assert files - {".lock"} == {*listed[kind], "sheet.png", "samples.json"}
    made = json.loads((tmp_path / "samples.json").read_text("utf-8"))["images"]
    assert {name for image in made for name in image["files"]} <= listed[kind]
    plain = tmp_path.parent / f"{tmp_path.name}-plain"
    sample(built(), facts, cond, plain, options(batch_size=2), cpu)
    for side in (8, 4):
        expected = [np.asarray(Image.open(plain / str(side) / name)) for name in PNGS]
        assert np.array_equal(stored(tmp_path, kind, side), np.stack(expected))


PNGS = ("0000.png", "0001.png", "0002.png")


def stored(folder: Path, kind: str, side: int) -> np.ndarray:
    """The pixels of a level in any form."""
    if kind == "npz":
        kept = np.load(folder / f"{side}.npz")
        assert kept["arr_1"].tolist() == [0, 1, -1] and kept["seeds"].tolist() == [0, 0, 0]
        return kept["arr_0"]
    if kind == "float":
        kept = np.load(folder / f"{side}.npy")
        assert kept.dtype == np.float32
        return to_uint8(torch.from_numpy(kept)).movedim(1, -1).numpy()
    if kind == "png":
        return np.stack([np.asarray(Image.open(folder / str(side) / name)) for name in PNGS])
    with tarfile.open(folder / str(side) / "000000.tar") as archive:
        members = {one.name: archive.extractfile(one) for one in archive}
        read = {name: io.BytesIO(file.read()) for name, file in members.items() if file}
    assert {name for name in read if name.endswith(".cls")} == {"000000.cls", "000001.cls"}
    names = sorted(name for name in read if name.endswith(".png"))
    return np.stack([np.asarray(Image.open(read[name])) for name in names])


@pytest.mark.parametrize("other", ["4/0009.png", "notes.txt", "8/0000.jpg", "64/0000.png"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path, other: str):
    sample(built(), [{}] * 2, Cond(), tmp_path, options(), torch.device("cpu"))
    path = tmp_path / other
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"1 files that .* such as {other}: give another out="):
        sample(built(), [{}], Cond(), tmp_path, options(), torch.device("cpu"))
    assert sorted(tmp_path.rglob("*")) == before and path.read_text() == "mine"


@pytest.mark.parametrize(
    "told",
    [
        "{}",
        "not json",
        '{"images": [{"files": ["../precious.png"]}]}',
        '{"images": [{"files": ["../8/0000.png", "precious.png"]}]}',
    ],
)
def test_a_list_removes_nothing_but_images_of_its_folder(tmp_path: Path, told: str):
    out = tmp_path / "out"
    for path in (out / "samples.json", out / "precious.png", tmp_path / "precious.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(told)
    with pytest.raises(ValueError, match="give another out="):
        sample(built(), [{}], Cond(), out, options(), torch.device("cpu"))
    assert (tmp_path / "precious.png").exists() and (out / "precious.png").exists()


def test_weights_that_are_not_finite_end_the_command_and_write_nothing(tmp_path: Path):
    method = built()
    with torch.no_grad():
        next(iter(method.parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1 of 2"):
        sample(method, [{}], Cond(), tmp_path / "out", options(), torch.device("cpu"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_bad_commands_are_one_line(tmp_path: Path, weights: Path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:5000])
    trap = tmp_path / "trap.safetensors"
    node = {**NODE, "denoiser": {"name": "os:system"}}
    save_weights(trap, tensors_of(built()), config(node))
    for arguments, message in (
        (["checkpoint=nowhere"], "there is no checkpoint nowhere"),
        ([f"checkpoint={foreign}"], "was not written by hierdiff"),
        ([f"checkpoint={cut}"], "is cut short"),
        ([f"checkpoint={trap}"], "'os:system', and package 'os' is not trusted"),
        ([f"checkpoint={trap}", "trust=[os]"], "is not a subclass of Denoiser"),
        ([f"checkpoint={weights}", "labels=[4]"], "class 4 is out of range"),
        ([f"checkpoint={weights}", "device=tape"], "device=tape"),
        (["checkpoint=nowhere", "guidance=nan"], "guidance=nan: guidance takes a number"),
        (["checkpoint=nowhere", "labels=[null]"], "labels=[null]: labels takes a list"),
        (["checkpoint=nowhere", "seed=null"], "seed=null: seed takes a whole number"),
        (["checkpoint=5"], "checkpoint=5: checkpoint takes a text, or a path"),
        (["checkpoint=nowhere", "out=null"], "out=null: out takes a text, or a path"),
        (["checkpoint=nowhere", "trust=nets"], "trust='nets': trust takes a list of texts"),
        (["checkpoint=nowhere", "device=5"], "device=5: device takes a text, or null"),
        ([], "checkpoint"),
    ):
        code, said = command("hierdiff.sample", tmp_path, arguments)
        assert code == 1, arguments
        assert message in said
        assert said.count("\n") == 1 and said.startswith("error: ")
    assert not (tmp_path / "samples").exists()


def test_what_a_kill_left_in_the_folder_is_no_file_of_somebody_else(tmp_path: Path):
    """Neither half a picture nor pictures that a list names, whatever was removed first."""
    images = [{"seed": 0}, {"seed": 1}]
    start(Samples(tmp_path, "png", 2, digits=4), images, [4])
    (tmp_path / "4").mkdir()
    for name in ("0000.png", "0001.png", part_of(Path("0001.png")).name):
        (tmp_path / "4" / name).write_bytes(b"")
    removed, own = [], Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        own(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        start(Samples(tmp_path, "png", 2, digits=4), images, [4])
    assert removed[3] == "samples.json"  # the last of four
    assert [path.name for path in tmp_path.iterdir()] == ["samples.json"]


@pytest.mark.parametrize("names", [[None], ["a", 1], "abc", {"a": 1}, ["a", "b", "c"]])
def test_weights_whose_classes_have_no_names_are_refused_in_a_sentence(tmp_path: Path, names: Any):
    path = tmp_path / "weights.safetensors"
    node = config()
    node["facts"] = {**node["facts"], "classes": 1}
    save_weights(path, tensors_of(built()), {**node, "class_names": names})
    with pytest.raises(ValueError, match="does not name its 1 classes by a text each"):
        load_method(path)


def test_a_negative_caption_is_encoded_for_every_image_and_needs_a_model_of_text():
    config = {"text": {"name": "vocabulary", "words": ["red", "owl"], "width": 4, "length": 3}}
    cond = negative_of({"negative": "red"}, config, 2)
    assert cond.tokens.shape == (2, 3, 4) and cond.mask.tolist() == [[True, False, False]] * 2
    assert not negative_of({"negative": ""}, config, 2).mask.any()
    assert negative_of({"negative": None}, {}, 2) is None
    with pytest.raises(ValueError, match="negative='red' needs a model that was trained on text"):
        negative_of({"negative": "red"}, {"text": None}, 2)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"labels": ["b"]}, "labels were given to a model without"),
        ({"guidance": 2.0}, "guidance=2.0"),
    ],
)
def test_conditions_that_no_network_reads_are_refused_and_not_listed(tmp_path, wish, message):
    inner = {**NESTED["inner"], "classes": 0}
    node = {**NODE, "denoiser": {**NESTED, "classes": 0, "inner": inner}}
    place = tmp_path / "weights.safetensors"
    save_weights(place, tensors_of(built(node)), config(node))
    about = {"checkpoint": str(place), "out": str(tmp_path / "out"), "trust": [], "device": "cpu"}
    with pytest.raises(ValueError, match=message):
        make(options(**about, **wish))
    assert not (tmp_path / "out").exists()
