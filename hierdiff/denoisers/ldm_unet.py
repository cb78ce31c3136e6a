"""The U-Net of latent diffusion (Rombach et al., arXiv 2112.10752) and, by switches, ADM's.

Both published networks have one layout (Dhariwal & Nichol, arXiv 2105.05233, and their code), which
is kept here: every block on the way down, the first convolution and the halvings included, leaves a
skip, and every block on the way up reads one. Latent diffusion has spatial transformers, which read
a text or a class, where ADM has plain self-attention. `hierdiff.interop.ldm` reads the
weights of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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
    JointConditions,
    LogSNRClock,
    Modules,
    Multiples,
    Pooling,
    Rate,
    ScalarEmbeddings,
    Scalars,
    Upsample,
    VectorProjections,
    Vectors,
    heads_of,
    pixels,
    zeroed,
)
from hierdiff.denoisers.norms import GroupNorm, GroupNormSiLU
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


class Context(NamedTuple):
    """What layers read beside the image.

    vector: of time and class. keys_values: of the text, for each reader. mask: True at words. maps:
    a list to which blocks that can do so add their cross-attention, in the order of their calls.
    """

    vector: Float[Tensor, "b d"]
    keys_values: tuple[Float[Tensor, "b l k"], ...] = ()
    mask: Bool[Tensor, "b 1 1 l"] | None = None
    maps: list[Float[Tensor, "b m n l"]] | None = None


class ImageOnly(nn.Module):
    """A layer that reads only the image."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    @override
    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b k i j"]:
        return self.layer(x)


class Layers(nn.ModuleList):
    """Layers, each called with the image and its context."""

    @override
    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b k i j"]:
        for layer in self:
            x = layer(x, context)
        return x


