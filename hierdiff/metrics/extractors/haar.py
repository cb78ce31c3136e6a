"""Haar coefficients at random places as features: what sees each band of frequencies by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.metrics.extractors.base import Extractor, extractors
from hierdiff.noise import generator_of

SCALES = (2, 4, 8)  # sides of the blocks of each level, in pixels
PLACES = 16  # of each band in an image
DETAILS, LOW = 9, 3  # coefficients at a place: three directions or one, of three colours


@extractors.register("haar")
class Haar(Extractor):
    """Orthonormal Haar coefficients of three levels, each at 16 random places of the image.

    For each level of `SCALES`, 16 places of 9 coefficients (across, along and both, by colour);
    then 16 places of the 3 that remain. The places are the same in all images of a size, and
    repeat where a band has fewer. Pixels count in 0..1. `bands` splits the features.
    """

    name = "haar"
    width = PLACES * (len(SCALES) * DETAILS + LOW)
    label = "FD-Haar"
    weights = "3levels0"
    resize = "native"

    def __init__(self) -> None:
        super().__init__()
        signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
        self.filters = nn.Parameter(signs.reshape(4, 1, 2, 2) / 2)
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        if any(side % SCALES[-1] for side in images.shape[2:]):
            raise ValueError(
                f"images of {tuple(images.shape[2:])} px have no {len(SCALES)} Haar levels: take "
                f"sides that are multiples of {SCALES[-1]}, or leave the metric out"
            )
        low, found = images / 255, []
        for scale in SCALES:
            planes = F.conv2d(low.flatten(0, 1)[:, None], self.filters, stride=2)
            planes = rearrange(planes, "(b c) k h w -> b k c h w", b=len(images))
            low = planes[:, 0]
            found.append(_some(planes[:, 1:].flatten(1, 2), scale))
        return torch.cat([*found, _some(low, 0)], dim=1)


def bands(features: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "_m _k"]]:
    """Coefficients at each place (rows: images, then places) by band: "2", "4", "8" for the side of
    a block in pixels, "Low" for what remains."""
    widths = [PLACES * DETAILS] * len(SCALES) + [PLACES * LOW]
    parts = zip((*map(str, SCALES), "Low"), features.split(widths, dim=1), strict=True)
    return {name: rearrange(part, "n (p k) -> (n p) k", p=PLACES) for name, part in parts}


def _some(planes: Float[Tensor, "b k h w"], seed: int) -> Float[Tensor, "b _d"]:
    """The coefficients at `PLACES` places, place by place."""
    flat = planes.flatten(2)
    places = _places(flat.shape[2], seed).to(flat.device)
    return rearrange(flat[:, :, places], "b k p -> b (p k)")


def _places(n: int, seed: int) -> Int[Tensor, " p"]:
    """`PLACES` of n places at random, each as often as the others, but for one time."""
    rounds = -(-PLACES // n)
    drawn = [torch.randperm(n, generator=generator_of("haar", seed, i)) for i in range(rounds)]
    return torch.cat(drawn)[:PLACES]
