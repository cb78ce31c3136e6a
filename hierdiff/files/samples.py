"""Samples in the forms that others read, with what each was made from.

In the folder of a seed, by level: `64.npz` with `arr_0` (uint8, n h w c) and, where there are any,
`arr_1` (int64, -1 for no class), `captions` and `seeds`, as ADM and EDM write them;
`64/000000.png` beside a `metadata.jsonl`, as of a Hugging Face image folder; or shards of 1000
samples as webdataset reads them, `64/000000.tar` with `000000.png`, `000000.txt` (caption),
`000000.cls` (class number) and `000000.json` (all that is known). `float` is `64.npy`, float32,
n c h w in [-1, 1] and not rounded.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hierdiff.files.atomic import part_of, write, write_png

KINDS = ("png", "npz", "webdataset")  # that others read
FORMS = (*KINDS, "float")
METADATA = "metadata.jsonl"
SHARD = 1000  # samples in a shard
Facts = Mapping[str, Any]  # of one sample: class_index, caption, seed, ...; None is not known


class Samples:
    """Samples of all levels on their way into a folder, also over a kill.

    kind: one of `FORMS`. n: how many there will be. digits: of the number in the name of a PNG.
    Until `close` an `.npz` and shards are a `.npy`, into which a process that goes on writes the
    rest.
    """

    def __init__(self, folder: Path, kind: str, n: int, digits: int = 6):
        self.folder, self.kind, self.n, self.digits = folder, kind, n, digits

    def files(self, level: str, number: int) -> str:
        """Where image `number` of a level is, below the folder."""
        places = {
            "png": f"{level}/{number:0{self.digits}}.png",
            "npz": f"{level}.npz",
            "webdataset": f"{level}/{number // SHARD:06}.tar",
            "float": f"{level}.npy",
        }
        return places[self.kind]

    def add(self, start: int, images: Mapping[str, np.ndarray]) -> None:
        """Images number `start` and following, of each level; number 0 removes older ones.

        images: uint8, n h w c; of the kind "float" float32, n c and sides.
        """
        if start == 0:
            for level in images:
                shutil.rmtree(self.folder / level, ignore_errors=True)
        for level, pixels in images.items():
            if self.kind == "png":
                for number, image in enumerate(pixels, start):
                    write_png(self.folder / self.files(level, number), _picture(image))
                continue
            rows = self._rows(level, start, pixels)
            if rows is not None:
                rows[start : start + len(pixels)] = pixels
                rows.flush()

    def close(self, facts: Sequence[Facts]) -> None:
        """All images have been added; facts: of each."""
        for place in sorted(self.folder.iterdir()):
            if self.kind == "png" and place.is_dir():
                names = [Path(self.files(place.name, row)).name for row in range(self.n)]
                write_metadata(place, names, facts)
            elif self.kind in ("npz", "webdataset") and place.suffix == ".npy":
                pixels = np.load(place, mmap_mode="r")
                if self.kind == "npz":
                    write_array(place.with_suffix(".npz"), pixels, facts)
                else:
                    write_shards(place.with_suffix(""), pixels, facts)
                place.unlink()

    def _rows(self, level: str, start: int, like: np.ndarray) -> np.memmap | None:
        """The rows of a level; None where a killed process has closed them already."""
        path = self.folder / f"{level}.npy"
        if start and not path.exists() and (self.folder / self.files(level, 0)).exists():
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        if start:  # of this process or of one that was killed
            return np.lib.format.open_memmap(path, "r+")
        return np.lib.format.open_memmap(path, "w+", like.dtype, (self.n, *like.shape[1:]))


def write_array(path: Path, pixels: UInt8[np.ndarray, "n h w c"], facts: Sequence[Facts]) -> None:
    """Writes an `.npz` at once; facts: of each sample."""
    arrays: dict[str, np.ndarray] = {"arr_0": pixels}
    classes = _column(facts, "class_index")
    if classes is not None:
        arrays["arr_1"] = np.array([-1 if one is None else one for one in classes], np.int64)
    captions = _column(facts, "caption")
    if captions is not None:
        arrays["captions"] = np.array([one or "" for one in captions])
    seeds = _column(facts, "seed")
    if seeds is not None:
        arrays["seeds"] = np.array(seeds)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_metadata(folder: Path, names: Sequence[str], facts: Sequence[Facts]) -> None:
    """Writes the facts of the samples in files of these names."""
    lines = [
        json.dumps({"file_name": name, **_stated(one)}, ensure_ascii=False)
        for name, one in zip(names, facts, strict=True)
    ]
    write(folder / METADATA, "".join(f"{line}\n" for line in lines).encode())


def write_shards(
    folder: Path, pixels: UInt8[np.ndarray, "n h w c"], facts: Sequence[Facts]
) -> list[str]:
    """Writes `000000.tar` and so on; the names. The same samples give the same bytes."""
    names = []
    for number, first in enumerate(range(0, len(pixels), SHARD)):
        name = f"{number:06}.tar"
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for row in range(first, min(first + SHARD, len(pixels))):
                for suffix, data in _members(pixels[row], facts[row]):
                    about = tarfile.TarInfo(f"{row:06}.{suffix}")
                    about.size = len(data)
                    archive.addfile(about, io.BytesIO(data))
        write(folder / name, content.getvalue())
        names.append(name)
    return names


def _members(image: UInt8[np.ndarray, "h w c"], facts: Facts) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    _picture(image).save(buffer, "png")
    yield "png", buffer.getvalue()
    if facts.get("caption") is not None:
        yield "txt", facts["caption"].encode()
    if facts.get("class_index") is not None:
        yield "cls", str(facts["class_index"]).encode()
    yield "json", json.dumps(_stated(facts), ensure_ascii=False).encode()


def _picture(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _stated(facts: Facts) -> dict[str, Any]:
    """With the names that readers of image folders know: `text` and `label`."""
    other = {"caption": "text", "class_index": "label"}
    return {other.get(name, name): value for name, value in facts.items() if value is not None}


def _column(facts: Sequence[Facts], name: str) -> list[Any] | None:
    """One value of each sample, None where no sample has it."""
    values = [one.get(name) for one in facts]
    return values if any(value is not None for value in values) else None
