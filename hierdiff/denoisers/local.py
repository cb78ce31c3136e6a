"""A convolutional network of a bounded receptive field, for local conditional models.

Kadkhodaie, Guth, Mallat and Simoncelli, arXiv 2303.02984, and their code: convolutions at one side,
3x3 ones spread evenly among 1x1 ones, so that the field changes and the depth does not.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers.layers import (
    Clock,
    Embedding,
    LogSNRClock,
    MeanPool,
    Modules,
    ScalarEmbeddings,
    Scalars,
    VectorProjections,
    Vectors,
    zeroed,
)
from hierdiff.denoisers.protocol import (
    Backbone,
    Reads,
    caption_of,
    conditioned,
    denoisers,
    labels_of,
    with_low,
)
from hierdiff.options import Count, Natural


class PixelNormSiLU(nn.Module):
    """silu((1 + scale) h + shift), h being x over its root mean square over a pixel's channels."""

    def __init__(self, width: int, vector: int):
        super().__init__()
        self.film = nn.Linear(vector, 2 * width)

    @override
    def forward(
        self, x: Float[Tensor, "b c h w"], vector: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        scale, shift = self.film(F.silu(vector))[:, :, None, None].chunk(2, dim=1)
        h = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        return F.silu(h * (1 + scale) + shift)


class LocalBlock(nn.Module):
    """x plus a convolution, of weights that start at zero, of the normalised x."""

    def __init__(self, width: int, vector: int, kernel: int):
        super().__init__()
        self.norm = PixelNormSiLU(width, vector)
        self.conv = zeroed(nn.Conv2d(width, width, kernel, padding=kernel // 2))

    @override
    def forward(
        self, x: Float[Tensor, "b c h w"], vector: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        return x + self.conv(self.norm(x, vector))


@denoisers.register("local")
class Local(Backbone):
    """A pixel of the prediction depends on the `receptive` x `receptive` pixels around it alone.

    There is neither another side, nor attention, nor a norm over pixels; what holds for a whole
    image (noise level, class, mean word, vectors) enters every pixel alike. Beyond the borders are
    zeros, from which pixels near them know where they are. receptive: odd, in pixels of its state;
    twice a side minus 1, or more, is no bound. layers: blocks of one convolution, 3x3 in
    (receptive - 1) / 2 of them and 1x1 in the others. scalars: names of micro-conditions, or {name:
    largest and default value}. vectors: {name: width}. clock: the number that log_snr is embedded
    as. channels, classes, text_width: of the data. low_channels: of the low-resolution image of an
    upsampler, which is seen in the same field, 0 for none.

    Raises:
        ValueError: for a receptive field that is even, or that `layers` cannot have.
    """

    rank = 2

    def __init__(
        self,
        *,
        receptive: Count = 9,
        width: Count = 48,
        layers: Count = 8,
        time_width: Count | None = None,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        clock: Clock = LogSNRClock(),
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
    ):
        super().__init__()
        wide = _check_receptive(receptive, layers)
        self.receptive = receptive
        self.time_width = vector = time_width or 4 * width
        self.channels, self.nest_width, self.low_channels = channels, width, low_channels
        self.clock, self.clocks = clock, (clock,)
        self.reads = Reads(
            classes, text_width, low_channels, frozenset(scalars or ()), dict(vectors or {})
        )
        self.time = Embedding(vector)
        self.augmentation = Embedding(vector, zero=True) if low_channels else None
        self.scalars = ScalarEmbeddings(scalars, vector)
        self.vectors = VectorProjections(vectors, vector)
        self.classes = classes
        self.label = nn.Embedding(classes + 1, vector) if classes else None  # row 0: none
        self.pool = MeanPool(text_width, vector) if text_width else None

        self.first = nn.Conv2d(channels + low_channels, width, 1)
        self.blocks: Modules[LocalBlock] = Modules(
            LocalBlock(width, vector, 3 if (i + 1) * wide // layers > i * wide // layers else 1)
            for i in range(layers)
        )
        self.norm = PixelNormSiLU(width, vector)
        self.last = zeroed(nn.Conv2d(width, channels, 1))

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        return tuple(self.blocks)

    @override
    def prepare(self, cond: Cond) -> Cond:
        """Class, text and vectors as one vector."""
        vector: Tensor | None = None
        if self.label is not None:
            vector = self.label(labels_of(cond, self.classes) + 1)
        vector = self.vectors(vector, cond)
        if self.pool is not None:
            pooled = self.pool(*caption_of(cond))
            vector = pooled if vector is None else vector + pooled
        return replace(cond, embedding=vector)

    @override
    def outputs(
        self,
        x: Float[Tensor, "b c h w"],
        log_snr: Float[Tensor, " b"],
        cond: Cond,
        added: Float[Tensor, "b n h w"] | None,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n h w"] | None]:
        time = self.time(self.clock(log_snr))
        vector = conditioned(time, log_snr, cond, self.scalars, self.augmentation)
        h = self.first(with_low(x, cond, self.low_channels))
        if added is not None:
            h = h + added
        for block in self.blocks:
            h = block(h, vector)
        return self.last(self.norm(h, vector)), h


def _check_receptive(receptive: int, layers: int) -> int:
    """Number of 3x3 convolutions that have the receptive field together.

    Raises:
        ValueError: for a receptive field that is even, or that `layers` cannot have.
    """
    wide = (receptive - 1) // 2
    if receptive % 2 == 0:
        raise ValueError(
            f"receptive={receptive}: a field around a pixel is odd, take {receptive - 1} or "
            f"{receptive + 1}"
        )
    if wide > layers:
        raise ValueError(
            f"receptive={receptive} of {layers} layers: each of them adds 2 at most, take "
            f"layers={wide}, or a field of up to {2 * layers + 1}"
        )
    return wide
