"""The bytes of an image file to a square of the wanted side: crops and filters by published names.

Of a clip every frame is treated so, with one crop for all of them.

- `center`, filter `area`: the largest middle square, then the mean over the area of each new pixel,
  which is what the levels of the process are (`pixels.area`). Filters `box`, `bilinear`, `bicubic`
  and `lanczos` are Pillow's; `center` with `lanczos` is `center-crop` of EDM's dataset tool.
- `adm_center`, `adm_random`: `center_crop_arr` and `random_crop_arr` of guided diffusion (Dhariwal
  and Nichol, arXiv 2105.05233): halved by `box` while twice the wanted side fits, then `bicubic`.
  The random one draws a shorter side of 1 to 1/0.8 times the resolution, then a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from hierdiff.data.pixels import area, as_uint8, centre, opened

Crop = Literal["center", "adm_center", "adm_random"]
Filter = Literal["area", "box", "bilinear", "bicubic", "lanczos"]
LEAST = 0.8  # of the shorter side that a random crop shows


class Chance(NamedTuple):
    """What a random crop draws, in [0, 1): how far it is shrunk, and its place."""

    side: float
    top: float
    left: float


@dataclass(frozen=True)
class Preparation:
    """What is done to each image. channels: 3 (grey is repeated) or 1 (colour becomes luma).

    frames: of clips, None for images; every: of a clip's frames each second, third ... one is
    taken, as many as are wanted, in its middle.

    Raises:
        ValueError: for options that do not fit.
    """

    resolution: int
    channels: int = 3
    crop: Crop = "center"
    filter: Filter = "area"
    frames: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.channels not in (1, 3):
            raise ValueError(
                f"resolution {self.resolution} must be positive, channels {self.channels} 1 or 3"
            )
        if self.crop != "center" and self.filter != "area":
            raise ValueError(
                f"data.reading.filter={self.filter}: {self.crop} has filters of its own (box, then "
                f"bicubic): leave filter out, or set data.reading.crop=center"
            )

    @property
    def random(self) -> bool:
        """Whether a crop differs from one reading to the next."""
        return self.crop == "adm_random"

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and sides of what comes out."""
        frames = () if self.frames is None else (self.frames,)
        return (self.channels, *frames, self.resolution, self.resolution)

    def __call__(
        self, content: bytes | Sequence[bytes], chance: Chance | None = None
    ) -> tuple[UInt8[np.ndarray, "c *frames s s"], tuple[int, int]]:
        """The square, and height and width of the original in pixels.

        content: of a file; of a clip, also those of its frames. chance: of a random crop; None: the
        middle, as for measuring. Errors: as in `as_uint8` and `area`, and Pillow's own.
        """
        if self.frames is not None:
            clip = self._clip([content] if isinstance(content, bytes) else content)
            squares = [self.square(frame, chance) for frame in clip]
            return np.stack(squares, axis=1), _size(clip[0])
        assert isinstance(content, bytes)
        with opened(BytesIO(content)) as image:
            pixels = as_uint8(ImageOps.exif_transpose(image), self.channels)
        return self.square(pixels, chance), _size(pixels)

    def _clip(self, contents: Sequence[bytes]) -> list[UInt8[np.ndarray, "c h w"]]:
        """The frames that are taken of all those in one file, or in one file each.

        Raises:
            ValueError: where there are too few, or they differ in size.
        """
        images = [opened(BytesIO(content)) for content in contents]
        there = _ticks(images[0]) if len(images) == 1 else list(range(len(images)))
        assert self.frames is not None
        span = (self.frames - 1) * self.every + 1
        if len(there) < span:
            raise ValueError(
                f"it has {len(there)} frames and {span} are needed: lower frames or `every`"
            )
        start = (len(there) - span) // 2
        found: list[UInt8[np.ndarray, "c h w"]] = []
        for place in there[start : start + span : self.every]:
            image = images[place] if len(images) > 1 else images[0]
            if len(images) == 1:
                image.seek(place)
            found.append(as_uint8(ImageOps.exif_transpose(image), self.channels))
        if len({frame.shape for frame in found}) > 1:
            raise ValueError("its frames differ in size: give them one")
        return found

    def square(
        self, pixels: UInt8[np.ndarray, "c h w"], chance: Chance | None = None
    ) -> UInt8[np.ndarray, "c s s"]:
        """The square of decoded pixels; chance and errors as above."""
        if self.crop == "center" and self.filter == "area":
            return area(centre(pixels), self.resolution)
        if self.crop == "center":
            side = (self.resolution, self.resolution)
            return _array(_image(centre(pixels)).resize(side, _FILTERS[self.filter]))
        if self.random and chance is not None:
            return _random_crop(pixels, self.resolution, chance)
        return centre(_shrunk(pixels, self.resolution))


_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _ticks(image: Image.Image) -> list[int]:
    """The frame that is shown at each tick, the shortest duration: writers store equal frames
    once, with a duration of several."""
    durations = []
    for frame in range(getattr(image, "n_frames", 1)):
        image.seek(frame)
        image.load()
        durations.append(float(image.info.get("duration") or 0))
    shortest = min((one for one in durations if one > 0), default=1.0)
    return [i for i, one in enumerate(durations) for _ in range(max(1, round(one / shortest)))]


def _random_crop(
    pixels: UInt8[np.ndarray, "c h w"], side: int, chance: Chance
) -> UInt8[np.ndarray, "c s s"]:
    shrunk = _shrunk(pixels, drawn_side(side, chance))
    top, left = drawn_corner(shrunk.shape[1], shrunk.shape[2], side, chance)
    return shrunk[:, top : top + side, left : left + side]


def drawn_side(side: int, chance: Chance) -> int:
    """The shorter side of the image that a random crop of `side` is cut out of."""
    return side + _whole(chance.side, math.ceil(side / LEAST) - side + 1)


def drawn_corner(height: int, width: int, side: int, chance: Chance) -> tuple[int, int]:
    """Top and left of a random crop of `side` in an image of that height and width."""
    return _whole(chance.top, height - side + 1), _whole(chance.left, width - side + 1)


def _size(pixels: UInt8[np.ndarray, "c h w"]) -> tuple[int, int]:
    _, height, width = pixels.shape
    return height, width


def _whole(u: float, n: int) -> int:
    """A number from 0 to n - 1 from one in [0, 1)."""
    return min(int(u * n), n - 1)


def _shrunk(pixels: UInt8[np.ndarray, "c h w"], side: int) -> UInt8[np.ndarray, "c _h _w"]:
    """The whole image with `side` as its shorter side; smaller ones are enlarged."""
    image = _image(pixels)
    while min(image.size) >= 2 * side:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    size = (round(image.size[0] * scale), round(image.size[1] * scale))
    return _array(image.resize(size, Image.Resampling.BICUBIC))


def _image(pixels: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _array(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
