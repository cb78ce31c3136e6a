"""Files of pretrained weights: where they are looked for, what is checked, how they are read.

A download needs an explicit option, an absent file is never replaced by another, and no pickle is
executed.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hierdiff.files.reading import check_regular
from hierdiff.inputs import sha256

WEIGHTS_FOLDER = "HIERDIFF_WEIGHTS"


def located(path: str | Path) -> Path:
    """The path of a file; of a name without a folder that is not here, its first place among
    `search_paths`."""
    place = Path(path).expanduser()
    if place.exists() or place.parent != Path():
        return place
    return next((one for one in search_paths(place.name) if one.is_file()), place)


def first_file(weights: str | Path | None, places: Sequence[Path], name: str, absent: str) -> Path:
    """The path in `weights`, or without one the first of `places` that is a file.

    name: of the weights; absent: what to do where there are none.

    Raises:
        FileNotFoundError: with the places searched.
    """
    candidates = places if weights is None else [Path(weights).expanduser()]
    for place in candidates:
        if place.is_file():
            return place
    searched = " or ".join(map(str, candidates))
    raise FileNotFoundError(f"the {name} weights are not at {searched}: {absent}")


def made(make: Callable[[], Path]) -> int:
    """The exit code of a command that makes a file of weights, which prints its path and size, or
    why there is none."""
    try:
        path = make()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def search_paths(name: str, cache: Path | None = None) -> list[Path]:
    """Where a file of this name may lie: `$HIERDIFF_WEIGHTS`, then `cache`, which is torch hub's
    folder of checkpoints where it is None."""
    folder = os.environ.get(WEIGHTS_FOLDER)
    cache = Path(torch.hub.get_dir()) / "checkpoints" if cache is None else cache
    return [Path(f).expanduser() / name for f in (folder, cache) if f]


def checked_hash(path: Path, example: str) -> str:
    """The 8 hex digits at the end of the file name, which must begin the file's sha256.

    example: a name of the right form, for the error.

    Raises:
        ValueError: where the name has no hash, or the file another one.
    """
    stated = re.search(r"-([0-9a-f]{8})\.(?:pth|safetensors)$", path.name)
    if stated is None:
        raise ValueError(
            f"weights file {path} does not say its hash: keep the name {example}, "
            f"or end the name of your own in -<first 8 hex digits of its sha256>{path.suffix}"
        )
    digest = sha256(path)[:8]
    if digest != stated[1]:
        raise ValueError(
            f"weights file {path} has sha256 {digest}..., its name says {stated[1]}: "
            f"the file is damaged or another one, fetch it again"
        )
    return digest


def content(path: Path) -> Any:
    """The object in a safetensors file, or in one of `torch.load(weights_only=True)`, on the CPU.

    Raises:
        ValueError: where it cannot be read this way, with the reason.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text advises to trust the file
        raise ValueError("it holds code or objects") from error
    except Exception as error:  # of damage torch says all sorts of things
        raise ValueError(first_line(error)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from a file of `torch.load(weights_only=True)`.

    Raises:
        ValueError: where it is neither, holds anything but tensors, or numbers that are not finite.
    """
    check_regular(path)
    try:
        tensors = content(path)
    except ValueError as error:
        raise ValueError(
            f"weights file {path} cannot be read as tensors alone ({error}): "
            f"the file is damaged or another one, fetch it again"
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"weights file {path} is no table of tensors by name: fetch it again")
    check_finite(tensors, path)
    return dict(tensors)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors with NaN or infinity; path: their file, for the error.

    Raises:
        ValueError: with the name of the first such tensor.
    """
    for name, tensor in tensors.items():
        wide = torch.promote_types(tensor.dtype, torch.float32)  # fp8 knows no isfinite
        if tensor.is_floating_point() and not bool(tensor.to(wide).isfinite().all()):
            raise ValueError(
                f"weights file {path}: {name!r} is not finite (NaN or infinity): fetch it again"
            )


def first_line(error: Exception) -> str:
    """First line of an error's text, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def matching(
    state: dict[str, Tensor], like: dict[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """The tensors of `state` that `like` names; others are left out.

    Raises:
        ValueError: where one is absent or has another shape.
    """
    for key, tensor in like.items():
        if key not in state or state[key].shape != tensor.shape:
            shape = tuple(state[key].shape) if key in state else "nothing"
            raise ValueError(
                f"weights file {path} has {shape} under {key}, not {tuple(tensor.shape)}: "
                f"give the file that the option asks for"
            )
    return {key: state[key] for key in like}
