"""Pixels on their way out: [-1, 1] to uint8 in one place, and sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def to_uint8(images: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """[-1, 1] to 0..255 by rounding; what lies outside is clipped. FloatingPointError for NaN and
    infinities, which are no pixels."""
    if not bool(images.isfinite().all()):
        whole = images.isfinite().flatten(-3).all(-1)
        raise FloatingPointError(
            f"{int((~whole).sum())} of {whole.numel()} images hold values that are not finite (NaN "
            f"or infinite): look at the weights, the schedule and the precision that made them"
        )
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_float(images: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """0..255 to [-1, 1], the inverse of `to_uint8`."""
    return images.float() / 127.5 - 1


def to_pil(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def sheet(
    levels: Sequence[UInt8[Tensor, "n c _h _w"]], columns: int = 8, cell: int = 96, gap: int = 4
) -> Image.Image:
    """The levels side by side, the same example at the same place, pixels enlarged without blur.

    levels: one stack of images for each level; cell: least side of an enlarged image in pixels.
    """
    side = max(cell, max(images.shape[-1] for images in levels))
    blocks = [_grid(images, columns, side, gap) for images in levels]
    width = sum(block.width for block in blocks) + 3 * gap * (len(blocks) - 1)
    canvas = Image.new("RGB", (width, blocks[0].height), "white")
    x = 0
    for block in blocks:
        canvas.paste(block, (x, 0))
        x += block.width + 3 * gap
    return canvas


def _grid(images: UInt8[Tensor, "n c h w"], columns: int, side: int, gap: int) -> Image.Image:
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    pitch = side + gap
    canvas = Image.new("RGB", (columns * pitch + gap, rows * pitch + gap), "white")
    for i, image in enumerate(F.interpolate(images.float(), size=(side, side), mode="nearest")):
        place = (gap + i % columns * pitch, gap + i // columns * pitch)
        canvas.paste(to_pil(image.to(torch.uint8)).convert("RGB"), place)
    return canvas
