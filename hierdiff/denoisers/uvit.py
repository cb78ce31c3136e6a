"""The U-ViT of simple diffusion (arXiv 2301.11093): a U-Net with a transformer at the bottom.

Most of the compute is spent at the smallest side, in a transformer: a chain of blocks without long
skips. Dropout acts only there. At larger sides, each residual block on the way down leaves one skip
for its counterpart on the way up. A stem may make the image smaller before all that.
Not the network of the same name in arXiv 2209.12152, whose transformer has long skips.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    Embedding,
    LogSNRClock,
    Modules,
    Multiples,
    Rate,
    ResidualBlock,
    ScalarEmbeddings,
    Scalars,
    Upsample,
    VectorProjections,
    Vectors,
    positions,
    zeroed,
)
from hierdiff.denoisers.norms import GroupNormSiLU
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
from hierdiff.denoisers.stems import Stem, stems
from hierdiff.options import Count, Natural
from hierdiff.registry import Later


class UViTBlock(nn.Module):
    """Self-attention, cross-attention to a text, MLP of 4x width, each added to its input.

    Norms come first; those of self-attention and MLP are scaled and shifted by the vector. Last
    layers start at zero. vector: its width. text: width of the text states, 0 for none.
    """

    def __init__(self, width: int, heads: int, vector: int, dropout: float, text: int = 0):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(vector, 4 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Sequential(nn.Dropout(dropout), zeroed(nn.Linear(width, width)))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            zeroed(nn.Linear(4 * width, width)),
        )
        if text:
            self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
            self.text = nn.Linear(text, 2 * width)
            self.read = nn.Sequential(nn.Dropout(dropout), zeroed(nn.Linear(width, width)))

    def keys_values(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l two_c"]:
        """Keys and values of the text, computed once for a whole trajectory."""
        return self.text(tokens)

    @override
    def forward(
        self,
        x: Float[Tensor, "b n c"],
        vector: Float[Tensor, "b d"],
        context: Float[Tensor, "b l two_c"] | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        modulation = self.modulation(F.silu(vector))[:, None]
        scale, shift, mlp_scale, mlp_shift = modulation.chunk(4, dim=-1)
        q, k, v = self.qkv(self.norm(x) * (1 + scale) + shift).chunk(3, dim=-1)
        x = x + self.out(self._attended(q, k, v))
        if context is not None:
            k, v = context.chunk(2, dim=-1)
            x = x + self.read(self._attended(self.query(x), k, v, mask))
        return x + self.mlp(self.norm(x) * (1 + mlp_scale) + mlp_shift)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (rearrange(part, "b l (m d) -> b m l d", m=self.heads) for part in (q, k, v))
        words = None if mask is None else mask[:, None, None]
        h = attended(q, k, v, words)
        return rearrange(h, "b m l d -> b l (m d)")


@denoisers.register("uvit")
class UViT(Backbone):
    """One resolution: residual blocks on the way down, a transformer, and the way back up.

    width, multiples: channels are width * multiple at the side inside the stem, its half, its
    quarter ...; the last is the transformer's width. blocks: residual blocks at each side but the
    transformer's on the way down, and as many on the way up. depth: transformer blocks. dropout: in
    these only. stem: {name: none | patch | wavelet, ...}. scalars: names of micro-conditions, or
    {name: largest and default value}. vectors: {name: width}. clock: the number that log_snr is
    embedded as. channels, classes, text_width: of the data. low_channels: of the low-resolution
    image of an upsampler, 0 for none.

    Text enters as a pooled vector and by cross-attention in each transformer block, where padding
    is hidden and one learned state is always visible, for the sake of empty captions.

    Raises:
        ValueError: for widths that groups, heads or 4 do not divide, and for a list of `blocks`
            without one number for each of `multiples` but the last.
    """

    rank = 2
    time_width: int

    def __init__(
        self,
        *,
        width: Count = 128,
        multiples: Multiples = (1, 2, 4),
        blocks: Count | Sequence[Count] = 2,
        depth: Natural = 12,
        heads: Count = 8,
        groups: Count = 32,
        dropout: Rate = 0.0,
        stem: Later[Stem] | None = None,
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
        *widths, deep = [int(width * multiple) for multiple in multiples]
        counts = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
        _check_options(widths, deep, counts, heads, groups)
        self.time_width = time_width or 4 * width
        self.low_channels = low_channels
        self.clock, self.clocks = clock, (clock,)
        self.reads = Reads(
            classes, text_width, low_channels, frozenset(scalars or ()), dict(vectors or {})
        )
        images = {"channels": channels, "low_channels": low_channels}
        self.stem = stems.build({"name": "none"} if stem is None else stem, offered=images)
        self.channels = channels
        self.multiple = self.stem.factor * 2 ** len(widths)
        self.nest_width = split_width((*widths, deep)[0], self.stem.factor)

        self.time = Embedding(self.time_width)
        self.augmentation = Embedding(self.time_width, zero=True) if low_channels else None
        self.scalars = ScalarEmbeddings(scalars, self.time_width)
        self.vectors = VectorProjections(vectors, self.time_width)
        self.classes = classes
        self.label = nn.Embedding(classes + 1, self.time_width) if classes else None  # row 0: none
        self.text = nn.LayerNorm(text_width) if text_width else None
        self.pool = nn.Linear(text_width, self.time_width, bias=False) if text_width else None
        self.always = nn.Parameter(torch.randn(text_width)) if text_width and depth else None

        def row(inputs: Sequence[int], outputs: int) -> Modules[ResidualBlock]:
            return Modules(
                ResidualBlock(i, outputs, self.time_width, groups, dropout=0.0) for i in inputs
            )

        sides = [*widths, deep]
        self.first = nn.Conv2d(self.stem.inputs, sides[0], 3, padding=1)
        self.down: Modules[Modules[ResidualBlock]] = Modules()
        self.shrink = nn.ModuleList()
        self.up: Modules[Modules[ResidualBlock]] = Modules()
        self.grow = nn.ModuleList()
        for here, below, count in zip(widths, sides[1:], counts, strict=True):
            self.down.append(row([here] * count, here))
            self.shrink.append(nn.Conv2d(here, below, 3, stride=2, padding=1))
            self.grow.insert(0, Upsample(below))
            self.up.insert(0, row([below + here] + [here + here] * (count - 1), here))
        self.transformer: Modules[UViTBlock] = Modules(
            UViTBlock(deep, heads, self.time_width, dropout, text_width) for _ in range(depth)
        )
        self.head = nn.Sequential(
            GroupNormSiLU(groups, sides[0]),
            nn.Identity(),
            zeroed(nn.Conv2d(sides[0], self.stem.outputs, 3, padding=1)),
        )

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        down, up = ([block for row in rows for block in row] for rows in (self.down, self.up))
        return (*down, *self.transformer, *up)

    @property
    @override
    def early(self) -> tuple[nn.Module, ...]:
        return () if self.text is None else tuple(block.text for block in self.transformer)

    @override
    def prepare(self, cond: Cond) -> Cond:
        """Class, text and vectors as one vector, and the text's keys and values for each block."""
        vector: Tensor | None = None
        if self.label is not None:
            vector = self.label(labels_of(cond, self.classes) + 1)
        vector = self.vectors(vector, cond)
        if self.text is None or self.pool is None:
            return replace(cond, embedding=vector)
        states, mask = caption_of(cond)
        tokens = self.text(states)
        words = torch.where(mask[..., None], tokens, 0.0)
        pooled = self.pool(words.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        vector = pooled if vector is None else vector + pooled
        if self.always is None:
            return replace(cond, embedding=vector)
        always = self.text(self.always).expand(len(tokens), 1, -1)
        tokens = torch.cat([always, words], dim=1)
        context = tuple(block.keys_values(tokens) for block in self.transformer)
        return replace(cond, embedding=vector, context=context)

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
        h = self.first(self.stem.enter(with_low(x, cond, self.low_channels)))
        if added is not None:
            h = h + F.pixel_unshuffle(added, self.stem.factor)
        skips: list[Tensor] = []
        for row, shrink in zip(self.down, self.shrink, strict=True):
            for block in row:
                h = block(h, vector)
                skips.append(h)
            h = shrink(h)
        h = self._transformed(h, vector, cond)
        for row, grow in zip(self.up, self.grow, strict=True):
            h = grow(h)
            for block in row:
                h = block(torch.cat([h, skips.pop()], dim=1), vector)
        features = None if added is None else F.pixel_shuffle(h, self.stem.factor)
        return self.stem.leave(self.head(h)), features

    def _transformed(self, h: Tensor, vector: Tensor, cond: Cond) -> Tensor:
        rows, columns = h.shape[-2:]
        where = positions(rows, columns, h.shape[1], h.device).to(h.dtype)
        h = rearrange(h, "b c h w -> b (h w) c") + where
        mask = F.pad(cond.mask, (1, 0), value=True) if cond.mask is not None else None
        for i, block in enumerate(self.transformer):
            h = block(h, vector, cond.context[i] if self.text is not None else None, mask)
        return rearrange(h, "b (h w) c -> b c h w", w=columns)


def _check_options(
    widths: list[int], deep: int, counts: list[int], heads: int, groups: int
) -> None:
    if len(counts) != len(widths) or any(count < 1 for count in counts):
        raise ValueError(
            f"blocks {counts} for {len(widths)} convolutional side(s): give one number, 1 or "
            f"more, for each of `multiples` but the last, which is the transformer's"
        )
    if any(w % groups for w in (*widths, deep)):
        raise ValueError(
            f"{groups} groups do not divide all widths {[*widths, deep]}: choose `groups` that does"
        )
    if deep % heads or deep % 4:
        raise ValueError(
            f"a transformer of width {deep} with {heads} heads: the width is a multiple of the "
            f"heads and of 4 (sines and cosines of rows and columns), choose other `multiples`, "
            f"`width` or `heads`"
        )
