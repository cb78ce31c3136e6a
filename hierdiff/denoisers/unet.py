"""The U-Net of Matryoshka diffusion, flat or nested (arXiv 2310.15111, section 3.2 and code).

A nested network *is* a U-Net whose bottleneck is the next network: `inner`. The outer path runs
down to the inner side; its features, through a zero-initialised convolution, are added to the
inner's first features; the inner network runs as a whole; its last features, through another such
convolution, are added to the outer bottleneck. This repeats for each further `inner`; without one
the network is flat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers.attention import attended
from hierdiff.denoisers.layers import (
    POOLS,
    AttentionBlock,
    Clock,
    Embedding,
    LogSNRClock,
    Modules,
    Multiples,
    Pooling,
    Rate,
    ResidualBlock,
    ScalarEmbeddings,
    Scalars,
    Upsample,
    VectorProjections,
    Vectors,
    heads_of,
    pixels,
    zeroed,
)
from hierdiff.denoisers.norms import GroupNormSiLU
from hierdiff.denoisers.protocol import (
    Denoiser,
    Joined,
    Prediction,
    Reads,
    caption_of,
    conditioned,
    denoisers,
    labels_of,
    with_low,
)
from hierdiff.levels import Levels, down, framewise, up
from hierdiff.options import Count, Natural
from hierdiff.registry import Later, Node

N = TypeVar("N", bound=float)


class TextAttentionBlock(AttentionBlock):
    """An attention block that reads the text and not the image: its cost is linear in pixels.

    Without self-attention it needs a text.
    """

    def __init__(self, width: int, heads: int, groups: int, *, text: int, ffn: bool = True):
        super().__init__(width, heads, groups, text=text, ffn=ffn, projections=1)

    @override
    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b l two_c"] | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        assert context is not None
        (q,) = heads_of(pixels(self.qkv(self.norm(x))), 1, self.heads)
        k, v = heads_of(context, 2, self.heads)
        h = attended(q, k, v, None if mask is None else mask[:, None, None])
        x = x + self.out(rearrange(h, "b m (h w) d -> b (m d) h w", w=x.shape[-1]))
        return x if self.ffn is None else x + self.ffn(x)


class UNetBlock(nn.Module):
    """A residual block and the attention blocks that follow it.

    The rows of x are images, or frames of clips, as many for each row of the conditions. mixing:
    what mixes the frames of a clip after that, `(x, frames) -> x`; None where they stay apart.
    """

    def __init__(
        self,
        residual: ResidualBlock,
        attention: Sequence[AttentionBlock],
        mixing: nn.Module | None = None,
    ):
        super().__init__()
        self.residual = residual
        self.attention: Modules[AttentionBlock] = Modules(attention)
        self.mixing = mixing

    @override
    def forward(self, x: Tensor, vector: Tensor, cond: Cond, mask: Tensor | None) -> Tensor:
        frames = len(x) // len(vector)
        x = self.residual(x, for_frames(vector, frames))
        for attention in self.attention:
            context = None if attention.slot is None else cond.context[attention.slot]
            x = attention(x, for_frames(context, frames), for_frames(mask, frames))
        if self.mixing is None or frames == 1:
            return x
        return self.mixing(x, frames)


def for_frames(rows: Tensor | None, frames: int) -> Any:
    """Each row as often as a clip has frames; itself of images, and None of None."""
    return rows if rows is None or frames == 1 else rows.repeat_interleave(frames, 0)


def like_clips(x: Float[Tensor, "n c h w"], clips: Tensor) -> Tensor:
    """Frames one after another as clips again, as many as `clips` (b c f h w); images as they are.

    The inverse of `framewise`.
    """
    return rearrange(x, "(b f) c h w -> b c f h w", f=clips.shape[2]) if clips.ndim == 5 else x


def at_rate(x: Float[Tensor, "b c *sides"], clips: Tensor) -> Tensor:
    """Features of clips with as many frames as `clips`: means of neighbours, or each repeated."""
    if x.ndim < 5 or x.shape[2] == clips.shape[2]:
        return x
    sides = (clips.shape[2], *x.shape[3:])
    return down(x, sides) if len(x[0, 0]) > sides[0] else up(x, sides)


@denoisers.register("nested_unet")
@denoisers.register("unet")
class UNet(Denoiser):
    """One level, and all those of `inner`.

    width, multiples: channels are width * multiple at the side, its half, its quarter ...; with
    `inner` the last of these sides is the inner resolution. blocks: residual blocks of each on the
    way down (one more on the way up). attention: attention blocks after each residual block.
    middle: the two blocks at the bottom of a flat network, one with attention; `attention: 0` with
    `middle: false` is fully convolutional and takes every side that can be halved. dropout: one
    number, or one for each of `multiples` (simple diffusion: only at low resolutions). inner: a
    denoiser or its node; a one-level denoiser without features is wrapped in `Joined`. channels,
    classes, text_width: of the data; classes and text enter the innermost network, and what it
    makes of them is shared by all. text_hidden: width that text is projected to. scalars: names of
    micro-conditions, or {name: largest and default value}, for example {scale: 64}; each network of
    a nest reads its own. vectors: {name: width}, for example {image_embedding: 768}; those of the
    innermost network are shared by all. clock: the number that log_snr is embedded as. mask_text:
    hide padding from cross-attention. low_channels: of `cond.low`, which only the outermost network
    reads, joined to the noisy image; 0 for no upsampler. weights: a file that training starts from,
    the weights.safetensors of a run whose network (or inner network) this one is, or converted
    published ones (`hierdiff.training.initial`); of the whole network, with all that is inside.
    freeze: these weights stay as they are.

    Switches of the Efficient U-Net (`efficient_unet`): skip_scale: multiplies the skips.
    resample_first: every width begins with a halving, the first one too, so that only the first and
    last convolutions work at the full side, joined by a sum. self_attention: false for attention to
    the text alone, and none without text. attention_after: "block", each residual block, or
    "level", the last one of each side, down and up. skips: "block", one from each residual block
    and halving, or "level", one from the end of each side, so that the way up has as many blocks as
    the way down. joint_text: pixels and words share one softmax. pooling: of the text to the vector
    that is added to the time's.

    Raises:
        ValueError: for lists that do not have an entry for each of `multiples`, for widths that
            groups or heads do not divide, for an inner network that cannot be nested, and for one
            that is frozen without weights.
    """

    rank: int | tuple[int, ...] = 2
    time_width: int

    def __init__(
        self,
        *,
        width: Count = 128,
        multiples: Multiples = (1, 2, 3),
        blocks: Natural | Sequence[Natural] = 2,
        attention: Natural | Sequence[Natural] = (0, 1, 1),
        heads: Count = 8,
        groups: Count = 32,
        ffn: bool = True,
        middle: bool = True,
        dropout: Rate | Sequence[Rate] = 0.0,
        skip_scale: float = 1.0,
        resample_first: bool = False,
        self_attention: bool = True,
        attention_after: Literal["block", "level"] = "block",
        skips: Literal["block", "level"] = "block",
        joint_text: bool = False,
        pooling: Pooling = "mean",
        time_width: Count | None = None,
        text_hidden: Count | None = None,
        mask_text: bool = False,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        clock: Clock = LogSNRClock(),
        inner: Later[Denoiser] | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
        weights: str | None = None,
        freeze: bool = False,
    ):
        super().__init__()
        if freeze and weights is None:
            raise ValueError("freeze: true of a network without weights: give it `weights`, a file")
        widths = [int(width * multiple) for multiple in multiples]
        blocks = _each(blocks, len(widths), "blocks")
        attention = _each(attention, len(widths), "attention")
        dropout = _each(dropout, len(widths), "dropout")
        if skips == "level" and not all(blocks):
            raise ValueError(
                f"blocks {blocks} with skips of a level: a side without blocks reads no skip, give "
                f"each one or more"
            )
        for w in widths:
            if w % groups or not w:
                raise ValueError(
                    f"{groups} groups do not divide a width of {w}: choose `groups` that divides "
                    f"all of {widths}"
                )
        facts = {"channels": channels, "classes": classes, "text_width": text_width}
        self.inner = None if inner is None else _nestable(inner, facts)
        if self.inner is not None:
            if vectors:
                raise ValueError(
                    f"vectors {sorted(vectors)} of an outer network: name them in the innermost "
                    f"one, whose vector is shared by all"
                )
            classes = text_width = 0
            shared = self.inner.time_width
            if None not in (shared, time_width) and shared != time_width:
                raise ValueError(
                    f"time_width {time_width} around a network of {shared}, whose vector of class "
                    f"and text is shared by all: leave time_width out, or give both the same"
                )
            time_width = time_width or shared
        self.levels = 1 + (self.inner.levels if self.inner is not None else 0)
        self.nest_width = widths[0]
        self.time_width = time_width or 4 * width
        self.start = 0 if resample_first else 1  # the first width at a lower side than before it
        self.reduction = 2 ** (len(widths) - self.start)  # side over the side at the bottom
        self.channels, self.multiple = channels, self.reduction
        self.reads = Reads(
            classes, text_width, low_channels, frozenset(scalars or ()), dict(vectors or {})
        )
        self.skip_scale = skip_scale
        self.mask_text = mask_text
        self.clock, self.clocks = clock, (clock,)
        if self.inner is not None:
            self.carries, self.notes = self.inner.carries, self.inner.notes
            self.reads = self.inner.reads and self.reads | self.inner.reads
            self.clocks += self.inner.clocks or (None,) * self.inner.levels
        text = (text_hidden or text_width) if text_width else 0
        self._readers: list[AttentionBlock] = []  # blocks that read text, in order of their slots

        def attend(outputs: int) -> AttentionBlock:
            attention = (
                AttentionBlock(outputs, heads, groups, text=text, joint=joint_text, ffn=ffn)
                if self_attention
                else TextAttentionBlock(outputs, heads, groups, text=text, ffn=ffn)
            )
            if text:
                attention.slot = len(self._readers)
                self._readers.append(attention)
            return attention

        def block(inputs: int, outputs: int, layers: int, drop: float) -> UNetBlock:
            residual = ResidualBlock(inputs, outputs, self.time_width, groups, drop)
            if not (self_attention or text):
                layers = 0
            mixing = self.mixing(outputs, heads if layers else 0, groups)
            return UNetBlock(residual, [attend(outputs) for _ in range(layers)], mixing)

        def layers_of(i: int, last: bool) -> int:
            return attention[i] if last or attention_after == "block" else 0

        self.time = Embedding(self.time_width)
        self.scalars = ScalarEmbeddings(scalars, self.time_width)
        self.vectors = VectorProjections(vectors, self.time_width)
        self.classes = classes
        self.label = nn.Embedding(classes + 1, self.time_width) if classes else None  # row 0: none
        self.text = nn.Linear(text_width, text) if text else None
        self.pool = POOLS[pooling](text, self.time_width) if text else None

        self.low_channels = low_channels
        self.augmentation = Embedding(self.time_width, zero=True) if low_channels else None

        self.first = nn.Conv2d(channels + low_channels, widths[0], 3, padding=1)
        self.each_block = skips == "block"  # whose features cross to the way up
        crossing = [widths[0]] if self.each_block or resample_first else []
        self.down: Modules[Modules[UNetBlock]] = Modules()
        self.shrink = nn.ModuleList()
        here = widths[0]
        for i, w in enumerate(widths):
            if i >= self.start:
                self.shrink.append(nn.Conv2d(here, here, 3, stride=2, padding=1))
                crossing += [here] if self.each_block else []
            row: Modules[UNetBlock] = Modules()
            for j in range(blocks[i]):
                row.append(block(here, w, layers_of(i, j + 1 == blocks[i]), dropout[i]))
                here = w
                crossing += [w] if self.each_block else []
            crossing += [] if self.each_block else [here]
            self.down.append(row)
        self.middle: Modules[UNetBlock] = Modules()
        if middle and self.inner is None:
            self.middle.extend([block(here, here, layers, dropout[-1]) for layers in (1, 0)])
        self.into, self.back = nn.Identity(), nn.Identity()
        if self.inner is not None:
            nest = self.inner.nest_width
            assert nest is not None  # `_nestable` guarantees it
            self.into = zeroed(nn.Conv2d(here, nest, 3, padding=1))
            self.back = zeroed(nn.Conv2d(nest, here, 3, padding=1))
        self.up: Modules[Modules[UNetBlock]] = Modules()
        self.grow = nn.ModuleList()
        for i, w in reversed(list(enumerate(widths))):
            row = Modules()
            n = blocks[i] + 1 if self.each_block else blocks[i]
            for j in range(n):
                across = crossing.pop() if self.each_block or not j else 0
                row.append(block(here + across, w, layers_of(i, j + 1 == n), dropout[i]))
                here = w
            self.up.append(row)
            if i >= self.start:
                self.grow.append(Upsample(here))
        last = zeroed(nn.Conv2d(here, channels, 3, padding=1))
        self.head = nn.Sequential(GroupNormSiLU(groups, here), nn.Identity(), last)
        self.weights = weights
        if weights is not None:
            state = "frozen" if freeze else "trained on"
            self.notes = (*self.notes, f"weights of another training ({weights}), {state}")
        if freeze:
            self.requires_grad_(False)

    def mixing(self, width: int, heads: int, groups: int) -> nn.Module | None:
        """What mixes the frames of clips after a block, see `UNetBlock`; heads: 0 for a block
        without attention. None of images."""
        return None

    @override
    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """As in `Denoiser`; the side at the bottom must also be that of the inner network."""
        super().check(shapes)
        if self.inner is not None:
            for side, inner in zip(shapes[0][-2:], shapes[1][-2:], strict=False):
                self._check_meeting(side, inner)
            self.inner.check(shapes[1:])

    def _check_meeting(self, side: int, inner: int) -> None:
        if side == inner * self.reduction:
            return
        halvings = (side // inner).bit_length() - 1
        now = self.reduction.bit_length() - 1
        if inner * 2**halvings != side:
            raise ValueError(
                f"a nested network halves {side} px until it meets the one inside, which works at "
                f"{inner} px: choose resolutions of which one is twice, 4 or 8 times ... the next"
            )
        n, less = halvings + self.start, "more" if halvings > now else "fewer"
        if n < 1:
            raise ValueError(f"two levels of {side} px cannot be nested: leave one out")
        raise ValueError(
            f"the network at {side} px halves {now} times, down to {side // self.reduction} px, "
            f"and the one inside works at {inner} px: give its `multiples` {abs(halvings - now)} "
            f"{less}, {n} in all, such as [{', '.join(['1'] * n)}]"
        )

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        inside = self.middle if self.inner is None else self.inner.units
        down, up = ([block for row in rows for block in row] for rows in (self.down, self.up))
        return (*down, *inside, *up)

    @property
    @override
    def early(self) -> tuple[nn.Module, ...]:
        own = (module for block in self._readers for module in block.early)
        return (*own, *(() if self.inner is None else self.inner.early))

    @override
    def tail(self, n: int) -> Denoiser:
        if n == self.levels or self.inner is None:
            return super().tail(n)
        return self.inner.tail(n)

    @override
    def prepare(self, cond: Cond) -> Cond:
        """Class, text and vectors as one vector for all levels, and the text's keys and values."""
        if self.inner is not None:
            return self.inner.prepare(cond)
        vector: Tensor | None = None
        if self.label is not None:
            vector = self.label(labels_of(cond, self.classes) + 1)
        vector = self.vectors(vector, cond)
        if self.text is None or self.pool is None:
            return replace(cond, embedding=vector)
        states, mask = caption_of(cond)
        tokens = self.text(states)
        pooled = self.pool(tokens, mask)
        context = tuple(block.keys_values(tokens) for block in self._readers)
        vector = pooled if vector is None else vector + pooled
        return replace(cond, embedding=vector, context=context)

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        """As in `Denoiser`; a level may have only the first rows of the batch.

        Raises:
            ValueError: for another number of levels, and a side that does not halve often enough.
        """
        x = x_t[0]
        rows, side = len(x), x.shape[-1]
        if side % self.reduction or len(x_t) != self.levels:
            raise ValueError(
                f"{len(x_t)} level(s) with a side of {side} do not fit a network of {self.levels} "
                f"that halves {self.reduction.bit_length() - 1} times: choose other resolutions or "
                f"`multiples`"
            )
        time = self.time(self.clock(log_snr[:rows, 0]))
        vector = conditioned(time, log_snr[:rows, 0], cond, self.scalars, self.augmentation)
        mask = self._mask(cond)

        h = self.first(framewise(with_low(x, cond, self.low_channels)))
        if added is not None:
            h = h + framewise(added)
        skips = [h] if self.each_block or not self.start else []
        for i, row in enumerate(self.down):
            if i >= self.start:
                h = self.shrink[i - self.start](h)
                skips += [h] if self.each_block else []
            for block in row:
                h = block(h, vector, cond, mask)
                skips += [h] if self.each_block else []
            skips += [] if self.each_block else [h]
        for block in self.middle:
            h = block(h, vector, cond, mask)
        levels: Levels = ()
        losses: dict[str, Tensor] | None = None
        logs: Mapping[str, Tensor] | None = None
        if self.inner is not None:
            more = len(x_t[1]) - rows  # examples without this level
            features = at_rate(like_clips(self.into(h), x), x_t[1])
            features = F.pad(features, (0, 0) * (x.ndim - 1) + (0, more))
            out = self.inner(x_t[1:], log_snr[:, 1:], cond, carry, features)
            h = h + self.back(framewise(at_rate(out.features[:rows], x)))
            levels, carry, losses, logs = out.levels, out.carry, out.losses, out.logs
        for i, row in enumerate(self.up):
            for j, block in enumerate(row):
                if self.each_block or not j:
                    h = torch.cat([h, self._scaled(skips.pop())], dim=1)
                h = block(h, vector, cond, mask)
            if i < len(self.grow):
                h = self.grow[i](h)
        if skips:  # the first convolution's, when even the first width was at half the side
            h = h + self._scaled(skips.pop())
        level, features = like_clips(self.head(h), x), like_clips(h, x)
        return Prediction((level, *levels), carry, losses=losses, features=features, logs=logs)

    def _scaled(self, skip: Tensor) -> Tensor:
        return skip if self.skip_scale == 1 else self.skip_scale * skip

    def _mask(self, cond: Cond) -> Tensor | None:
        if not self.mask_text or not self._readers or cond.mask is None:
            return None
        return cond.mask | ~cond.mask.any(dim=1, keepdim=True)  # a row without words sees padding


def _each(values: N | Sequence[N], n: int, name: str) -> list[N]:
    listed = list(values) if isinstance(values, Sequence) else [values] * n
    if len(listed) != n:
        raise ValueError(f"{name} {listed} for {n} widths: give one for each of `multiples`")
    return listed


def _nestable(inner: Later[Denoiser], facts: Node) -> Denoiser:
    built = denoisers.build(inner, offered=facts)
    if built.learns_variance:
        raise ValueError(
            f"{type(built).__name__} learns a variance, which a nested network cannot use: "
            f"set learned_variance: false"
        )
    if built.nest_width is not None:
        return built
    if built.levels == 1:
        return Joined(built, facts["channels"])
    raise ValueError(
        f"{type(built).__name__} of {built.levels} levels cannot be nested: give it `nest_width`, "
        f"`added` and `features`"
    )
