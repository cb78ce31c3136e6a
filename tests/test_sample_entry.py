from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hierdiff.batch import Cond
from hierdiff.sample import asked, sample
from hierdiff.training.checkpoint import save_weights, tensors_of
from tests.training.runs import NODE, built, command, config

CONFIG = {"class_names": ["round", "square"], "text": None}
TEXT = {"class_names": [], "text": {"name": "vocabulary", "words": ["a", "red", "owl"], "width": 4}}


def options(**given: Any) -> dict[str, Any]:
    nothing = {"n": None, "labels": None, "captions": None, "guidance": None, "steps": 2}
    return {**nothing, "seed": 0, "batch_size": 64, **given}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, tensors_of(built()), config())
    return path


def test_labels_are_names_or_numbers_and_are_repeated():
    n, cond = asked(options(labels=["square", 0, -1], n=5), CONFIG)
    assert n == 5
    assert cond.labels is not None and cond.labels.tolist() == [1, 0, -1, 1, 0]


def test_the_number_of_images_follows_the_labels():
    assert asked(options(labels=[0, 1, 1]), CONFIG)[0] == 3
    assert asked(options(), CONFIG) == (16, Cond())


def test_captions_become_tokens():
    n, cond = asked(options(captions=["a red owl", ""]), TEXT)
    assert n == 2
    assert cond.mask is not None and cond.mask.sum(1).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("given", "known", "message"),
    [
        ({"labels": [2]}, CONFIG, "class 2 is out of range: choose from 0 round, 1 square"),
        ({"labels": ["sqare"]}, CONFIG, "did you mean 'square'"),
        ({"labels": 1}, CONFIG, r"labels=\[0,1\]"),
        ({"labels": [0, 1], "n": 1}, CONFIG, "leave n out"),
        ({"n": 0}, CONFIG, "at least one image"),
        ({"captions": ["a"]}, CONFIG, "this one knows classes round, square: use labels"),
        ({"labels": [0]}, TEXT, "a model without classes"),
        ({"captions": ["a blue owl"]}, TEXT, "'blue'"),
        ({"guidance": 2.0}, {"class_names": []}, "guidance=2.0 needs a model with"),
    ],
)
def test_bad_wishes_are_refused(given: dict[str, Any], known: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        asked(options(**given), known)


def test_an_image_does_not_depend_on_how_many_are_made_at_once(tmp_path: Path):
    cpu = torch.device("cpu")
    for folder, n, batch in (("a", 3, 64), ("b", 2, 1)):
        cond = Cond(labels=torch.tensor([0, 1, 2])[:n])
        sample(built(), n, cond, tmp_path / folder, options(batch_size=batch), cpu)
    for side in (8, 4):
        assert len(list((tmp_path / "a" / str(side)).iterdir())) == 3
        for i in range(2):
            one, other = (
                np.asarray(Image.open(tmp_path / f / str(side) / f"{i:04d}.png")).astype(int)
                for f in "ab"
            )
            assert one.shape == (side, side, 3)
            assert abs(one - other).max() <= 1  # sums are rounded otherwise in another batch


def test_the_command_writes_a_sheet_and_single_images(tmp_path: Path, weights: Path):
    arguments = [f"checkpoint={weights}", "labels=[a,3]", "steps=1", "guidance=2", "device=cpu"]
    code, said = command("hierdiff.sample", tmp_path, arguments)
    assert code == 0, said
    names = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "samples").rglob("*.png"))
    single = [f"samples/{side}/000{i}.png" for side in (4, 8) for i in (0, 1)]
    assert names == [*single, "samples/sheet.png"]


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
        ([], "checkpoint"),
    ):
        code, said = command("hierdiff.sample", tmp_path, arguments)
        assert code == 1, arguments
        assert message in said
        assert said.count("\n") == 1 and said.startswith("error: ")
    assert not (tmp_path / "samples").exists()