class Residual(nn.Module):
    """Norm, SiLU, resize, conv, vector, norm, SiLU, dropout, zero conv; plus x, resized.

    The vector is added before the second norm or, with `scale_shift`, scales and shifts after it:
    (1 + scale) h + shift.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        vector: int,
        groups: int,
        dropout: float,
        scale_shift: bool,
        resize: nn.Module | None = None,
    ):
        super().__init__()
        self.scale_shift = scale_shift
        self.resize = nn.Identity() if resize is None else resize
        self.norm1 = GroupNormSiLU(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.vector = nn.Linear(vector, (2 if scale_shift else 1) * outputs)
        self.norm2 = GroupNormSiLU(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    @override
    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b k i j"]:
        h = self.conv1(self.resize(self.norm1(x)))
        vector = self.vector(F.silu(context.vector))
        h = self.norm2(h, vector) if self.scale_shift else self.norm2(h + vector[..., None, None])
        return self.shortcut(self.resize(x)) + self.conv2(self.dropout(h))


def geglu(x: Tensor, expand: nn.Linear, contract: nn.Linear) -> Tensor:
    """A feed-forward of two layers, the first gated by the GELU of its second half."""
    h, gate = expand(x).chunk(2, dim=-1)
    return contract(h * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, GEGLU: each after a LayerNorm, added to x.

    context: width of the tokens that cross-attention reads, 0 for no cross-attention. feedforward:
    hidden width of GEGLU over the width.
    """

    def __init__(self, width: int, heads: int, context: int, feedforward: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        if context:
            self.norm2 = nn.LayerNorm(width)
            self.query = nn.Linear(width, width, bias=False)
            self.text = nn.Linear(context, 2 * width, bias=False)
            self.read = nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * feedforward * width)
        self.contract = nn.Linear(feedforward * width, width)

    @property
    def early(self) -> tuple[nn.Module, ...]:
        """What `keys_values` calls."""
        return (self.text,)

    def keys_values(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l k"]:
        """What the block reads of the tokens, computed once for a whole trajectory."""
        return self.text(tokens)

    @override
    def forward(
        self,
        x: Float[Tensor, "b n c"],
        keys_values: Float[Tensor, "b l k"] | None,
        context: Context,
    ) -> Float[Tensor, "b n c"]:
        x = self.attend(x)
        if keys_values is not None:
            q, k, v = self.queried(x, keys_values)
            h = attended(q, k, v, context.mask)
            x = x + self.read(rearrange(h, "b m l d -> b l (m d)"))
        return x + geglu(self.norm3(x), self.expand, self.contract)

    def attend(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The pixels with their self-attention."""
        q, k, v = heads_of(self.qkv(self.norm1(x)), 3, self.heads)
        return x + self.out(rearrange(attended(q, k, v), "b m l d -> b l (m d)"))

    def queried(
        self, x: Float[Tensor, "b n c"], keys_values: Float[Tensor, "b l two_c"]
    ) -> tuple[Float[Tensor, "b m n d"], Float[Tensor, "b m l d"], Float[Tensor, "b m l d"]]:
        """Queries of the pixels, keys and values of the words."""
        (q,) = heads_of(self.query(self.norm2(x)), 1, self.heads)
        k, v = heads_of(keys_values, 2, self.heads)
        return q, k, v


class SpatialTransformer(nn.Module):
    """Norm, 1x1 conv, transformer blocks over the pixels, zero 1x1 conv; plus x.

    slot: place of its keys and values in `Cond.context`, those of all blocks side by side.
    """

    slot: int | None = None

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        depth: int,
        context: int,
        feedforward: int = 4,
    ):
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.enter = nn.Conv2d(width, width, 1)
        self.blocks: Modules[TransformerBlock] = Modules(
            TransformerBlock(width, heads, context, feedforward) for _ in range(depth)
        )
        self.leave = zeroed(nn.Conv2d(width, width, 1))

    @property
    def early(self) -> tuple[nn.Module, ...]:
        """What `keys_values` calls."""
        return tuple(module for block in self.blocks for module in block.early)

    def keys_values(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l k"]:
        """Keys and values of the tokens, computed once for a whole trajectory."""
        return torch.cat([block.keys_values(tokens) for block in self.blocks], dim=-1)

    @override
    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:
        n = len(self.blocks)
        parts: Sequence[Tensor | None] = [None] * n
        if self.slot is not None:
            parts = context.keys_values[self.slot].chunk(n, dim=-1)
        h = pixels(self.enter(self.norm(x)))
        for block, keys_values in zip(self.blocks, parts, strict=True):
            h = block(h, keys_values, context)
        return x + self.leave(rearrange(h, "b (h w) c -> b c h w", w=x.shape[-1]))


class JointAttention(AttentionBlock):
    """Plain self-attention in which pixels and words share one softmax."""

    @override
    def forward(self, x: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c h w"]:  # type: ignore[override]
        assert self.slot is not None
        mask = None if context.mask is None else context.mask[:, 0, 0]
        return super().forward(x, context.keys_values[self.slot], mask)


@denoisers.register("ldm_unet")
class LDMUNet(Backbone):
    """One resolution; the default is the published LDM-4 without its class token.

    width, multiples: channels are width * multiple at the side, its half, its quarter ... blocks:
    residual blocks of each on the way down (one more on the way up). attention: spatial
    transformers after each residual block, one number or one for each of `multiples`; the bottom
    always has one, unless `middle_attention` is false. depth: transformer blocks in each, one
    number or one for each of `multiples`, of which the bottom has the last; 0 for a side without.
    feedforward: hidden width of their last layers over the width. heads: of attention, or as many
    as are `head_width` wide. dropout: in residual blocks. scalars:
    names of micro-conditions, or {name: largest and default value}. vectors: {name: width}.
    fourier: sines and cosines of a scalar, which go with the vectors through one MLP, as in SDXL;
    None: a map for each scalar and vector. clock: the number that log_snr is embedded as.

    context: width of the tokens of cross-attention, if the text is to be projected to another width
    than its own. class_token: the class is a token beside the text instead of a part of the time
    vector. (A class token alone has attention 1 for all queries, which then learn nothing.)
    mask_text: hide padding from cross-attention, unlike the published networks; a row without words
    sees it. text_last: channels of the text that are read, the last ones, as of the second of two
    encoders side by side (SDXL's refiner); null for all. Without text and class token there is no
    cross-attention.

    Switches of ADM: transformer: false for plain self-attention, in which pixels and words of a
    text share one softmax (Imagen, arXiv 2205.11487, D.3.1). scale_shift: the vector scales and
    shifts residual blocks. resample_blocks: residual blocks halve and double the side.
    learned_variance: adds as many channels for the variance, from the posterior's (-1) to that of
    q(x_t | x_s) (1). pooling: of the text to a vector that is added to the time's, null for none.

    channels, classes, text_width: of the data. low_channels: of the low-resolution image of an
    upsampler, 0 for none; augmentation: embed its log-SNR.

    Raises:
        ValueError: for widths that groups or heads do not divide, a list of `attention` or `depth`
            of another length than `multiples`, a bottom of depth 0, and a class token without a
            transformer.
    """

    rank = 2
    time_width: int

    def __init__(
        self,
        *,
        width: Count = 192,
        multiples: Multiples = (1, 2, 3, 5),
        blocks: Natural = 2,
        attention: Natural | Sequence[Natural] = (0, 1, 1, 1),
        depth: Natural | Sequence[Natural] = 1,
        feedforward: Count = 4,
        heads: Count = 1,
        head_width: Count | None = None,
        groups: Count = 32,
        dropout: Rate = 0.0,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        fourier: Count | None = None,
        clock: Clock = LogSNRClock(),
        context: Count | None = None,
        class_token: bool = False,
        mask_text: bool = False,
        text_last: Count | None = None,
        transformer: bool = True,
        middle_attention: bool = True,
        pooling: Pooling | None = None,
        scale_shift: bool = False,
        resample_blocks: bool = False,
        learned_variance: bool = False,
        augmentation: bool = True,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
    ):
        super().__init__()
        widths = [int(width * multiple) for multiple in multiples]
        counts = [attention] * len(widths) if isinstance(attention, int) else list(attention)
        depths = [depth] * len(widths) if isinstance(depth, int) else list(depth)
        _check_widths(widths, counts, depths, groups)
        if middle_attention and not depths[-1]:
            raise ValueError(
                f"depth {depths}: the bottom has a transformer of the last depth, which is 0: give "
                f"it 1 or more, or set middle_attention to false"
            )
        if not transformer and class_token:
            raise ValueError(
                "plain self-attention reads no class token: set transformer to true, or "
                "class_token to false"
            )
        self.time_width, self.nest_width = 4 * width, widths[0]
        self.reduction = 2 ** (len(widths) - 1)  # side over the side at the bottom
        self.channels, self.multiple = channels, self.reduction
        self.classes, self.low_channels = classes, low_channels
        self.class_token, self.mask_text = class_token and classes > 0, mask_text
        self.learns_variance = learned_variance
        self.clock, self.clocks = clock, (clock,)
        self.reads = Reads(
            classes, text_width, low_channels, frozenset(scalars or ()), dict(vectors or {})
        )
        text_width = min(text_width, text_last or text_width)
        self._text_part = slice(-text_width, None)
        read = 0  # width of what cross-attention reads
        if text_width or self.class_token:
            read = context or text_width or self.time_width
        self._readers: list[SpatialTransformer | JointAttention] = []  # in order of their slots

        def residual(inputs: int, outputs: int, resize: nn.Module | None = None) -> Residual:
            return Residual(inputs, outputs, self.time_width, groups, dropout, scale_shift, resize)

        def attend(w: int, depth: int) -> nn.Module:
            if w % (head_width or heads):
                parts = f"heads of width {head_width}" if head_width else f"{heads} heads"
                raise ValueError(
                    f"{parts} do not divide a width of {w}: choose `heads` or `head_width` that do"
                )
            m = w // head_width if head_width else heads
            if not transformer and not read:
                return ImageOnly(AttentionBlock(w, m, groups, ffn=False))
            reader = (
                SpatialTransformer(w, m, groups, depth, read, feedforward)
                if transformer
                else JointAttention(w, m, groups, text=read, joint=True, ffn=False)
            )
            if read:
                reader.slot = len(self._readers)
                self._readers.append(reader)
            return reader

        def attentions(i: int) -> list[nn.Module]:
            n = counts[i] if depths[i] else 0
            return [attend(widths[i], depths[i]) for _ in range(n)]

        def shrink(w: int) -> nn.Module:
            if resample_blocks:
                return residual(w, w, nn.AvgPool2d(2))
            return ImageOnly(nn.Conv2d(w, w, 3, stride=2, padding=1))

        def grow(w: int) -> nn.Module:
            if resample_blocks:
                return residual(w, w, nn.Upsample(scale_factor=2.0))
            return ImageOnly(Upsample(w))

        self.time = Embedding(self.time_width)
        joint = fourier is not None and bool(scalars or vectors)
        self.scalars: nn.Module = (
            JointConditions(scalars, vectors, fourier or 0, self.time_width)
            if joint
            else ScalarEmbeddings(scalars, self.time_width)
        )
        self.vectors = VectorProjections(None if joint else vectors, self.time_width)
        table = read if self.class_token else self.time_width
        self.label = nn.Embedding(classes + 1, table) if classes else None  # row 0: none
        self.text: nn.Module | None = None
        if text_width:
            self.text = nn.Identity() if text_width == read else nn.Linear(text_width, read)
        self.pool = POOLS[pooling](read, self.time_width) if text_width and pooling else None
        self.augmentation = (
            Embedding(self.time_width, zero=True) if low_channels and augmentation else None
        )

        here = widths[0]
        first = nn.Conv2d(channels + low_channels, here, 3, padding=1)
        self.down = nn.ModuleList([Layers([ImageOnly(first)])])
        skips = [here]
        for i, w in enumerate(widths):
            for _ in range(blocks):
                self.down.append(Layers([residual(here, w), *attentions(i)]))
                skips.append(here := w)
            if i + 1 < len(widths):
                self.down.append(Layers([shrink(w)]))
                skips.append(w)
        inside = [attend(here, depths[-1])] if middle_attention else []
        self.middle = Layers([residual(here, here), *inside, residual(here, here)])
        self.up = nn.ModuleList()
        for i, w in reversed(list(enumerate(widths))):
            for j in range(blocks + 1):
                layers = [residual(here + skips.pop(), w), *attentions(i)]
                if i and j == blocks:
                    layers.append(grow(w))
                self.up.append(Layers(layers))
                here = w
        outputs = channels * (2 if learned_variance else 1)
        last = zeroed(nn.Conv2d(here, outputs, 3, padding=1))
        self.head = nn.Sequential(GroupNormSiLU(groups, here), nn.Identity(), last)

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        first, *down = self.down
        return tuple(layer for layers in (*down, self.middle, *self.up) for layer in layers)

    @property
    def transformers(self) -> tuple[SpatialTransformer, ...]:
        """In the order of their calls."""
        return tuple(part for part in self.modules() if isinstance(part, SpatialTransformer))

    @property
    @override
    def early(self) -> tuple[nn.Module, ...]:
        return tuple(module for reader in self._readers for module in reader.early)

    @override
    def prepare(self, cond: Cond) -> Cond:
        """The class as a vector or a token, and the keys and values of each transformer."""
        vector: Tensor | None = None
        tokens: list[Tensor] = []
        if self.label is not None:
            label = self.label(labels_of(cond, self.classes) + 1)
            if self.class_token:
                tokens.append(label[:, None])
            else:
                vector = label
        if self.text is not None:
            states, words = caption_of(cond)
            tokens.append(self.text(states[..., self._text_part]))
            if self.pool is not None:
                pooled = self.pool(tokens[-1], words)
                vector = pooled if vector is None else vector + pooled
        context: tuple[Tensor, ...] = ()
        if tokens:
            read = torch.cat(tokens, dim=1)
            context = tuple(reader.keys_values(read) for reader in self._readers)
        return replace(cond, embedding=self.vectors(vector, cond), context=context)

    @override
    def outputs(
        self,
        x: Float[Tensor, "b c h w"],
        log_snr: Float[Tensor, " b"],
        cond: Cond,
        added: Float[Tensor, "b n h w"] | None,
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b n h w"] | None]:
        """As in `Backbone`; twice the channels where the variance is learned."""
        return self.run(x, self.context(log_snr, cond), cond, added)

    def context(self, log_snr: Float[Tensor, " b"], cond: Cond) -> Context:
        """What the layers read beside the image, from prepared conditions."""
        time = self.time(self.clock(log_snr))
        vector = conditioned(time, log_snr, cond, self.scalars, self.augmentation)
        return Context(vector, cond.context, self._mask(cond))

    def run(
        self, x: Tensor, context: Context, cond: Cond, added: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `outputs`, of a context."""
        first, *rest = self.down
        h = first(with_low(x, cond, self.low_channels), context)
        if added is not None:
            h = h + added
        skips: list[Tensor] = [h]
        for step in rest:
            h = step(h, context)
            skips.append(h)
        h = self.middle(h, context)
        for step in self.up:
            h = step(torch.cat([h, skips.pop()], dim=1), context)
        return self.head(h), h

    def _mask(self, cond: Cond) -> Tensor | None:
        if not self.mask_text or self.text is None or cond.mask is None:
            return None
        mask = F.pad(cond.mask, (1, 0), value=True) if self.class_token else cond.mask
        mask = mask | ~mask.any(dim=1, keepdim=True)  # a row without words sees padding
        return mask[:, None, None]


def _check_widths(
    widths: Sequence[int], counts: Sequence[int], depths: Sequence[int], groups: int
) -> None:
    for name, own in (("attention", counts), ("depth", depths)):
        if len(own) != len(widths):
            raise ValueError(
                f"{name} {list(own)} for {len(widths)} widths: give one for each of `multiples`"
            )
    if any(w % groups for w in widths):
        raise ValueError(
            f"{groups} groups do not divide all widths {list(widths)}: choose `groups` that does"
        )
