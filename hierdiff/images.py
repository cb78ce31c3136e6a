"""Pixels on their way out: [-1, 1] to uint8 in one place, and sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from hierdiff.files.atomic import write_png, write_webp
from hierdiff.sheets import CELL, COLUMNS, GAP

PERIOD = 2000  # ms that a clip takes on a sheet


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] to 0..255 by rounding; values outside are clipped.

    Raises:
        FloatingPointError: for NaN and infinities, which are no pixels.
    """
    if not bool(images.isfinite().all()):
        batch = images if images.ndim > 3 else images[None]
        whole = batch.isfinite().flatten(1).all(1)
        raise FloatingPointError(
            f"{int((~whole).sum())} of {whole.numel()} images hold values that are not finite (NaN "
            f"or infinite): look at the weights, the schedule and the precision that made them"
        )
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..255 to [-1, 1], the inverse of `to_uint8`."""
    return images.float() / 127.5 - 1


def to_pil(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """One image as Pillow has it: one channel is grey, three are RGB."""
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def strip(images: UInt8[Tensor, "n c *sides"]) -> UInt8[Tensor, "n c h w"]:
    """Images as they are; a clip (c f h w) as its frames in a row, a signal (c l) as one line."""
    if images.ndim == 5:
        return rearrange(images, "n c f h w -> n c h (f w)")
    return images[:, :, None] if images.ndim == 3 else images


def sheet(
    levels: Sequence[UInt8[Tensor, "n c *_sides"]],
    columns: int = COLUMNS,
    cell: int = CELL,
    gap: int = GAP,
) -> Image.Image:
    """The levels side by side, the same example at the same place, pixels enlarged without blur.

    levels: one stack of images or clips (`strip`) for each level; cell: least height of an enlarged
    image in pixels.
    """
    strips = [strip(images) for images in levels]
    height = max(cell, max(images.shape[-2] for images in strips))
    blocks = [_grid(images, columns, height, gap) for images in strips]
    width = sum(block.width for block in blocks) + 3 * gap * (len(blocks) - 1)
    canvas = Image.new("RGB", (width, blocks[0].height), "white")
    x = 0
    for block in blocks:
        canvas.paste(block, (x, 0))
        x += block.width + 3 * gap
    return canvas


def moving_sheet(levels: Sequence[UInt8[Tensor, "n c *_sides"]]) -> list[Image.Image]:
    """The sheet of each moment of clips; levels of fewer frames, and images, stand still longer."""
    count = max(frames_of_clips(images) for images in levels)
    places = [[t * frames_of_clips(images) // count for images in levels] for t in range(count)]
    return [
        sheet([x[:, :, i] if x.ndim == 5 else x for x, i in zip(levels, now, strict=True)])
        for now in places
    ]


def frames_of_clips(images: UInt8[Tensor, "n c *sides"]) -> int:
    """How many frames clips have, 1 of images."""
    return images.shape[2] if images.ndim == 5 else 1


def write_sheet(path: Path, levels: Sequence[UInt8[Tensor, "n c *_sides"]]) -> None:
    """Writes the sheet of these levels as a PNG file, and of clips an animated WebP beside it."""
    write_png(path, sheet(levels))
    if max(map(frames_of_clips, levels)) > 1:
        moments = moving_sheet(levels)
        write_webp(path.with_suffix(".webp"), moments, PERIOD // len(moments))


def _grid(images: UInt8[Tensor, "n c h w"], columns: int, height: int, gap: int) -> Image.Image:
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = round(images.shape[-1] * height / images.shape[-2])
    across, along = width + gap, height + gap
    canvas = Image.new("RGB", (columns * across + gap, rows * along + gap), "white")
    for i, image in enumerate(F.interpolate(images.float(), size=(height, width), mode="nearest")):
        place = (gap + i % columns * across, gap + i // columns * along)
        canvas.paste(to_pil(image.to(torch.uint8)).convert("RGB"), place)
    return canvas
