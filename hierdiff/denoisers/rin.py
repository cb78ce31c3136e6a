"""The recurrent interface network: a few latents compute, many patch tokens only carry the image.

Jabri et al., arXiv 2212.11972, and its released code. One block reads (latents attend the
interface), thinks (self-attention among latents) and writes back (the interface attends latents).
The latents of one denoising step start those of the next: they are the carry.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers.layers import (
    Clock,
    GammaClock,
    Modules,
    Rate,
    ScalarEmbeddings,
    Scalars,
    VectorProjections,
    Vectors,
    sinusoid,
)
from hierdiff.denoisers.protocol import (
    Denoiser,
    Prediction,
    Reads,
    augmentation_of,
    caption_of,
    denoisers,
    labels_of,
    single_level,
    split_width,
    with_low,
)
from hierdiff.levels import Levels
from hierdiff.options import Count, Natural

EPS = 1e-6


def dense(inputs: int, outputs: int, fans: int | None = None) -> nn.Linear:
    """Linear, uniform within sqrt(6 / fans), fans = inputs + outputs if not given; bias zero."""
    layer = nn.Linear(inputs, outputs)
    bound = math.sqrt(6 / (fans or inputs + outputs))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


def dropped(x: Float[Tensor, "b n d"], rate: float, training: bool) -> Float[Tensor, "b n d"]:
    """Stochastic depth: whole examples to zero at `rate`, the others up by 1 / (1 - rate)."""
    if not training or rate == 0:
        return x
    return x * F.dropout(torch.ones_like(x[:, :1, :1]), rate)


class MultiHeadAttention(nn.Module):
    """Tokens of `width` attend tokens of `source`, within `inner` features.

    The starting bounds are those of the released code, whose framework counts the fans of a
    (width, heads, size) kernel as of a convolution. Error: ValueError where the heads do not divide
    `inner`.
    """

    def __init__(self, width: int, source: int, inner: int, heads: int):
        super().__init__()
        if inner % heads:
            raise ValueError(
                f"{heads} heads do not divide an attention width of {inner}: "
                f"choose a number that does"
            )
        size = inner // heads
        self.heads = heads
        self.q = dense(width, inner, width * (heads + size))
        self.kv = dense(source, 2 * inner, source * (heads + size))
        self.out = dense(inner, width, heads * (size + width))

    @override
    def forward(
        self,
        x: Float[Tensor, "b n d"],
        source: Float[Tensor, "b m e"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        q = rearrange(self.q(x), "b n (h s) -> b h n s", h=self.heads)
        k, v = rearrange(self.kv(source), "b m (two h s) -> two b h m s", two=2, h=self.heads)
        seen = None if mask is None else mask[:, None, None]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out(rearrange(h, "b h n s -> b n (h s)"))


class Layer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)).

    It attends `source` as it is, which has another width; without a width of its source, LN(x).
    dropout: of the MLP's hidden units. drop_path: of each branch, whole examples.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        expansion: int,
        source: int | None = None,
        dropout: Rate = 0.0,
        drop_path: Rate = 0.0,
    ):
        super().__init__()
        inner = width if source is None else min(width, source)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.attention = MultiHeadAttention(width, source or width, inner, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = _mlp(width, expansion, dropout)
        self.drop_path = drop_path

    @override
    def forward(
        self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None
    ) -> Float[Tensor, "b n d"]:
        h = self.norm(x)
        h = self.attention(h, h if source is None else source, mask)
        x = x + dropped(h, self.drop_path, self.training)
        return x + dropped(self.mlp(self.mlp_norm(x)), self.drop_path, self.training)


class RINBlock(nn.Module):
    """Read, `depth` layers of latent self-attention, write."""

    def __init__(self, read: Layer, think: list[Layer], write: Layer):
        super().__init__()
        self.read = read
        self.think: Modules[Layer] = Modules(think)
        self.write = write

    @override
    def forward(
        self,
        latents: Float[Tensor, "b m e"],
        interface: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b m"] | None,
    ) -> tuple[Tensor, Tensor]:
        latents = self.read(latents, interface)
        for layer in self.think:
            latents = layer(latents, mask=mask)
        return latents, self.write(interface, latents, mask)


class Memory(nn.Module):
    """Latent self-conditioning: LN(z + MLP(LN(z))), the outer gain and bias zero at the start.

    The inner norm is gain (normalised + bias), so that its gain is reached from z = 0 too.
    """

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.mlp = _mlp(width, expansion)
        self.norm = nn.LayerNorm(width, eps=EPS)
        nn.init.zeros_(self.norm.weight)

    @override
    def forward(self, z: Float[Tensor, "b m e"]) -> Float[Tensor, "b m e"]:
        h = self.gain * (F.layer_norm(z, z.shape[-1:], eps=EPS) + self.bias)
        return self.norm(z + self.mlp(h))


class LogSNRLatent(nn.Module):
    """A log-SNR as one latent: clock, sinusoid, normalised, linear, SiLU, linear."""

    def __init__(self, width: int, clock: Clock):
        super().__init__()
        self.clock = clock
        self.first = dense(width // 4, width)
        self.last = dense(width, width)

    @override
    def forward(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, "b 1 e"]:
        waves = sinusoid(self.clock(log_snr), self.first.in_features)
        waves = F.layer_norm(waves, waves.shape[-1:], eps=EPS).to(self.first.weight.dtype)
        return self.last(F.silu(self.first(waves)))[:, None]


@denoisers.register("rin")
class RIN(Denoiser):
    """One resolution; `Prediction.carry` is a tuple of one tensor, b x latents x latent_width.

    width: of the interface, one token for each patch of `patch` x `patch` pixels. latents: all that
    are carried: learned ones, and in place of the last learned ones the noise level, the
    augmentation level of an upsampler, and the class with the vectors. latent_width: 2 * width if
    not given. blocks: each reads, has `depth` self-attention layers on the latents, and writes.
    heads: of latent self-attention; read_heads: of reading and writing, as many if not given.
    expansion, latent_expansion: hidden width of the MLPs over their width. dropout, drop_path: of
    the latent layers (hidden units; whole branches). resolution: side that the learned positions
    are kept for; at other sides they are interpolated bilinearly. scalars: names of
    micro-conditions, or {name: largest and default value}; they are added to the noise level.
    vectors: {name: width}. clock: what log_snr is embedded as.

    channels, classes, text_width, low_channels: of the data; 0 for none. Text: every word is one
    more latent, not carried; padding is hidden from attention.

    Error: ValueError for a latent width that 8 does not divide, and where no latent is left to
    learn.
    """

    carries = True
    rank = 2

    def __init__(
        self,
        *,
        width: Count = 256,
        latents: Count = 128,
        latent_width: Count | None = None,
        patch: Count = 2,
        blocks: Count = 3,
        depth: Natural = 2,
        heads: Count = 16,
        read_heads: Count | None = None,
        expansion: Count = 4,
        latent_expansion: Count = 4,
        dropout: Rate = 0.0,
        drop_path: Rate = 0.0,
        resolution: Count = 32,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        clock: Clock = GammaClock(),
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
    ):
        super().__init__()
        latent_width = latent_width or 2 * width
        read_heads = read_heads or heads
        self.patch, self.classes, self.low_channels = patch, classes, low_channels
        self.channels, self.multiple = channels, patch
        self.time_width, self.nest_width = latent_width, split_width(width, patch)
        self._grid(resolution, resolution)
        if latent_width % 8:
            raise ValueError(
                f"latent_width {latent_width} is not a multiple of 8: "
                f"a quarter of it holds sines and cosines"
            )
        learned = latents - 1 - bool(low_channels) - bool(classes or vectors)
        if learned < 1:
            raise ValueError(
                f"{latents} latents leave none to learn beside noise level, augmentation and "
                f"class: ask for more"
            )
        self.clocks = (clock,)
        self.reads = Reads(
            classes, text_width, low_channels, frozenset(scalars or ()), dict(vectors or {})
        )

        self.stem = nn.Conv2d(channels + low_channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.stem.weight)
        assert self.stem.bias is not None
        nn.init.zeros_(self.stem.bias)
        self.stem_norm = nn.LayerNorm(width, eps=EPS)
        side = resolution // patch
        self.positions = nn.Parameter(_small(width, side, side))
        self.latents = nn.Parameter(_small(learned, latent_width))
        self.time = LogSNRLatent(latent_width, clock)
        self.scalars = ScalarEmbeddings(scalars, latent_width)
        self.vectors = VectorProjections(vectors, latent_width)
        self.augmentation = LogSNRLatent(latent_width, clock) if low_channels else None
        self.label = dense(classes, latent_width) if classes else None  # of one-hot; none: the bias
        self.word = dense(text_width, latent_width) if text_width else None
        self.memory = Memory(latent_width, latent_expansion)

        def block() -> RINBlock:
            return RINBlock(
                Layer(latent_width, read_heads, latent_expansion, source=width),
                [
                    Layer(latent_width, heads, latent_expansion, None, dropout, drop_path)
                    for _ in range(depth)
                ],
                Layer(width, read_heads, expansion, source=latent_width),
            )

        self.blocks: Modules[RINBlock] = Modules(block() for _ in range(blocks))
        self.head = nn.Sequential(
            nn.LayerNorm(width, eps=EPS), dense(width, patch * patch * channels)
        )

    @override
    def prepare(self, cond: Cond) -> Cond:
        """Class with vectors, and words, to latents, once for a whole trajectory."""
        vector: Tensor | None = None
        context: tuple[Tensor, ...] = ()
        if self.label is not None:
            known = F.one_hot(labels_of(cond, self.classes) + 1, self.classes + 1)[:, 1:]
            vector = self.label(known.to(self.label.weight.dtype))
        if self.word is not None:
            states, _ = caption_of(cond)
            context = (self.word(states),)
        return replace(cond, embedding=self.vectors(vector, cond), context=context)

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: tuple[Tensor, ...] | None = None,
        added: Tensor | None = None,
    ) -> Prediction:
        x = single_level(self, x_t)
        interface = self._interface(x, cond)
        if added is not None:
            interface = interface + rearrange(
                F.pixel_unshuffle(added, self.patch), "b d h w -> b (h w) d"
            )
        latents = self._latents(log_snr[:, 0], cond)
        before = torch.zeros_like(latents) if carry is None else carry[0]
        latents = latents + self.memory(before)
        carried, mask = latents.shape[1], None
        if self.word is not None:
            words = cond.context[0]
            latents = torch.cat([latents, words.to(latents.dtype)], dim=1)
            assert cond.mask is not None  # `prepare` has asked for it
            mask = F.pad(cond.mask, (carried, 0), value=True)
        for block in self.blocks:
            latents, interface = block(latents, interface, mask)
        rows = x.shape[-2] // self.patch
        features = None
        if added is not None:
            grid = rearrange(interface, "b (h w) d -> b d h w", h=rows)
            features = F.pixel_shuffle(grid, self.patch)
        out = rearrange(
            self.head(interface),
            "b (h w) (p q c) -> b c (h p) (w q)",
            h=rows,
            p=self.patch,
            q=self.patch,
        )
        return Prediction((out,), carry=(latents[:, :carried],), features=features)

    def _interface(self, x: Float[Tensor, "b c h w"], cond: Cond) -> Float[Tensor, "b n d"]:
        grid = self._grid(*x.shape[-2:])
        x = with_low(x, cond, self.low_channels)
        positions: Tensor = self.positions
        if positions.shape[-2:] != grid:
            positions = F.interpolate(positions[None], size=grid, mode="bilinear")[0]
        tokens = self.stem_norm(rearrange(self.stem(x), "b d h w -> b (h w) d"))
        return tokens + rearrange(positions, "d h w -> (h w) d")

    def _latents(self, log_snr: Float[Tensor, " b"], cond: Cond) -> Float[Tensor, "b m e"]:
        time = self.scalars(self.time(log_snr)[:, 0], cond)[:, None]
        parts = [self.latents.expand(len(log_snr), -1, -1), time]
        if self.augmentation is not None:
            parts.append(self.augmentation(augmentation_of(cond, log_snr)))
        if cond.embedding is not None:
            parts.append(cond.embedding[:, None])
        return torch.cat(parts, dim=1)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"an image of {height} x {width} is not made of patches of {self.patch}: "
                f"choose a `patch` that divides its sides"
            )
        return height // self.patch, width // self.patch


def _mlp(width: int, expansion: int, dropout: float = 0.0) -> nn.Sequential:
    hidden = width * expansion
    return nn.Sequential(dense(width, hidden), nn.GELU(), nn.Dropout(dropout), dense(hidden, width))


def _small(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(*shape), std=0.02, a=-0.04, b=0.04)
