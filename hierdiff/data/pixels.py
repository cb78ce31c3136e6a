"""Any image file to a square uint8 array: upright, on white, centre-cropped, area-averaged.

Pixels are averaged as they are stored (sRGB), like the levels of the process, and transparency is
composited on white before the average, so that edges get no dark fringe. Colour profiles are not
applied; CMYK is converted by its plain formula.
"""

from __future__ import annotations

import logging
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from einops import reduce
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from hierdiff.files.reading import check_regular
from hierdiff.resolution import text_of

log = logging.getLogger(__name__)
SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".jpe", ".jfif", ".jp2", ".avif", ".tga"),
        *(".heic", ".heif", ".jxl"),  # of no format that is read here, so that they are told of
    )
)

DARK = 16  # of 255: where the brightest of 12 bits lies that were stored in 16
GREY = ("1", "L", "I", "F")  # how the modes of Pillow that know no colour begin


def read_square(
    path: Path, *, resolution: int, channels: int = 3
) -> tuple[UInt8[np.ndarray, "c s s"], int]:
    """The image of a file at `resolution`, and the shorter side of the original in pixels.

    channels: 3 (grey is repeated) or 1 (colour becomes luma). Errors: as in `check_regular`,
    `as_uint8` and `area`, and Pillow's own.
    """
    check_regular(path)
    with opened(path) as image:
        pixels = as_uint8(ImageOps.exif_transpose(image), channels)
    side = min(pixels.shape[1:])
    return area(centre(pixels), resolution), side


def read_whole(file: Path | BytesIO) -> UInt8[np.ndarray, "c h w"]:
    """The image of a file as large as it is: upright, on white, of 3 channels or, where it is
    stored as grey, of 1. Errors: as in `as_uint8`, and Pillow's own.

    Raises:
        ValueError: for a file of several images, of which nobody says which is meant.
    """
    with opened(file) as image:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a photo's preview
        if frames > 1:
            raise ValueError(f"it holds {frames} images, save each as a file")
        channels = 1 if image.mode.startswith(GREY) else 3
        return as_uint8(ImageOps.exif_transpose(image), channels)


def opened(file: Path | BytesIO) -> Image.Image:
    """The image of a file in any format that Pillow reads by itself; it decodes later.

    Raises:
        UnidentifiedImageError: where it is of no such format, with its size in bytes.
    """
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        size = file.getbuffer().nbytes if isinstance(file, BytesIO) else file.stat().st_size
        raise UnidentifiedImageError(
            f"{size} bytes of no format that is known" if size else "it is empty"
        ) from error


@cache
def _formats() -> tuple[str, ...]:
    """All that Pillow reads by itself: for EPS it would start Ghostscript."""
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def as_uint8(image: Image.Image, channels: int) -> UInt8[np.ndarray, "c h w"]:
    """A Pillow image of any mode; 16 bits are scaled by 1/257, never clipped.

    Raises:
        ValueError: for other channels than 1 or 3, or pixels without a fixed range.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_from_deep(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _from_deep(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no fixed range: save 8 or 16 bits")
    return np.rint(values / 257).astype(np.uint8)


def warn_if_dark(what: str, brightest: int) -> None:
    """Warns where the brightest pixel of some images says that their range is another one."""
    if brightest <= DARK:
        log.warning(
            "%s: no pixel is above %d of 255, so that all images are as good as black: if values "
            "of another range (0 to 1, 12 bits) were saved, scale them to that of the file first",
            what, brightest,
        )  # fmt: skip


def centre(
    pixels: UInt8[np.ndarray, "c _h _w"], shape: tuple[int, int] = (1, 1)
) -> UInt8[np.ndarray, "c h w"]:
    """The largest part around the middle with the aspect of `shape` (height, width): a square."""
    height, width = pixels.shape[1:]
    h = min(height, round(width * shape[0] / shape[1]))
    w = min(width, round(height * shape[1] / shape[0]))
    top, left = (height - h) // 2, (width - w) // 2
    return pixels[:, top : top + h, left : left + w]


def area(
    pixels: UInt8[np.ndarray, "*n _h _w"], side: int | tuple[int, int]
) -> UInt8[np.ndarray, "*n h w"]:
    """Mean over the area of each new pixel, rounded; block means where the new sides divide.

    side: of a square, or height and width.

    Raises:
        ValueError: where the image is smaller.
    """
    new = (side, side) if isinstance(side, int) else side
    old = pixels.shape[-2:]
    if new[0] > old[0] or new[1] > old[1]:
        raise ValueError(
            f"side {text_of(old)} is below the resolution {text_of(new)}: lower the resolution"
        )
    if new == old:
        return pixels
    x = pixels.astype(np.float32)
    if not (old[0] % new[0] or old[1] % new[1]):
        i, j = old[0] // new[0], old[1] // new[1]
        mean = reduce(x, "... (h i) (w j) -> ... h w", "mean", i=i, j=j)
    else:
        mean = overlaps(old[0], new[0]) @ x @ overlaps(old[1], new[1]).T
    return np.rint(mean).astype(np.uint8)


def overlaps(old: int, new: int) -> np.ndarray:
    """(new, old) share of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    left, right = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)
    shared = np.clip(np.minimum(right, cells + 1) - np.maximum(left, cells), 0, None)
    return (shared * (new / old)).astype(np.float32)
