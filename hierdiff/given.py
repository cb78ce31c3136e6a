"""Noise and conditions of samples out of a file, in place of a seed and captions.

What another implementation started from is given as arrays with a row for each image, so that its
trajectory can be made again and compared number by number. An `.npz` or `.safetensors` holds any of

- `noise/NAME` for every level of the last stage, n c and sides: the state at t = 1 over its
  standard deviation; further draws, as of an ancestral sampler, follow the seed;
- `labels`, n whole numbers, -1 for none;
- `tokens`, n l d, and `mask`, n l, 1 where there is a word: text as its encoder gives it;
- `vector/NAME`, n d, and `scalar/NAME`, n: other conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hierdiff.batch import Cond
from hierdiff.files.arrays import read_npz
from hierdiff.files.reading import damage
from hierdiff.methods import Generator, Method
from hierdiff.noise import Noise
from hierdiff.resolution import text_of

ALONE = {"labels": 1, "tokens": 3, "mask": 2}  # arrays without a name of their own, and their axes
NAMED = {"noise/": None, "vector/": 2, "scalar/": 1}  # None: as the level has


@dataclass(frozen=True)
class Given:
    """n rows of noise and conditions; noise: of each level by its text, or empty."""

    n: int
    cond: Cond
    noise: Mapping[str, Tensor]

    def source(self, rows: range, other: Noise) -> Noise:
        """The noise of these rows for the first draw of each level; later ones are of `other`."""
        left = iter([level[rows.start : rows.stop] for level in self.noise.values()])

        def noise(shape: Sequence[int]) -> Tensor:
            drawn = other(shape)
            return next(left, drawn).to(drawn).reshape(tuple(shape))

        return noise


def read(path: str | Path, method: Method) -> Given:
    """The rows of a file for this method.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it cannot be read, holds other arrays, rows or shapes than the method
            takes, or numbers that are not finite.
    """
    path = Path(path)
    arrays = _arrays(path)
    if not arrays:
        raise ValueError(f"{path} holds no array: write noise/NAME, labels, tokens and mask, ...")
    for name, array in arrays.items():
        _check(f"{path}: {name}", name, array)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"{path} has rows {counts}: give each array a row for each image")
    if ("tokens" in arrays) != ("mask" in arrays):
        raise ValueError(f"{path} has tokens or mask alone: give both")
    if "tokens" in arrays and arrays["tokens"].shape[:2] != arrays["mask"].shape:
        raise ValueError(
            f"{path}: mask of {tuple(arrays['mask'].shape)} for tokens of "
            f"{tuple(arrays['tokens'].shape)}: give one for each token"
        )
    cond = Cond(
        labels=arrays["labels"].long() if "labels" in arrays else None,
        tokens=arrays["tokens"].float() if "tokens" in arrays else None,
        mask=arrays["mask"].bool() if "mask" in arrays else None,
        vectors=_named(arrays, "vector/"),
        scalars=_named(arrays, "scalar/"),
    )
    return Given(next(iter(counts.values())), cond, _noise(path, _named(arrays, "noise/"), method))


def _arrays(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        with damage(path):
            return load(path.read_bytes())
    raise ValueError(f"{path} ends in {path.suffix or 'nothing'}: give an .npz or .safetensors")


def _check(place: str, name: str, array: Tensor) -> None:
    kind = next((kind for kind in NAMED if name.startswith(kind) and name != kind), None)
    if name not in ALONE and kind is None:
        known = ", ".join([*ALONE, *(f"{kind}NAME" for kind in NAMED)])
        raise ValueError(f"{place} is no array that is known: {known}")
    axes = ALONE[name] if kind is None else NAMED[kind]
    if axes is not None and array.ndim != axes:
        raise ValueError(f"{place} has shape {tuple(array.shape)}: give it {axes} axes")
    if array.is_complex() or not array.isfinite().all():
        raise ValueError(f"{place} has numbers that are not finite reals: leave them out")
    if name == "labels" and array.is_floating_point():
        raise ValueError(f"{place} is {array.dtype}: give whole numbers, -1 for no class")


def _named(arrays: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    found = {name: array for name, array in arrays.items() if name.startswith(kind)}
    return {name.removeprefix(kind): array.float() for name, array in found.items()}


def _noise(path: Path, noise: dict[str, Tensor], method: Method) -> dict[str, Tensor]:
    """In the order of the levels of the method's stage.

    Raises:
        ValueError: for other levels or shapes, and a method of several stages.
    """
    if not noise:
        return {}
    stage = method.stages[-1]
    if not isinstance(stage, Generator) or len(stage.chain) > 1:
        raise ValueError(
            f"{path} has noise, which one stage begins from, and the images of this model pass "
            f"through several: give a seed"
        )
    names = [text_of(name) for name in stage.resolutions]
    wanted = {name: tuple(shape) for name, shape in zip(names, stage.shapes(), strict=True)}
    found = {name: tuple(level.shape[1:]) for name, level in noise.items()}
    if found != wanted:
        raise ValueError(f"{path} has noise {found} behind the rows; the model takes {wanted}")
    return {name: noise[name] for name in names}
