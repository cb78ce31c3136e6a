"""Published files of the tests: the networks of tests/reference_data in their own layouts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hierdiff.interop.conversion import Converted, convert
from hierdiff.methods import Method
from hierdiff.training import load_method

FOLDER = Path(__file__).parent.parent / "reference_data"
PREFIX = "weights."
OPTIONS = {  # what the shapes of a tiny network do not show, and differs from the release
    "mdm_two_level": {"resolution": 8, "text_length": 5},
    "mdm_three_level": {"resolution": 4, "text_length": 5},
    "adm_tiny": {"resolution": 16, "head_width": 16, "new_order": True},
    "adm_upsampler_tiny": {"resolution": 16, "low": 8, "head_width": 16},
}


@cache
def tensors_of(name: str) -> dict[str, torch.Tensor]:
    """All tensors of a reference file."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def weights_of(name: str) -> dict[str, torch.Tensor]:
    """The weights of a reference file in their project's layout."""
    found = tensors_of(name).items()
    return {key.removeprefix(PREFIX): value for key, value in found if key.startswith(PREFIX)}


def released(folder: Path, name: str, suffix: str = ".safetensors") -> Path:
    """The file that the project would have released."""
    path = folder / f"{name}{suffix}"
    if suffix == ".safetensors":
        save_file(weights_of(name), path)
    else:
        torch.save({"state_dict": weights_of(name), "epoch": 3}, path)
    return path


def converted(folder: Path, name: str) -> Converted:
    """A reference network as a method of ours."""
    return convert(released(folder, name), OPTIONS[name])


def method_of(folder: Path, name: str) -> Method:
    """A reference network, converted, saved and loaded again."""
    out = folder / "ours.safetensors"
    converted(folder, name).save(out)
    return load_method(out)[0]


def relative(found: torch.Tensor, target: torch.Tensor) -> float:
    """The largest difference over the largest number."""
    return float((found - target).abs().max() / target.abs().max())
