"""Aspect buckets: images of several shapes, grouped so that each batch has one (SDXL, 2.3).

A bucket is a shape (height, width) whose pixel count is close to that of the square and whose sides
are multiples of a number (SDXL, arXiv 2307.01952, section 2.3: 1024 x 1024 and 64). An image goes
to the bucket whose aspect is nearest to its own, in the logarithm, and loses along one side what
the bucket does not cover. Training reads the buckets; squares are what is measured. So it is with
the cuts and rates of `varied` data: what training shows is one bucket, of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import ImageOps
from torch import Tensor

from hierdiff.batch import Batch
from hierdiff.data.cache import Decoded
from hierdiff.data.image_data import ImageData
from hierdiff.data.micro import scalars_of
from hierdiff.data.pixels import area, as_uint8, centre, opened
from hierdiff.options import Between, Count, Share, check_fields
from hierdiff.registry import single
from hierdiff.resolution import Resolution

T = TypeVar("T")
Shape = tuple[int, int]  # height and width


@single("buckets")
@dataclass(frozen=True)
class Aspects:
    """Which buckets there are.

    multiple: of each side. least: share of the square's pixels that a bucket has at the least; it
    never has more. most: the longer side over the shorter one. At 1024 px, multiples of 64 and the
    defaults beside it give the 40 shapes that public code lists as SDXL's, and 1344 x 704.
    """

    multiple: Count = 8
    least: Share = 0.9
    most: Annotated[float, Between(1)] = 4.0

    def __post_init__(self) -> None:
        check_fields(self, "data.buckets")

    def shapes(self, side: int) -> tuple[Shape, ...]:
        """The buckets beside a square of that side, from the widest to the tallest.

        Raises:
            ValueError: where the square is none of them.
        """
        if side % self.multiple:
            raise ValueError(
                f"data.buckets.multiple={self.multiple} does not divide the resolution {side}: "
                f"choose a divisor, which the network's smallest side divides in turn"
            )
        sides = range(self.multiple, int(side * math.sqrt(self.most)) + 1, self.multiple)
        return tuple(
            (height, width)
            for height in sides
            for width in reversed(sides)
            if self.least * side**2 <= height * width <= side**2
            and max(height, width) <= self.most * min(height, width)
        )


def nearest(sizes: Int[np.ndarray, "n two"], shapes: Sequence[Shape]) -> Int[np.ndarray, " n"]:
    """The bucket of each image by number: that of the nearest log aspect, of equals the larger.

    sizes: height and width of the images.
    """
    own = np.log(sizes[:, :1] / sizes[:, 1:])
    theirs = np.array([math.log(height / width) for height, width in shapes])
    pixels = np.array([height * width for height, width in shapes])
    order = np.argsort(-pixels, kind="stable")
    return order[np.abs(own - theirs[order]).round(9).argmin(1)]


def fitted(pixels: UInt8[np.ndarray, "c _h _w"], shape: Shape) -> UInt8[np.ndarray, "c h w"]:
    """The largest middle part of an image that has the aspect of a bucket, averaged to its sides.

    Raises:
        ValueError: where that part is smaller than the bucket.
    """
    return area(centre(pixels, shape), shape)


@dataclass(frozen=True)
class Fitted(Generic[T]):
    """From a source to the image in a bucket, and height and width of the original in pixels.

    content: what gives the bytes of a source's file; picklable.
    """

    content: Callable[[T], Any]
    shape: Shape
    channels: int

    def __call__(self, source: T) -> tuple[UInt8[np.ndarray, "c h w"], Shape]:
        """Errors: as in `as_uint8` and `area`, and Pillow's own."""
        with opened(BytesIO(self.content(source))) as image:
            pixels = as_uint8(ImageOps.exif_transpose(image), self.channels)
        return fitted(pixels, self.shape), (pixels.shape[1], pixels.shape[2])


def shown_otherwise(
    data: ImageData, found: Decoded, scalars: Mapping[str, Float[np.ndarray, " n"]]
) -> ImageData:
    """Data whose training shows other images of the same examples, of the same shape, with scalars
    of their own; what is measured stays as it is."""
    shown = replace(data, images=found.images, scalars=scalars, digests=found.digests)
    return replace(data, buckets=(shown,))


def bucketed(
    data: ImageData,
    sizes: Int[np.ndarray, "n two"],
    shapes: Sequence[Shape],
    made: Callable[[Shape, Int[np.ndarray, " k"]], Decoded],
    scalars: Sequence[str],
) -> ImageData:
    """Data of squares with the same images in buckets, which have scalars of their own.

    sizes: height and width of the originals. made: images of a shape, of those of `data` by number.
    """
    which, parts = nearest(sizes, shapes), []
    without = replace(data, images=np.empty((len(data), 0)))
    for number in sorted(set(which.tolist())):
        own = np.flatnonzero(which == number)
        found = made(shapes[number], own)
        parts.append(
            replace(
                without.select(own[found.rows]),
                images=found.images,
                scalars=scalars_of(scalars, found.sizes, shapes[number]),
                digests=found.digests,
            )
        )
    return replace(data, buckets=tuple(parts))


class Buckets:
    """Data of several shapes behind one another; a batch must lie in one of them.

    parts: as `ImageData`, or what a stage made of each.
    """

    def __init__(self, parts: Sequence[Any]):
        self.parts = tuple(parts)
        self.sizes = [len(part) for part in self.parts]
        self.flip = any(getattr(part, "flip", False) for part in self.parts)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return sum(self.sizes)

    def batch(self, index: Tensor, flip: Tensor | None = None) -> Batch:
        """As in `ImageData`, of the examples `index` counted over all parts."""
        which = int(np.searchsorted(self._ends, int(index[0]), side="right"))
        first = int(self._ends[which]) - self.sizes[which]
        read: Batch = self.parts[which].batch(index - first, flip)
        return read


def training_view(data: Any) -> Any:
    """Data as training shows it where all is of the measured shape; others as they are."""
    parts: tuple[Any, ...] = getattr(data, "buckets", ())
    alone = len(parts) == 1 and parts[0].resolution == data.resolution
    return parts[0] if alone else data


def resolutions_of(data: Any) -> list[Resolution]:
    """Of the buckets of its training, where it has some."""
    return [part.resolution for part in getattr(training_view(data), "buckets", ())]


def for_training(data: Any) -> Any:
    """Data as batches of training are read from it: in its buckets, where it has some."""
    shown = training_view(data)
    parts = getattr(shown, "buckets", ())
    return Buckets(parts) if parts else shown
