"""Noise and conditions out of a file are those that samples start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hierdiff.convert import main as convert
from hierdiff.given import read
from hierdiff.methods import Method
from hierdiff.noise import from_generator
from hierdiff.sampled import make
from tests.interop.published import OPTIONS, released, tensors_of
from tests.test_sample_entry import options
from tests.training.runs import built

NOISE = {f"noise/{side}": np.ones((2, 3, side, side), np.float32) for side in (8, 4)}


@pytest.fixture(scope="module")
def method() -> Method:
    return built()


def saved(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "start.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["mdm_two_level", "mdm_three_level"])
def test_a_published_trajectory_is_made_by_commands(tmp_path: Path, name: str):
    """Of the released sampler, from their noise and text: within 1e-4."""
    tensors = tensors_of(name)
    sides = [key.removeprefix("noise.") for key in tensors if key.startswith("noise.")]
    arrays = {f"noise/{side}": tensors[f"noise.{side}"].numpy() for side in sides}
    arrays |= {"tokens": tensors["text"].numpy(), "mask": tensors["text_mask"].numpy()}
    arrays |= {"scalar/scale": tensors["micro.scale"].numpy()}
    save_file(arrays, tmp_path / "start.safetensors")
    ours, out = tmp_path / "ours.safetensors", tmp_path / "out"
    words = [f"{option}={value}" for option, value in OPTIONS[name].items()]
    convert([str(released(tmp_path, name)), *words, "-o", str(ours)])
    common = {"checkpoint": str(ours), "out": str(out), "device": "cpu", "trust": []}
    start = str(tmp_path / "start.safetensors")
    make(options(**common, given=start, steps=6, guidance=1.0, samples="float", batch_size=1))
    for side in sides:
        found = torch.from_numpy(np.load(out / f"{side}.npy"))
        target = tensors[f"ddim6.dynamic_if.{side}"]
        torch.testing.assert_close(found, target, rtol=0, atol=1e-4)


def test_the_first_draws_are_the_files_and_later_ones_the_seeds(tmp_path: Path, method: Method):
    given = read(saved(tmp_path, NOISE), method)
    other = from_generator(torch.Generator().manual_seed(0))
    noise = given.source(range(1, 2), other)
    assert bool((noise((1, 3, 8, 8)) == 1).all()) and bool((noise((1, 3, 4, 4)) == 1).all())
    assert bool((noise((1, 3, 8, 8)) != 1).all())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no array"),
        ({"noise/8": NOISE["noise/8"]}, r"noise \{'8': .* the model takes \{'8': .*'4'"),
        (NOISE | {"noise/2": np.ones((2, 3, 2, 2))}, "the model takes"),
        (NOISE | {"noise/4": np.full((2, 3, 4, 4), np.nan)}, "noise/4 has numbers .* not finite"),
        (NOISE | {"labels": np.zeros(3, np.int64)}, "rows .*: give each array a row"),
        ({"labels": np.zeros(2)}, "labels is torch.float64: give whole numbers"),
        ({"labels": np.zeros((2, 1), np.int64)}, r"shape \(2, 1\): give it 1 axes"),
        ({"tokens": np.zeros((2, 3, 4))}, "tokens or mask alone"),
        ({"tokens": np.zeros((2, 3, 4)), "mask": np.ones((2, 4))}, "one for each token"),
        ({"images": np.zeros(2)}, "images is no array that is known: labels, tokens"),
    ],
)
def test_other_arrays_are_refused_in_a_sentence(tmp_path: Path, method: Method, arrays, message):
    with pytest.raises(ValueError, match=message) as error:
        read(saved(tmp_path, arrays), method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["start.pt", "start", "start.npz", "start.safetensors"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, method: Method, name: str):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ValueError, match="ends in|cannot be read"):
        read(tmp_path / name, method)
