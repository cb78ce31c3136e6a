"""Images in one array of an `.npz`, with classes and captions beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from benchmarks.measure.external.base import External, Label
from hierdiff.files.arrays import Rows, names_in

ARRAY, LABELS, CAPTIONS = "arr_0", "arr_1", "captions"


class Stack(External):
    """Images in one array: `arr_0`, uint8, n h w c; classes in `arr_1`, as numbers (-1 for none),
    names or one of k, and texts in `captions`.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file without such an array, or labels or captions of another number or
            kind.
    """

    def __init__(self, path: Path):
        names = names_in(path)
        if ARRAY not in names:
            hint = " (measure.references={SIDE: FILE} is for moments)" if "mu" in names else ""
            raise ValueError(
                f"{path} holds {', '.join(names) or 'nothing'} and no {ARRAY}{hint}: give uint8 "
                f"images, n h w c, under {ARRAY}"
            )
        self.rows = Rows(path, ARRAY)
        shape, dtype = self.rows.shape, self.rows.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or not all(shape):
            raise ValueError(
                f"{path}: {ARRAY} is {dtype} {shape}, where uint8 images (n, h, w, 3) or "
                f"(n, h, w, 1) in 0..255 are needed: convert it, "
                f"x in [0, 1] by (255 * x).round().astype('uint8'), n c h w by "
                f"x.transpose(0, 2, 3, 1)"
            )
        self.shape = shape[1], shape[2], shape[3]
        if LABELS in names:
            self.labels = _classes(self._beside(path, LABELS, "label"), path)
        if CAPTIONS in names:
            captions = self._beside(path, CAPTIONS, "caption")
            if captions.dtype.kind != "U":
                raise ValueError(f"{path}: {CAPTIONS} is {captions.dtype}: give text")
            self.captions = captions.tolist()

    def _beside(self, path: Path, name: str, what: str) -> np.ndarray:
        rows = Rows(path, name)
        if rows.shape[:1] != self.rows.shape[:1] or len(rows.shape) > 2:
            raise ValueError(
                f"{path}: {name} is of shape {rows.shape} for {len(self.rows)} images: give one "
                f"{what} an image, or leave it out"
            )
        return rows.read(0, len(rows))

    @override
    def __len__(self) -> int:
        return len(self.rows)

    @override
    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n h w c"]:
        return self.rows.read(start, stop)


def _classes(labels: np.ndarray, path: Path) -> list[Label | None]:
    """The class of each row; labels: (n,) or (n, 1), or (n, k) of which one is 1.

    Raises:
        ValueError: for what is none of these.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise ValueError(f"{path}: a row of {LABELS} is not one of k: give a single 1 in each")
        labels = labels.argmax(1)
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"{path}: {LABELS} is {labels.dtype}: give whole numbers or names")
    return [None if label == -1 else label for label in labels.tolist()]
