"""The layout of sheets of images, and single images out of one. Needs no torch."""

from __future__ import annotations

from PIL import Image

from hierdiff.resolution import Resolution, sides_of

COLUMNS, CELL, GAP = 8, 96, 4  # of a sheet: images in a row, least height of one, white between


def first_images(picture: Image.Image, finest: Resolution, n: int) -> list[Image.Image]:
    """The first n finest images in the first row of a sheet of its default layout, as enlarged
    there (`hierdiff.images.sheet`).

    finest: resolution of the sheet's first level; n: at most `COLUMNS`.

    Raises:
        ValueError: where the picture is smaller than such a row.
    """
    frames, height, width = (1, 1, *sides_of(finest))[-3:]
    tall = max(CELL, height)
    wide = round(frames * width * tall / height)
    right = GAP + n * (wide + GAP)
    if picture.width < right or picture.height < tall + 2 * GAP:
        raise ValueError(
            f"a sheet of {picture.width} x {picture.height} pixels has no row of {n} images of "
            f"{wide} x {tall}: draw it again"
        )
    lefts = range(GAP, right, wide + GAP)
    return [picture.crop((left, GAP, left + wide, GAP + tall)) for left in lefts]
