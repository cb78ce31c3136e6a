"""A hierarchy is a tuple of tensors, finest first; one resolution is a tuple of one.

Lower levels are block means of the finest one (MDM, arXiv 2310.15111, section 3.1: D^r is average
pooling, and the pooled image is not rescaled).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from hierdiff.options import Count, Length

Levels = tuple[Tensor, ...]
Resolutions = Annotated[Sequence[Count], Length(1, more=True)]  # sides in pixels, finest first


def down(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Mean over blocks, from side h to `side`, which must divide it."""
    if x.shape[-1] % side or x.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"images of {x.shape[-2]} x {x.shape[-1]} cannot be pooled to {side}: "
            f"choose a resolution that divides a square side"
        )
    factor = x.shape[-1] // side
    return x if factor == 1 else F.avg_pool2d(x, factor)


def up(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Every pixel repeated to a block, so that `down(up(x)) = x`."""
    if side % x.shape[-1]:
        raise ValueError(f"side {side} is not a multiple of {x.shape[-1]}: choose one that is")
    factor = side // x.shape[-1]
    return repeat(x, "b c h w -> b c (h i) (w j)", i=factor, j=factor)


def clipped(x: Tensor, limit: Tensor | float = 1.0) -> Tensor:
    """x within [-limit, limit]; what is not finite becomes NaN, for a limit would hide it."""
    return torch.where(x.isfinite(), x.clamp(-limit, limit), torch.nan)  # type: ignore[arg-type]


def check_resolutions(resolutions: Sequence[int]) -> tuple[int, ...]:
    """Finest first, each a multiple of the next; anything else is an error before compute."""
    sides = tuple(int(side) for side in resolutions)
    if not sides or min(sides) < 1:
        raise ValueError(f"resolutions {list(sides)} must be one or more positive sides")
    for fine, coarse in zip(sides, sides[1:], strict=False):
        if fine == coarse:
            raise ValueError(f"resolutions {list(sides)} name {fine} twice: name each once")
        if fine < coarse:
            raise ValueError(
                f"resolutions {list(sides)} are not in order: write the finest first, "
                f"{sorted(sides, reverse=True)}"
            )
        if fine % coarse:
            raise ValueError(
                f"resolution {coarse} does not divide {fine}: levels are block means, "
                f"choose sides such as {[fine, fine // 2]}"
            )
    return sides


def level_names(sides: Sequence[int]) -> tuple[str, ...]:
    """A name for each level, by which it is logged: its side, and where several have that side
    also its place, finest first from 0: `("32", "16-1", "16-2")`."""
    return tuple(
        str(side) if list(sides).count(side) == 1 else f"{side}-{place}"
        for place, side in enumerate(sides)
    )


def pyramid(images: Float[Tensor, "b c h w"], resolutions: Sequence[int]) -> Levels:
    """`images` at every resolution, finest first, each pooled from the one before."""
    levels: list[Tensor] = []
    for side in resolutions:
        levels.append(down(levels[-1] if levels else images, side))
    return tuple(levels)


def spread(values: Float[Tensor, "b levels"], x: Levels) -> Levels:
    """Column i of `values`, shaped to multiply level i; a level may hold the first rows only."""
    return tuple(
        values[: len(level), i].to(level.dtype).reshape(-1, *[1] * (level.ndim - 1))
        for i, level in enumerate(x)
    )
