"""The embedded default: 2,048 drawn creatures at 64 px, with every part known.

Artist-drawn vector art put together at random (see README.md beside this file), not photographs.
Light falls from the left and winks and leaning bodies face one way, so a mirrored critter is
not a critter: no flip. The key of an example is its seed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hierdiff.data.cache import cache_folder, decoded
from hierdiff.data.critters.law import LAW
from hierdiff.data.critters.words import caption
from hierdiff.data.image_data import ImageData, datasets, in_split_order
from hierdiff.data.micro import check_names, scalars_of
from hierdiff.data.pixels import area
from hierdiff.data.preparation import Chance, Preparation, drawn_corner, drawn_side
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
    scalars: Sequence[str] = (),
    varied: bool = False,
) -> ImageData:
    """Block means of the 64 px images; class = body shape (14), captions from the parts.

    resolution: a divisor of 64. `attributes` holds the code of each of nine parts, whose `law` is
    known. scalars: names of `hierdiff.data.micro`. varied: as images from the web are, those of
    training and of test: an original of 64, 32 or 16 px, brought to 1 to 1.25 times `resolution`
    and cut there, all drawn from the seed.

    Raises:
        ValueError: for another resolution, and unknown scalars.
    """
    if not 1 <= resolution <= SIDE or SIDE % resolution:
        raise ValueError(
            f"critters are {SIDE} px and resolution {resolution} does not divide that: "
            f"choose 8, 16, 32 or 64"
        )
    check_names("critters", scalars)
    folder = Path(__file__).parent
    names = json.loads(read_text(folder / "names.json"))
    parts = read_npz(folder / "critters.npz", tuple(names))
    codes = {name: parts[name].astype(np.int64) for name in names}
    seeds = [f"{seed:04d}" for seed in range(len(codes["body"]))]
    order = in_split_order(seeds)

    @functools.cache  # read on the first use alone: the cache has them afterwards
    def pixels() -> np.ndarray:
        return read_npz(folder / "critters.npz", ("pixels",))["pixels"]

    cut = Preparation(resolution, crop="adm_random")

    def read(seed: int) -> tuple[np.ndarray, int]:
        whole = pixels()[seed].transpose(2, 0, 1)
        if not varied:
            return area(whole, resolution), SIDE
        original, chance = _drawn(seed)
        return cut.square(area(whole, original), chance), original

    folder_of_cache = cache_folder(cache)
    found = decoded(
        "critters",
        order,
        read,
        channels=3,
        resolution=resolution,
        identity=SHA256 + ("varied" if varied else ""),
        cache=folder_of_cache,
    )
    corners = [_corner(seed, resolution) if varied else (0, 0) for seed in order]
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
        scalars=scalars_of(scalars, found.sizes, resolution, np.array(corners)),
        attributes=attributes,
        attribute_names={name: tuple(values) for name, values in names.items()},
        law=LAW,
        digests=found.digests,
    ).with_text(text, folder_of_cache)


def _drawn(seed: int) -> tuple[int, Chance]:
    """The side of a varied critter's original, and its crop."""
    stream = np.frombuffer(hashlib.shake_256(f"varied {seed}".encode()).digest(16), "<u4")
    which, *rest = (stream / 2**32).tolist()
    return (SIDE, SIDE // 2, SIDE // 4)[int(3 * which)], Chance(*rest)


def _corner(seed: int, resolution: int) -> tuple[int, int]:
    _, chance = _drawn(seed)
    side = drawn_side(resolution, chance)
    return drawn_corner(side, side, resolution, chance)
