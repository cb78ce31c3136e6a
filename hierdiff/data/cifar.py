"""CIFAR-10 and CIFAR-100 in their own files: 60,000 images of 32 px, 10,000 of them the test part.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009). Read from the folder of
the published archives, either version: the binary one (`data_batch_1.bin`, `train.bin`) or the one
for Python (`data_batch_1`, `train`), whose pickles are read by an unpickler that makes arrays and
nothing else.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, UInt8

from hierdiff.data.cache import cache_folder
from hierdiff.data.image_data import ImageData, datasets
from hierdiff.data.pixels import area
from hierdiff.files.pickles import unpickled
from hierdiff.files.reading import check_regular, damage, read_text
from hierdiff.registry import Node

SIDE = 32
PIXELS = 3 * SIDE * SIDE
LICENCE = "none stated by its authors (Krizhevsky, Nair, Hinton)"


@dataclass(frozen=True)
class Release:
    """The files of one of the two sets. labels: bytes before the pixels of a binary row, of which
    the last counts; key, names: of the fine labels and their names in the version for Python."""

    train: tuple[str, ...]
    test: str
    labels: int
    key: str
    names: str
    names_key: str
    names_text: str


RELEASES = {
    10: Release(
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        *("test_batch", 1, "labels", "batches.meta", "label_names", "batches.meta.txt"),
    ),
    100: Release(
        ("train",),
        *("test", 2, "fine_labels", "meta", "fine_label_names", "fine_label_names.txt"),
    ),
}


@datasets.register("cifar")
def cifar(
    *,
    root: str | Path,
    classes: Literal[10, 100] = 10,
    resolution: int = SIDE,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = True,
) -> ImageData:
    """The images of a folder `cifar-10-batches-py`, `cifar-10-batches-bin`, `cifar-100-python` or
    `cifar-100-binary`, or of one that holds it; captions are "a photograph of a CLASS".

    resolution: a divisor of 32.

    Raises:
        ValueError: for another resolution, and files that are none.
        FileNotFoundError: where they are not there.
    """
    if resolution < 1 or SIDE % resolution:
        raise ValueError(f"cifar is {SIDE} px, resolution {resolution} does not divide it: take 32")
    release = RELEASES[classes]
    folder = _folder(Path(os.path.expanduser(root)), release)
    names = _names(folder, release, classes)
    parts = [_batch(folder, name, release) for name in (*release.train, release.test)]
    pixels = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([found for _, found in parts])
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{folder} has labels {labels.min()} to {labels.max()}: fetch it anew")
    images = area(pixels, resolution)
    train = len(pixels) - len(parts[-1][0])
    keys = [f"train/{i:05d}" for i in range(train)]
    keys += [f"test/{i:05d}" for i in range(len(pixels) - train)]
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return ImageData(
        name=f"cifar{classes}",
        images=images,
        keys=tuple(keys),
        licence=LICENCE,
        labels=labels,
        captions=tuple(f"a photograph of a {names[label].replace('_', ' ')}" for label in labels),
        class_names=names,
        flip=flip,
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        in_test=np.arange(len(pixels)) >= train,
        split="as published",
    ).with_text(text, cache_folder(cache))


def _folder(root: Path, release: Release) -> Path:
    inside = ("", "cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python")
    for place in (root / name for name in (*inside, "cifar-100-binary")):
        if (place / release.test).is_file() or (place / f"{release.test}.bin").is_file():
            return place
    raise FileNotFoundError(
        f"{root} holds no {release.test} or {release.test}.bin: unpack the published archive, and "
        f"set data.root to its folder"
    )


def _batch(
    folder: Path, name: str, release: Release
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int[np.ndarray, " n"]]:
    path = folder / f"{name}.bin"
    if not path.is_file():
        return _pickled(folder / name, release)
    with damage(path):
        check_regular(path)
        rows = np.fromfile(path, np.uint8)
        if not rows.size or rows.size % (release.labels + PIXELS):
            raise ValueError(
                f"{rows.size} bytes are no rows of {release.labels + PIXELS}: fetch it anew"
            )
        rows = rows.reshape(-1, release.labels + PIXELS)
        labels = rows[:, release.labels - 1].astype(np.int64)
        return rows[:, release.labels :].reshape(-1, 3, SIDE, SIDE), labels


def _pickled(
    path: Path, release: Release
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int[np.ndarray, " n"]]:
    with damage(path):
        content = arrays_in(path)
        pixels, labels = content["data"], content[release.key]
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise ValueError("its data is no array of bytes: fetch it anew")
        labels = np.array(labels, np.int64)
        pixels = pixels.reshape(-1, 3, SIDE, SIDE)
        if labels.shape != (len(pixels),):
            raise ValueError(f"{labels.shape} labels of {len(pixels)} images: fetch it anew")
        return pixels, labels


def _names(folder: Path, release: Release, classes: int) -> tuple[str, ...]:
    text, pickled = folder / release.names_text, folder / release.names
    names: Sequence[Any]
    if text.is_file():
        names = [line for line in read_text(text).split("\n") if line.strip()]
    else:
        with damage(pickled):
            names = arrays_in(pickled)[release.names_key]
    if len(names) != classes:
        raise ValueError(f"{folder} names {len(names)} classes, not {classes}: fetch it anew")
    return tuple(str(name) for name in names)


def arrays_in(path: Path) -> dict[str, Any]:
    """The mapping in a pickle of arrays, numbers and text; nothing in it is called.

    Raises:
        OSError: where it is no regular file.
        UnpicklingError: for a pickle of anything else.
    """
    check_regular(path)
    content = unpickled(path.read_bytes())
    if not isinstance(content, dict):
        raise pickle.UnpicklingError("it holds no mapping")
    return {_word(key): _words(value) for key, value in content.items()}


def _word(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _words(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(one, bytes) for one in value):
        return [_word(one) for one in value]
    return value
