"""A hierarchy is a tuple of tensors, finest first; one resolution is a tuple of one.

A state is b c and then any number of sides: none (a vector), length, height and width, or frames,
height and width. Lower levels are block means of the finest one (MDM, arXiv 2310.15111, section
3.1: D^r is average pooling, and the pooled image is not rescaled). How levels are named is in
`hierdiff.resolution`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from hierdiff.resolution import Resolution, divides, resolution_of, sides_of, text_of

Levels = tuple[Tensor, ...]
POOLS: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}  # by number of sides


def down(x: Float[Tensor, "b c *sides"], resolution: Resolution) -> Float[Tensor, "b c *new"]:
    """Block means of x at `resolution` (average pooling), for one to three sides.

    Raises:
        ValueError: where a side of `resolution` does not divide that of x.
    """
    old, new = tuple(x.shape[2:]), sides_of(resolution)
    if not divides(new, old):
        raise ValueError(
            f"images of {' x '.join(map(str, old))} cannot be pooled to {text_of(resolution)}: "
            f"choose a resolution whose sides divide these"
        )
    if old == new:
        return x
    return POOLS[len(old)](x, tuple(high // low for high, low in zip(old, new, strict=True)))


def up(x: Float[Tensor, "b c *sides"], resolution: Resolution) -> Float[Tensor, "b c *new"]:
    """Images at `resolution`, every pixel of x repeated to a block, so that `down(up(x)) = x`.

    Raises:
        ValueError: where a side of `resolution` is not a multiple of that of x.
    """
    old, new = tuple(x.shape[2:]), sides_of(resolution)
    if not divides(old, new):
        raise ValueError(
            f"side {text_of(resolution)} is not a multiple of "
            f"{text_of(resolution_of(old))}: choose one that is"
        )
    for dim, (low, high) in enumerate(zip(old, new, strict=True), start=2):
        x = x.repeat_interleave(high // low, dim)
    return x


def framewise(x: Shaped[Tensor, "b c *sides"]) -> Shaped[Tensor, "n c h w"]:
    """Clips as their frames, one after another; images as they are."""
    return rearrange(x, "b c f h w -> (b f) c h w") if x.ndim == 5 else x


def clipped(x: Tensor, limit: Tensor | float = 1.0) -> Tensor:
    """Clips x to [-limit, limit]; NaN and infinities become NaN, so that they are not hidden."""
    return torch.where(x.isfinite(), x.clamp(-limit, limit), torch.nan)  # type: ignore[arg-type]


def pyramid(images: Float[Tensor, "b c *sides"], resolutions: Sequence[Resolution]) -> Levels:
    """The images at every resolution, finest first, each pooled from the one before."""
    levels: list[Tensor] = []
    for resolution in resolutions:
        levels.append(down(levels[-1] if levels else images, resolution))
    return tuple(levels)


def spread(values: Float[Tensor, "b levels"], x: Levels) -> Levels:
    """Column i of `values` in a shape that multiplies level i, which may have fewer rows."""
    return tuple(
        values[: len(level), i].to(level.dtype).reshape(-1, *[1] * (level.ndim - 1))
        for i, level in enumerate(x)
    )
