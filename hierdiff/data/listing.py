"""What every format of files comes to: a list of images with what is known of each, then data.

A format lists its images, their keys, classes and captions (`Listing`), and says how the bytes of
one are read. The rest is the same for all of them: the same images under the same keys are the same
data, with the same hash and in the same order, whether they lie in a folder, in shards or in a
table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Int

from hierdiff.data.buckets import Aspects, Fitted, Shape, bucketed
from hierdiff.data.cache import Decoded, cache_folder, checked, decoded
from hierdiff.data.classes import in_natural_order, names_alike
from hierdiff.data.encoded import Decoder, EncodedImages
from hierdiff.data.image_data import HASHED, ImageData, in_split_order
from hierdiff.data.micro import check_names, scalars_of
from hierdiff.data.pixels import warn_if_dark
from hierdiff.data.preparation import Crop, Filter, Preparation
from hierdiff.data.workers import default_workers
from hierdiff.files.reading import with_escapes
from hierdiff.options import Count, Natural
from hierdiff.registry import Node, single
from hierdiff.resolution import plain_of, resolution_of, sides_of

log = logging.getLogger(__name__)
T = TypeVar("T")
LOOKED_AT = 16  # images whose range is looked at
WORTH = 512  # images to be looked at that are worth other processes


@single("reading")
@dataclass(frozen=True)
class Reading:
    """How images come out of their files.

    decoded: once, into a mapped file of the cache, whose size is told before it is written (n
    images of side s take 3 n s^2 bytes); else at each reading. crop, filter: as in
    `hierdiff.data.preparation`. workers: processes that decode; null: as many as cores are left.
    broken: an image that cannot be read is refused, or skipped with a warning that names it.
    uncaptioned: where some images have captions, one without is refused, or has the empty one.
    every: of a clip's frames each second, third ... one is taken, in its middle.

    Raises:
        ValueError: for a random crop of images that are decoded once.
    """

    decoded: bool = False
    crop: Crop = "center"
    filter: Filter = "area"
    workers: Natural | None = None
    broken: Literal["refuse", "skip"] = "refuse"
    uncaptioned: Literal["refuse", "empty"] = "refuse"
    every: Count = 1

    def __post_init__(self) -> None:
        if self.decoded and self.crop == "adm_random":
            raise ValueError(
                "data.reading.crop=adm_random is drawn anew in each epoch, and "
                "data.reading.decoded=true keeps one crop: set data.reading.decoded=false"
            )


@dataclass(frozen=True)
class Listing(Generic[T]):
    """The images of some files before one is decoded; every sequence has an entry for each.

    sources: where each is, whose text names it in messages; content: gives the bytes of one's file
    (of each of its files), picklable. keys: stable names, by which images are split and ordered.
    identity: changes with the files. classes: name of the class, None for none; class_names: in the
    order of their numbers, empty: those that occur, in natural order. captions: "" for none.
    groups, in_test, split, shards: as in `ImageData`. odd: "PATH: reason" for what could not be
    listed.
    """

    name: str
    sources: Sequence[T]
    content: Callable[[T], Any]
    keys: Sequence[str]
    identity: str
    classes: Sequence[str | None] | None = None
    class_names: Sequence[str] = ()
    captions: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    in_test: Sequence[bool] | None = None
    split: str = HASHED
    shards: np.ndarray | None = None
    odd: tuple[str, ...] = ()


class _Rows(Sequence[T]):
    """Sources in another order, without a copy."""

    def __init__(self, sources: Sequence[T], order: Sequence[int]):
        self.sources, self.order = sources, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self.sources[row] for row in self.order[at]]
        return self.sources[self.order[at]]


def image_data(
    listing: Listing[T],
    reading: Reading,
    *,
    resolution: int | Sequence[int],
    channels: int = 3,
    licence: str,
    flip: bool = False,
    scalars: Sequence[str] = (),
    buckets: Aspects | None = None,
    text: Node | None = None,
    cache: str | Path | None = None,
) -> ImageData:
    """The data of a listing; each image is read once before, which finds all that is broken.

    Raises:
        ValueError: for options that do not fit, keys or captions that are not there for each image
            once, and images that cannot be read.
        OSError: where the cache cannot be written.
    """
    if not any(listing.captions or ()):
        listing = replace(listing, captions=None)
    name = listing.name
    *frames, height, width = sides_of(resolution)
    if height != width or len(frames) > 1:
        raise ValueError(
            f"{name} at resolution {plain_of(resolution)}: images are squares, and clips frames of "
            f"them: choose a side such as 32, or [frames, side, side]"
        )
    plain = (reading.crop, reading.filter) == ("center", "area")
    prepare = Preparation(
        height, channels, reading.crop, reading.filter, (*frames, None)[0], reading.every
    )
    check_names(name, scalars)
    if buckets is not None and (frames or not reading.decoded or not plain):
        raise ValueError(
            f"data.buckets of {name}: images come into them whole and once, by area: set "
            f"data.reading.decoded=true, crop=center, filter=area, and give no clips"
        )
    if prepare.random and (drawn := sorted({"crop_top", "crop_left"} & set(scalars))):
        raise ValueError(
            f"data.scalars={drawn}: data.reading.crop={reading.crop} draws crops anew at each "
            f"reading: leave them out, or set data.reading.crop=adm_center"
        )
    check_keys(listing)
    if reading.uncaptioned == "refuse":
        check_captions(listing)
    for line in listing.odd:
        log.warning("skipped %s", line)
    order = in_split_order(listing.keys, listing.groups, listing.in_test)
    sources: Any = _Rows(listing.sources, order)
    workers = default_workers() if reading.workers is None else reading.workers
    decoder = Decoder(listing.content, prepare)
    made = decoded if reading.decoded else checked
    found = made(
        name,
        sources,
        decoder,
        channels=channels,
        resolution=resolution_of(resolution),
        identity=listing.identity
        + ("" if plain else f"{reading.crop}/{reading.filter}")
        + (f"every {reading.every}" if frames else ""),
        cache=cache_folder(cache),
        workers=workers if len(order) >= WORTH else 0,
    )
    if found.skipped and reading.broken == "refuse":
        raise ValueError(
            f"{name}: {len(found.skipped)} of {len(order)} images cannot be read, the first: "
            f"{found.skipped[0]}: replace or remove it, or leave such images out by "
            f"data.reading.broken=skip"
        )
    rows = [order[row] for row in found.rows]
    images: Any = getattr(found, "images", None)
    if images is None:
        images = EncodedImages(sources, decoder, found.rows, workers)
    labels, class_names = labels_of(listing, rows)

    def kept(values: Sequence[str] | None) -> tuple[str, ...] | None:
        return None if values is None else tuple(values[row] for row in rows)

    data = ImageData(
        name=name,
        images=images,
        keys=tuple(listing.keys[row] for row in rows),
        licence=licence,
        labels=labels,
        captions=kept(listing.captions),
        class_names=class_names,
        groups=kept(listing.groups),
        flip=flip,
        scalars=scalars_of(scalars, found.sizes, height),
        skipped=(*listing.odd, *found.skipped),
        digests=found.digests,
        in_test=(
            None if listing.in_test is None else np.array([listing.in_test[r] for r in rows], bool)
        ),
        split=listing.split,
        shards=None if listing.shards is None else listing.shards[rows],
    ).with_text(text, cache_folder(cache))
    warn_of_pixels(data)
    if buckets is None:
        return data

    def made_at(shape: Shape, own: Int[np.ndarray, " k"]) -> Decoded:
        return decoded(
            name,
            [sources[int(found.rows[row])] for row in own],
            Fitted(listing.content, shape, channels),
            channels=channels,
            resolution=resolution_of(shape),
            identity=f"{listing.identity} in a bucket of {own.tolist()}",
            cache=cache_folder(cache),
            workers=workers if len(own) >= WORTH else 0,
        )

    return bucketed(data, found.sizes, buckets.shapes(height), made_at, scalars)


def warn_of_pixels(data: ImageData) -> None:
    """Warns of images that are as good as black, and of test images that are trained on."""
    few = np.unique(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int))
    warn_if_dark(data.name, max((int(data.images[row].max()) for row in few), default=255))
    digests = [digest.tobytes() for digest in data.digests] if data.digests is not None else []
    sides = list(zip(digests, data.tested.tolist(), strict=False))
    train = {digest for digest, tested in sides if not tested}
    twins = sum(tested and digest in train for digest, tested in sides)
    if twins:
        log.warning(
            "%s: %d of %d test images are trained on too, as copies: remove the copies, or put "
            "them in one part (data.test_root), since measures against the test part flatter them",
            data.name, twins, int(data.tested.sum()),
        )  # fmt: skip


def check_keys(listing: Listing[Any]) -> None:
    """Checks that no two images have one key.

    Raises:
        ValueError: names the first such key and both files.
    """
    seen: dict[str, int] = {}
    for row, key in enumerate(listing.keys):
        first = seen.setdefault(key, row)
        if first != row:
            raise ValueError(
                f"{listing.name}: two images have the key {with_escapes(key)!r}, "
                f"{with_escapes(str(listing.sources[first]))} and "
                f"{with_escapes(str(listing.sources[row]))}: rename one of them"
            )


def check_captions(listing: Listing[Any]) -> None:
    """Checks that all images have captions, or none.

    Raises:
        ValueError: names the first one without.
    """
    without = [row for row, caption in enumerate(listing.captions or ()) if not caption]
    if without:
        raise ValueError(
            f"{listing.name}: {len(without)} of {len(listing.keys)} images have no caption, the "
            f"first: {with_escapes(str(listing.sources[without[0]]))}: write them, or train "
            f"these without text by data.reading.uncaptioned=empty"
        )


def labels_of(
    listing: Listing[Any], rows: Sequence[int]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels (rows,) int64 and the names of their classes; None and () without classes."""
    classes = listing.classes
    if classes is None or not any(name is not None for name in classes):
        return None, ()
    kept = [classes[row] for row in rows]
    names = list(listing.class_names)
    if not names:
        names = in_natural_order({name for name in kept if name is not None})
        everywhere = {name for name in classes if name is not None}
        if absent := in_natural_order(everywhere - set(names)):
            log.warning("no class for %s: no image in it", ", ".join(map(with_escapes, absent)))
    for alike in names_alike(names):
        log.warning(
            "%s: classes %s are told apart: give them one name if they are one",
            listing.name, " and ".join(repr(with_escapes(name)) for name in alike),
        )  # fmt: skip
    numbers: Mapping[str, int] = {name: number for number, name in enumerate(names)}
    labels = [-1 if name is None else numbers[name] for name in kept]
    return (np.array(labels, np.int64) if names else None), tuple(names)
