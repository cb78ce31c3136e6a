"""All samples that are measured, in the run folder, so that others can measure them again.

`samples=png` gives `samples/seed0/64/000000.png`, `samples=npz` `samples/seed0-64.npz` with
`arr_0` (uint8, n h w c) and, where there are classes, `arr_1`, the class of each image, as ADM and
EDM write them. Seed and level are in the names. While a seed is drawn, an `.npz` is a `.npy`, into
which a process that goes on after a kill writes the rest.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from einops import rearrange

from benchmarks.measure.samples import PixelImages
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows
from hierdiff.files.atomic import part_of, write_png
from hierdiff.images import to_pil
from hierdiff.levels import Name, text_of

KINDS = ("npz", "png")


class Stored:
    """The samples of one seed.

    kind: one of `KINDS`. n: their number. data: under whose `evaluation_rows` they are made.
    """

    def __init__(self, folder: Path, kind: str, seed: int, n: int, data: ImageData):
        self.folder, self.kind, self.seed, self.n, self.data = folder, kind, seed, n, data
        self._levels: dict[Name, Path] = {}

    def add(self, start: int, images: PixelImages) -> None:
        """Images number `start` and following, of each level; number 0 removes older ones."""
        pictures = self.folder / f"seed{self.seed}"
        if start == 0:
            shutil.rmtree(pictures, ignore_errors=True)
        for level, batch in images.items():
            if self.kind == "npz":
                pixels = rearrange(batch.numpy(), "b c h w -> b h w c")
                rows = self._array(level, start, pixels.shape[1:])
                if rows is not None:
                    rows[start : start + len(pixels)] = pixels
                    rows.flush()
                continue
            for number, image in enumerate(batch, start):
                write_png(pictures / text_of(level) / f"{number:06}.png", to_pil(image))

    def close(self) -> None:
        """All images have been added."""
        arrays = {}
        if self.data.labels is not None:
            rows = evaluation_rows(len(self.data), range(self.n))
            arrays["arr_1"] = self.data.labels[rows.numpy()]
        for path in self._levels.values():
            part = part_of(path.with_suffix(".npz"))
            with part.open("wb") as file:
                np.savez(file, arr_0=np.load(path, mmap_mode="r"), **arrays)
            os.replace(part, path.with_suffix(".npz"))
            path.unlink()

    def _array(self, level: Name, start: int, shape: tuple[int, ...]) -> np.memmap | None:
        """The rows of a level; None where a killed process has closed them already."""
        path = self.folder / f"seed{self.seed}-{text_of(level)}.npy"
        if start and not path.exists() and path.with_suffix(".npz").exists():
            return None
        self._levels[level] = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if start:  # of this process or of one that was killed
            return np.lib.format.open_memmap(path, "r+")
        return np.lib.format.open_memmap(path, "w+", np.uint8, (self.n, *shape))
