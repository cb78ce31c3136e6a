"""Frames between given ones, as Make-A-Video fills them in (arXiv 2209.14792).

A stage that draws every k-th frame of the clips, and one that is given these: at their places among
frames of zeros, behind which one more channel says which are given. The k - 1 frames behind the
last given one have a neighbour on one side alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.codec import Pyramid
from hierdiff.levels import Levels
from hierdiff.methods.bridge import Bridge, Handover, bridges
from hierdiff.options import Count
from hierdiff.resolution import Sides, resolution_of, sides_of, text_of


class Keyframes(Pyramid):
    """Every k-th frame of clips, at each resolution, and not the mean of k; images as they are."""

    @override
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        if images.ndim == 5:
            images = images[:, :, :: images.shape[2] // sides_of(self.resolutions[0])[0]]
        return super().encode(images)


@bridges.register("masked_frames")
@dataclass(frozen=True)
class MaskedFrames(Bridge):
    """Frames of the stage before at every k-th place, zeros between, and a channel that is 1 where
    a frame is given. They are drawn again with the others, without noise.

    Raises:
        ValueError: for images, and for sides that differ in more than the number of frames.
    """

    low: Count | Sides
    high: Count | Sides

    masks = 1

    def __post_init__(self) -> None:
        (few, *small), (many, *large) = sides_of(self.low), sides_of(self.high)
        if len(large) != 2 or small != large or many % few:
            raise ValueError(
                f"bridge masked_frames from {text_of(resolution_of(self.low))} to "
                f"{text_of(resolution_of(self.high))}: it fills in frames between those of clips "
                f"of the same height and width, give [frames, height, width] of a multiple of the "
                f"frames"
            )

    @override
    def __call__(self, x: Levels, here: float, crossing: Any, cond: Cond) -> Handover:
        (given,) = x
        b, c, few, *sides = given.shape
        many = sides_of(self.high)[0]
        low = given.new_zeros(b, c + 1, many, *sides)
        low[:, :c, :: many // few] = given
        low[:, c, :: many // few] = 1
        return Handover(replace(cond, low=low))
