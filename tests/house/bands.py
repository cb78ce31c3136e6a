"""A wavelet codec of joint bands, with a network and a method of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hierdiff.codec import Codec
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import Prediction
from hierdiff.methods import Method, Sampling
from hierdiff.methods.diffusion import diffusion
from hierdiff.options import Count
from hierdiff.registry import Later
from hierdiff.resolution import Named, Resolutions, sides_of
from hierdiff.schedules import schedules


@dataclass(frozen=True)
class Haar(Codec):
    """Three detail bands in one level and the low band in another, both at half the side."""

    side: int
    channels: int = 3

    @property
    def resolutions(self):
        return (self.side, Named("low", self.side // 2))

    def encode(self, images):
        a, b, c, d = (images[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        details = torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], 1)
        return details / 4, (a + b + c + d) / 4

    def decode(self, levels):
        (across, along, both), low = levels[0].chunk(3, 1), levels[1]
        quarters = [
            low + across + along + both,
            low - across + along - both,
            low + across - along - both,
            low - across - along + both,
        ]
        image = nn.functional.pixel_shuffle(torch.stack(quarters, 2).flatten(1, 2), 2)
        return {self.side: image, "low": low}

    def shapes(self):
        half = self.side // 2
        return (3 * self.channels, half, half), (self.channels, half, half)

    def names(self):
        return "detail", "low"

    def tail(self, n):
        return self


class Bands(Denoiser):
    levels, rank = 2, 2

    def __init__(self, *, width: Count = 16, channels: Count = 9):
        super().__init__()
        self.split = [channels, channels // 3]
        self.first = nn.Conv2d(sum(self.split), width, 3, padding=1)
        self.level = nn.Linear(2, width)
        self.last = nn.Conv2d(width, sum(self.split), 3, padding=1)

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        h = self.first(torch.cat(x_t, 1)) + self.level(log_snr / 10)[:, :, None, None]
        return Prediction(self.last(h.tanh()).split(self.split, 1))


class HaarDiffusion(Method):
    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        sampling: Sampling,
        channels: Count = 3,
    ):
        codec = Haar(*sides_of(resolutions[0])[:1], channels)
        stage = diffusion(
            codec=codec,
            schedules=[schedules.build({"name": "cosine"})] * 2,
            denoiser=denoiser,
            process="variance_preserving",
            sampling=sampling,
            facts={"channels": channels},
        )
        super().__init__(codec.resolutions, [stage])
