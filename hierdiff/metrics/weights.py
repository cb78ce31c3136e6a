"""Files of pretrained weights: where they are looked for, what is checked, how they are read.

Nothing is downloaded unless it is asked for, nothing absent is replaced by something else, and no
pickle is run.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hierdiff.files.reading import check_regular
from hierdiff.inputs import sha256

WEIGHTS_FOLDER = "HIERDIFF_WEIGHTS"


def given(path: str | Path | None, missing: str) -> Path:
    """The file at `path`. FileNotFoundError where it is none: `missing` says what to do."""
    place = None if path is None else Path(path).expanduser()
    if place is None or not place.is_file():
        raise FileNotFoundError(f"weights={path} is no file: {missing}")
    return place


def places(name: str) -> list[Path]:
    """Where a file of this name may lie: `$HIERDIFF_WEIGHTS`, then torch hub's checkpoints."""
    folder = os.environ.get(WEIGHTS_FOLDER)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return [Path(f).expanduser() / name for f in (folder, cache) if f]


def checked_hash(path: Path, example: str) -> str:
    """The 8 hex digits in the file name, once they are found to begin the file's sha256."""
    stated = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if stated is None:
        raise ValueError(
            f"weights file {path} does not say its hash: keep the name {example}, "
            f"or end the name of your own in -<first 8 hex digits of its sha256>.pth"
        )
    found = sha256(path)[:8]
    if found != stated[1]:
        raise ValueError(
            f"weights file {path} has sha256 {found}..., its name says {stated[1]}: "
            f"the file is damaged or another one, fetch it again"
        )
    return found


def content(path: Path) -> Any:
    """What a file of safetensors holds, or one that `torch.load(weights_only=True)` reads, on the
    CPU. ValueError says why it cannot be read so."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text advises to trust the file
        raise ValueError("it holds code or objects") from error
    except Exception as error:  # of damage torch says all sorts of things
        raise ValueError(first_line(error)) from error


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from what `torch.load(weights_only=True)` reads.

    ValueError where it is neither, holds other things, or numbers that are not finite.
    """
    check_regular(path)
    try:
        found = content(path)
    except ValueError as error:
        raise ValueError(
            f"weights file {path} cannot be read as tensors alone ({error}): "
            f"the file is damaged or another one, fetch it again"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"weights file {path} is no table of tensors by name: fetch it again")
    check_finite(found, path)
    return dict(found)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """ValueError naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        wide = torch.promote_types(tensor.dtype, torch.float32)  # fp8 knows no isfinite
        if tensor.is_floating_point() and not bool(tensor.to(wide).isfinite().all()):
            raise ValueError(
                f"weights file {path}: {name!r} is not finite (NaN or infinity): fetch it again"
            )


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def taken(state: dict[str, Tensor], like: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors named in `like`, which must be there with its shapes."""
    for key, wanted in like.items():
        if key not in state or state[key].shape != wanted.shape:
            found = tuple(state[key].shape) if key in state else "nothing"
            raise ValueError(
                f"weights file {path} has {found} under {key}, not {tuple(wanted.shape)}: "
                f"give the file that the option asks for"
            )
    return {key: state[key] for key in like}
