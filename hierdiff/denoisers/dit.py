"""DiT: a plain transformer on patches, conditioned by adaLN-Zero (Peebles & Xie, arXiv 2212.09748).

Time, class and text are one vector; six linear maps of it shift, scale and gate each block. Gates
and head start at zero: in a new network every block is the identity and the prediction is 0.
Positions are fixed sines and cosines, computed for the side of the image: they are not weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers import layers
from hierdiff.denoisers.attention import attended
from hierdiff.denoisers.layers import (
    Clock,
    Embedding,
    LogSNRClock,
    Modules,
    ScalarEmbeddings,
    Scalars,
    VectorProjections,
    Vectors,
    sinusoid,
    zeroed,
)
from hierdiff.denoisers.protocol import (
    Backbone,
    Reads,
    caption_of,
    conditioned,
    denoisers,
    labels_of,
    split_width,
    with_low,
)
from hierdiff.options import Count, Natural, Positive

WAVES = 256  # sines and cosines of the clock


def column_row_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """(rows * columns, width): sinusoids of the column, then of the row, half of the width each.

    The published weights of DiT have this order.
    """
    return layers.positions(rows, columns, width, device).roll(width // 2, dims=1)


def modulated(
    x: Float[Tensor, "b n c"], shift: Float[Tensor, "b 1 c"], scale: Float[Tensor, "b 1 c"]
) -> Float[Tensor, "b n c"]:
    """(1 + scale) x + shift, with x normalised to mean 0 and variance 1 in each token."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class DiTBlock(nn.Module):
    """Self-attention, then an MLP: each reads modulated tokens and is added to x, times a gate.

    A linear map of the vector gives shift, scale and gate of the attention, then those of the MLP.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )

    @override
    def forward(
        self, x: Float[Tensor, "b n c"], vector: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b n c"]:
        parts = self.modulation(F.silu(vector))[:, None].chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        x = x + gate * self.out(self._attended(modulated(x, shift, scale)))
        return x + mlp_gate * self.mlp(modulated(x, mlp_shift, mlp_scale))

    def _attended(self, x: Tensor) -> Tensor:
        q, k, v = layers.heads_of(self.qkv(x), 3, self.heads)
        return rearrange(attended(q, k, v), "b m l d -> b l (m d)")


@denoisers.register("dit")
class DiT(Backbone):
    """One resolution of any side that `patch` divides; the default is the published DiT-S/2.

    width, depth, heads: of the transformer. mlp_ratio: hidden width of its MLPs over `width`.
    scalars: names of micro-conditions, or {name: largest and default value}. vectors: {name:
    width}. clock: the number that log_snr is embedded as; the published networks read `steps` of
    `linear_beta`. learned_variance: adds as many channels for the variance, from the posterior's
    (-1) to that of q(x_t | x_s) (1), trained by the objective's `vlb`. channels, classes,
    text_width: of the data. low_channels: of the low-resolution image of an upsampler, 0 for none.

    Row 0 of the class table stands for no class (label -1). The mean of the projected words, zero
    for an empty caption, is added to the vector. A network whose width is not a multiple of patch^2
    is nested through image channels.

    Raises:
        ValueError: for a width that the heads or 4 do not divide, and an MLP without width.
    """

    rank = 2

    def __init__(
        self,
        *,
        width: Count = 384,
        depth: Natural = 12,
        heads: Count = 6,
        patch: Count = 2,
        mlp_ratio: Positive = 4.0,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        clock: Clock = LogSNRClock(),
        learned_variance: bool = False,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
    ):
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(
                f"a transformer of width {width} with {heads} heads: the width is a multiple of "
                f"the heads and of 4 (sines and cosines of rows and columns), choose another"
            )
        self.width, self.patch = width, patch
        self.channels, self.multiple = channels, patch
        self.classes, self.low_channels = classes, low_channels
        self.learns_variance = learned_variance
        self.time_width, self.nest_width = width, split_width(width, patch)
        self.clock, self.clocks = clock, (clock,)
        self.reads = Reads(
            classes, text_width, low_channels, frozenset(scalars or ()), dict(vectors or {})
        )
        outputs = channels * (2 if learned_variance else 1)

        self.patches = nn.Conv2d(channels + low_channels, width, patch, stride=patch)
        self.time = nn.Sequential(nn.Linear(WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None  # row 0: none
        self.text = (
            nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
            if text_width
            else None
        )
        hidden = int(width * mlp_ratio)
        if not hidden:
            raise ValueError(
                f"mlp_ratio {mlp_ratio:g} of width {width} leaves an MLP of no width: "
                f"choose a larger one"
            )
        self.blocks: Modules[DiTBlock] = Modules(
            DiTBlock(width, heads, hidden) for _ in range(depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch**2 * outputs)
        self._initialise()
        self.augmentation = Embedding(width, zero=True) if low_channels else None
        self.scalars = ScalarEmbeddings(scalars, width)
        self.vectors = VectorProjections(vectors, width)

    def _initialise(self) -> None:
        """Xavier weights, zero biases; embeddings normal of std 0.02; zero modulations, head."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))  # as the linear map that it is
        for layer in self.time:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        for block in self.blocks:
            zeroed(block.modulation)
        zeroed(self.modulation)
        zeroed(self.head)

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        return tuple(self.blocks)

    @override
    def prepare(self, cond: Cond) -> Cond:
        """Class, text and vectors as one vector, `embedding`."""
        vector: Tensor | None = None
        if self.label is not None:
            vector = self.label(labels_of(cond, self.classes) + 1)
        if self.text is not None:
            states, mask = caption_of(cond)
            word = mask[..., None]
            words = torch.where(word, self.text(torch.where(word, states, 0.0)), 0.0)
            pooled = words.sum(1) / word.sum(1).clamp(min=1)
            vector = pooled if vector is None else vector + pooled
        return replace(cond, embedding=self.vectors(vector, cond))

    @override
    def outputs(
        self,
        x: Float[Tensor, "b c h w"],
        log_snr: Float[Tensor, " b"],
        cond: Cond,
        added: Float[Tensor, "b n h w"] | None,
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b n h w"] | None]:
        """As in `Backbone`; twice the channels where the variance is learned."""
        waves = sinusoid(self.clock(log_snr), WAVES)
        time = self.time(waves.to(self.patches.weight.dtype))
        vector = conditioned(time, log_snr, cond, self.scalars, self.augmentation)
        h = self.patches(with_low(x, cond, self.low_channels))
        if added is not None:
            h = h + F.pixel_unshuffle(added, self.patch)
        rows, columns = h.shape[-2:]
        where = column_row_positions(rows, columns, self.width, h.device).to(
            self.patches.weight.dtype
        )
        h = rearrange(h, "b c h w -> b (h w) c") + where  # under autocast to float32, as published
        for block in self.blocks:
            h = block(h, vector)
        features = None
        if added is not None:
            grid = rearrange(h, "b (h w) c -> b c h w", w=columns)
            features = F.pixel_shuffle(grid, self.patch)
        shift, scale = self.modulation(F.silu(vector))[:, None].chunk(2, dim=-1)
        h = self.head(modulated(h, shift, scale))
        image = rearrange(
            h, "b (h w) (p q c) -> b c (h p) (w q)", w=columns, p=self.patch, q=self.patch
        )
        return image, features
