"""The embedded default: 2,048 drawn creatures at 64 px, with every part known.

Artist-drawn vector art put together at random (see README.md beside this file), not photographs.
Light falls from the left and winks and leaning bodies face one way, so a mirrored critter is
not a critter: no flip. The key of an example is its seed.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from hierdiff.data.cache import cache_folder, decoded
from hierdiff.data.critters.law import LAW
from hierdiff.data.critters.words import caption
from hierdiff.data.image_data import ImageData, datasets, in_split_order
from hierdiff.data.pixels import area
from hierdiff.files.arrays import read_npz
from hierdiff.files.reading import read_text
from hierdiff.registry import Node

COUNT, SIDE = 2048, 64
SHA256 = "106ac9b54886fd7bff1d43226a08de61ed501f04525cf9bc0e9eef4e940d56d5"  # of n h w c pixels
LICENCE = "CC0 1.0 (DiceBear style 'Critters')"


@datasets.register("critters")
def critters(
    *,
    resolution: int = 32,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = False,
) -> ImageData:
    """Block means of the 64 px images; class = body shape (14), captions from the parts.

    resolution: a divisor of 64. `attributes` holds the code of each of nine parts, whose `law` is
    known.

    Raises:
        ValueError: for another resolution.
    """
    if not 1 <= resolution <= SIDE or SIDE % resolution:
        raise ValueError(
            f"critters are {SIDE} px and resolution {resolution} does not divide that: "
            f"choose 8, 16, 32 or 64"
        )
    folder = Path(__file__).parent
    names = json.loads(read_text(folder / "names.json"))
    parts = read_npz(folder / "critters.npz", tuple(names))
    codes = {name: parts[name].astype(np.int64) for name in names}
    seeds = [f"{seed:04d}" for seed in range(len(codes["body"]))]
    order = in_split_order(seeds)

    @functools.cache  # read on the first use alone: the cache has them afterwards
    def pixels() -> np.ndarray:
        return read_npz(folder / "critters.npz", ("pixels",))["pixels"]

    folder_of_cache = cache_folder(cache)
    found = decoded(
        "critters",
        order,
        lambda seed: (area(pixels()[seed].transpose(2, 0, 1), resolution), SIDE),
        channels=3,
        resolution=resolution,
        identity=SHA256,
        cache=folder_of_cache,
    )
    attributes = {name: values[order] for name, values in codes.items()}
    return ImageData(
        name="critters",
        images=found.images,
        keys=tuple(seeds[row] for row in order),
        licence=LICENCE,
        labels=attributes["body"],
        captions=tuple(
            caption({name: names[name][values[row]] for name, values in codes.items()})
            for row in order
        ),
        class_names=tuple(names["body"]),
        flip=flip,
        attributes=attributes,
        attribute_names={name: tuple(values) for name, values in names.items()},
        law=LAW,
        digests=found.digests,
    ).with_text(text, folder_of_cache)
