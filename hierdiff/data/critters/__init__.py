"""The embedded default: 2,048 drawn creatures at 64 px, with every part known.

Artist-drawn vector art put together at random (see README.md beside this file), not photographs.
Light falls from the left and winks and leaning bodies face one way, so a mirrored critter is
not a critter: no flip. The key of an example is its seed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hierdiff.data.buckets import Aspects, Shape, bucketed, fitted, shown_otherwise
from hierdiff.data.cache import Decoded, cache_folder, decoded
from hierdiff.data.critters.law import LAW
from hierdiff.data.critters.words import caption
from hierdiff.data.image_data import ImageData, datasets, in_split_order
from hierdiff.data.micro import check_names, scalars_of
from hierdiff.data.pixels import area
from hierdiff.data.preparation import Chance, Preparation, drawn_corner, drawn_side
from hierdiff.files.arrays import read_npz
from hierdiff.files.reading import read_text
from hierdiff.registry import Node
from hierdiff.resolution import resolution_of

COUNT, SIDE = 2048, 64
NARROW = 32  # px, the narrowest window of a drawing
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
    buckets: Aspects | None = None,
) -> ImageData:
    """Block means of the 64 px images; class = body shape (14), captions from the parts.

    resolution: a divisor of 64. `attributes` holds the code of each of nine parts, whose `law` is
    known. scalars: names of `hierdiff.data.micro`. varied: training shows images as those from the
    web are: an original of 64, 32 or 16 px, brought to 1 to 1.25 times `resolution` and cut there,
    all drawn from the seed; measuring sees whole ones. buckets: the original is a window of the
    drawing whose aspect and place are drawn from the seed; training shows it in these shapes, and
    measuring its middle square.

    Raises:
        ValueError: for another resolution, unknown scalars, and buckets of squares or at 64 px.
    """
    if not 1 <= resolution <= SIDE or SIDE % resolution:
        raise ValueError(
            f"critters are {SIDE} px and resolution {resolution} does not divide that: "
            f"choose 8, 16, 32 or 64"
        )
    check_names("critters", scalars)
    if buckets is not None and (varied or resolution > NARROW):
        raise ValueError(
            f"data.buckets at resolution {resolution} with varied={varied}: windows of critters "
            f"are {NARROW} px wide or more, and as they are drawn: choose {NARROW} or less, and "
            f"varied=false"
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

    def window(seed: int, shape: Shape) -> tuple[np.ndarray, Shape]:
        top, left, height, width = _window(seed)
        part = pixels()[seed, top : top + height, left : left + width].transpose(2, 0, 1)
        return fitted(part, shape), (height, width)

    def square(seed: int) -> tuple[np.ndarray, int | Shape]:
        if buckets is not None:
            return window(seed, (resolution, resolution))
        return area(pixels()[seed].transpose(2, 0, 1), resolution), SIDE

    def cut(seed: int) -> tuple[np.ndarray, int]:
        original, chance = _drawn(seed)
        small = area(pixels()[seed].transpose(2, 0, 1), original)
        return Preparation(resolution, crop="adm_random").square(small, chance), original

    folder_of_cache = cache_folder(cache)

    def made(
        read: Callable[[int], tuple[np.ndarray, int | Shape]],
        what: str = "",
        shape: Shape = (resolution, resolution),
        rows: Sequence[int] = order,
    ) -> Decoded:
        return decoded(
            "critters",
            rows,
            read,
            channels=3,
            resolution=resolution_of(shape),
            identity=SHA256 + what,
            cache=folder_of_cache,
        )

    found = made(square, "windows" if buckets else "")
    attributes = {name: values[order] for name, values in codes.items()}
    data = ImageData(
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
        scalars=scalars_of(scalars, found.sizes, resolution),
        attributes=attributes,
        attribute_names={name: tuple(values) for name, values in names.items()},
        law=LAW,
        digests=found.digests,
    ).with_text(text, folder_of_cache)
    if varied:
        corners = np.array([_corner(seed, resolution) for seed in order])
        shown = made(cut, "varied")
        return shown_otherwise(data, shown, scalars_of(scalars, shown.sizes, resolution, corners))
    if buckets is None:
        return data

    def made_at(shape: Shape, own: np.ndarray) -> Decoded:
        what = f" windows in a bucket of {own.tolist()}"
        return made(lambda seed: window(seed, shape), what, shape, [order[row] for row in own])

    return bucketed(data, found.sizes, buckets.shapes(resolution), made_at, scalars)


def _window(seed: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window of a drawing: one side whole, the other half of it
    or more, by a logarithm that is uniform."""
    stream = np.frombuffer(hashlib.shake_256(f"window {seed}".encode()).digest(12), "<u4")
    aspect, place, upright = (stream / 2**32).tolist()
    narrow = round(SIDE * (NARROW / SIDE) ** aspect)
    offset = round(place * (SIDE - narrow))
    if upright < 0.5:
        return 0, offset, SIDE, narrow
    return offset, 0, narrow, SIDE


def _drawn(seed: int) -> tuple[int, Chance]:
    """The side of a varied critter's original, and its crop."""
    stream = np.frombuffer(hashlib.shake_256(f"varied {seed}".encode()).digest(16), "<u4")
    which, *rest = (stream / 2**32).tolist()
    return (SIDE, SIDE // 2, SIDE // 4)[int(3 * which)], Chance(*rest)


def _corner(seed: int, resolution: int) -> tuple[int, int]:
    _, chance = _drawn(seed)
    side = drawn_side(resolution, chance)
    return drawn_corner(side, side, resolution, chance)
