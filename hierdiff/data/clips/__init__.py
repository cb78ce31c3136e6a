"""The embedded clips: 1,024 creatures that blink, walk, turn or hop, 16 frames of 32 px.

They are drawn by `drawing.py` when they are first used, which takes some seconds, compared with
their SHA-256 and kept in the cache. Light falls from the left and a walk to the left is a class of
its own: no flip. The key of an example is its seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierdiff.data.buckets import shown_otherwise
from hierdiff.data.cache import Decoded, cache_folder, decoded
from hierdiff.data.clips.drawing import (
    COUNT,
    FRAMES,
    NAMES,
    SHA256,
    SIDE,
    caption,
    check,
    draw,
    parts_of,
)
from hierdiff.data.image_data import ImageData, datasets, in_split_order
from hierdiff.data.pixels import area
from hierdiff.options import Count
from hierdiff.registry import Node
from hierdiff.resolution import plain_of, resolution_of, sides_of

RATE = 8  # frames a second of whole clips
LICENCE = "CC0 1.0 (drawn by hierdiff)"


@datasets.register("clips")
def clips(
    *,
    resolution: Count | Sequence[Count] = (FRAMES, SIDE, SIDE),
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = False,
    scalars: Sequence[str] = (),
    varied: bool = False,
) -> ImageData:
    """Class = what the creature does (6), captions from the parts, whose codes are `attributes`.

    resolution: [frames, side, side], where frames divides 16 and side 32. Fewer frames are every
    second, fourth ... one, smaller sides are block means. One number, a side, gives images: the
    first frame of each clip. scalars: `fps`, frames a second, 8 in a whole clip. varied: training
    shows clips that begin at the first frame and leave out 0, 1, 3 ... between two, drawn from the
    seed; measurements take frames spread evenly over the whole clip.

    Raises:
        ValueError: for another resolution, another scalar, scalars or `varied` of images, and where
            a machine draws other clips.
    """
    *frames, height, width = sides_of(resolution)
    count = frames[0] if frames else 1
    if len(frames) > 1 or height != width or SIDE % height or FRAMES % count:
        raise ValueError(
            f"clips have {FRAMES} frames of {SIDE} px and resolution {plain_of(resolution)} does "
            f"not divide that: choose [16, 32, 32], [8, 16, 16], or a side such as 32 for images"
        )
    if {*scalars} - {"fps"} or (not frames and (scalars or varied)):
        raise ValueError(
            f"scalars {list(scalars)} and varied={varied} of clips at {plain_of(resolution)}: the "
            f"one scalar is fps, and both are of clips of [frames, side, side] alone"
        )
    seeds = [f"{seed:04d}" for seed in range(COUNT)]
    order = in_split_order(seeds)

    folder = cache_folder(cache)
    kept: dict[str, Any] = {"channels": 3, "cache": folder}
    whole = decoded(
        "clips",
        order,
        lambda row: (draw(row), SIDE),
        resolution=(FRAMES, SIDE, SIDE),
        identity=SHA256,
        **kept,
    )
    check(whole.digests[np.argsort(order)].tobytes())

    def made(strides: Sequence[int], what: str = "") -> Decoded:
        def read(place: int) -> tuple[np.ndarray, int]:
            pixels = area(whole.images[place][:, :: strides[place]][:, :count], height)
            return (pixels if frames else pixels[:, 0]), SIDE

        return decoded(
            "clips",
            range(len(order)),
            read,
            resolution=resolution_of(resolution),
            identity=SHA256 + what,
            **kept,
        )

    def rates(strides: Sequence[int]) -> dict[str, np.ndarray]:
        return dict.fromkeys(scalars, np.array([RATE / stride for stride in strides], np.float32))

    even = [FRAMES // count] * len(order)
    found = whole if sides_of(resolution) == (FRAMES, SIDE, SIDE) else made(even)
    parts = [parts_of(row) for row in order]
    codes = {name: np.array([one[name] for one in parts], np.int64) for name in NAMES}
    data = ImageData(
        name="clips",
        images=found.images,
        keys=tuple(seeds[row] for row in order),
        licence=LICENCE,
        labels=codes["motion"],
        captions=tuple(map(caption, parts)),
        class_names=NAMES["motion"],
        flip=flip,
        scalars=rates(even),
        attributes=codes,
        attribute_names=NAMES,
        digests=found.digests,
    ).with_text(text, folder)
    if not varied:
        return data
    strides = [_stride(row, FRAMES // count) for row in order]
    return shown_otherwise(data, made(strides, "varied"), rates(strides))


def _stride(seed: int, largest: int) -> int:
    """1, 2, 4 ... up to `largest`, a power of two: each as likely, drawn from the seed."""
    draw = int.from_bytes(hashlib.sha256(f"rate {seed}".encode()).digest()[:4], "little")
    return 2 ** (draw * largest.bit_length() >> 32)
