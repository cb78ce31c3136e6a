"""Clips, a codec and a network of three dimensions for them: a package of somebody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from torch import nn

from hierdiff.codec import Codec, codecs
from hierdiff.data import ImageData, datasets
from hierdiff.denoisers import OneLevelDenoiser, denoisers
from hierdiff.options import Count
from hierdiff.resolution import resolution_of


@datasets.register("squares")
def squares(
    *, resolution: Sequence[Count] = (8, 16, 16), cache: str | None = None, text: None = None
) -> ImageData:
    """48 clips of a square that moves to the right on a random ground."""
    frames, height, width = resolution
    random = np.random.default_rng(0)
    clips = random.integers(0, 128, (48, 3, frames, height, width), dtype=np.uint8)
    for clip in clips:
        row, side = random.integers(0, height - 4), 4
        for frame in range(frames):
            clip[:, frame, row : row + side, frame : frame + side] = 255
    in_test = np.arange(48) >= 36
    return ImageData("squares", clips, tuple(f"{i:02d}" for i in range(48)), "CC0", in_test=in_test)


@codecs.register("folded")
@dataclass(frozen=True)
class Folded(Codec):
    """Every two frames as one of twice the channels: (c, f, h, w) to (2 c, f / 2, h, w)."""

    resolution: Sequence[Count]
    channels: Count = 3

    @property
    def resolutions(self):
        return (resolution_of(self.resolution),)

    def encode(self, images):
        return (rearrange(images, "b c (f two) h w -> b (two c) f h w", two=2),)

    def decode(self, levels):
        images = rearrange(levels[0], "b (two c) f h w -> b c (f two) h w", two=2)
        return {self.resolutions[0]: images}

    def shapes(self):
        frames, *sides = self.resolution
        return ((2 * self.channels, frames // 2, *sides),)

    def tail(self, n):
        return self


@denoisers.register("space_time")
class SpaceTime(OneLevelDenoiser):
    rank = 3

    def __init__(self, *, width: Count = 8, channels: Count = 3):
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, padding=1)
        self.level = nn.Linear(1, width)
        self.last = nn.Conv3d(width, channels, 3, padding=1)

    def denoise(self, x, log_snr, cond):
        level = self.level(log_snr[:, None] / 10)[:, :, None, None, None]
        return self.last((self.first(x) + level).tanh())
