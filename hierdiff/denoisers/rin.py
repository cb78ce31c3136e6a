"""The recurrent interface network: few latents compute, many patch tokens hold the image.

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
from hierdiff.denoisers.attention import attended
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
    """A linear layer, uniform within sqrt(6 / fans), by default inputs + outputs; zero bias."""
    layer = nn.Linear(inputs, outputs)
    bound = math.sqrt(6 / (fans or inputs + outputs))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


def dropped(x: Float[Tensor, "b n d"], rate: float, training: bool) -> Float[Tensor, "b n d"]:
    """Stochastic depth: whole examples set to 0 at `rate`, the others times 1 / (1 - rate)."""
    if not training or rate == 0:
        return x
    return x * F.dropout(torch.ones_like(x[:, :1, :1]), rate)


class MultiHeadAttention(nn.Module):
    """Tokens of `width` attend to tokens of width `source`, with `inner` features in all heads.

    The initial bounds are those of the released code, whose framework counts the fans of a
    (width, heads, size) kernel as of a convolution.

    Raises:
        ValueError: where the heads do not divide `inner`.
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
        words = None if mask is None else mask[:, None, None]
        h = attended(q, k, v, words)
        return self.out(rearrange(h, "b h n s -> b n (h s)"))


class Layer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)).

    source: width of the tokens that x attends to, which are not normalised; None for
    self-attention, to LN(x). dropout: of the MLP's hidden units. drop_path: rate at which a branch
    is dropped for a whole example.
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
    """Latent self-conditioning: LN(z + MLP(LN(z))), with outer gain and bias starting at zero.

    The inner norm is gain (normalised + bias), so that its gain has a gradient at z = 0 too.
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
    """A log-SNR as one latent: clock, sinusoid, norm, linear, SiLU, linear."""

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

    width: of the interface, one token for each patch of `patch` x `patch` pixels. latents: number
    that is carried: learned latents, then one for the log-SNR, one for that of an upsampler's
    low-resolution image, and one for class and vectors. latent_width: by default 2 * width. blocks:
    each reads, has `depth` self-attention layers on the latents, and writes. heads: of latent
    self-attention; read_heads: of reading and writing, by default `heads`. expansion,
    latent_expansion: hidden width of the MLPs over their width. dropout, drop_path: of the latent
    layers (hidden units; whole branches). resolution: side of the learned positions, which are
    interpolated bilinearly at other sides. scalars: names of micro-conditions, or {name: largest
    and default value}; they are added to the latent of the log-SNR. vectors: {name: width}. clock:
    the number that log_snr is embedded as.

    channels, classes, text_width, low_channels: of the data; 0 for none. Every word of a text is
    one more latent, not carried; padding is hidden from attention.

    Raises:
        ValueError: for a latent width that is not a multiple of 8, a side that `patch` does not
            divide, and too few latents to leave one to learn.
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
        self.label = dense(classes, latent_width) if classes else None  # of one-hot; bias: no class
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

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        return tuple(self.blocks)

    @override
    def prepare(self, cond: Cond) -> Cond:
        """The latent of class and vectors, and those of the words."""
        vector: Tensor | None = None
        context: tuple[Tensor, ...] = ()
        if self.label is not None:
            one_hot = F.one_hot(labels_of(cond, self.classes) + 1, self.classes + 1)[:, 1:]
            vector = self.label(one_hot.to(self.label.weight.dtype))
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
            assert cond.mask is not None  # `prepare` raises if it is missing
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
