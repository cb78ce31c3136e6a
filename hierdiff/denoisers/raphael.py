"""RAPHAEL: a latent diffusion U-Net whose words and times choose experts (arXiv 2305.18295).

In each transformer block one of several time experts, chosen by the noise level, follows
cross-attention, and space experts follow it: every word of the caption chooses one, which paints
the region that the word attends to (section 3.1). There is no public code. Where the paper is
silent, the choice made here is said where it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers.layers import Clock, LogSNRClock, Modules, Multiples, Rate, Scalars, Vectors
from hierdiff.denoisers.ldm_unet import Context, LDMUNet, TransformerBlock, geglu
from hierdiff.denoisers.protocol import Prediction, Routes, denoisers, single_level
from hierdiff.levels import Levels
from hierdiff.options import Count, Natural, NonNegative, Share

EDGE_LAYERS, EDGE_WIDTH = 5, 16  # convolutions of an edge head (section 3.2); width: chosen


class Gate(nn.Module):
    """Chooses one of `experts` by argmax(softmax(two layers) + noise); the noise is for training.

    The choice is one-hot, with the gradient of the logarithm of the chosen probability (the paper
    has no word on the gradient of argmax). noise: its standard deviation (not published).
    """

    def __init__(self, inputs: int, experts: int, noise: float):
        super().__init__()
        self.noise = noise
        self.first, self.last = nn.Linear(inputs, inputs), nn.Linear(inputs, experts)

    @override
    def forward(self, x: Float[Tensor, "*b d"], noisy: bool = True) -> Float[Tensor, "*b k"]:
        p = self.last(F.gelu(self.first(x))).softmax(-1)
        drawn = p + self.noise * torch.randn_like(p) if self.training and noisy else p
        chosen = F.one_hot(drawn.argmax(-1), p.shape[-1]).to(p)
        return chosen * (p / p.detach().clamp_min(torch.finfo(p.dtype).tiny))


class Expert(nn.Module):
    """A feed-forward like that of the plain block."""

    def __init__(self, width: int, feedforward: int):
        super().__init__()
        self.expand = nn.Linear(width, 2 * feedforward * width)
        self.contract = nn.Linear(feedforward * width, width)

    @override
    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return geglu(x, self.expand, self.contract)


class ExpertBlock(nn.Module):
    """A transformer block whose feed-forward is the first of its time experts, then space experts.

    context: width of the words, 0 for none and so no space experts. vector: width of that of time
    and class, by which a time expert is chosen. space, time: numbers of experts.
    """

    def __init__(
        self,
        plain: TransformerBlock,
        context: int,
        vector: int,
        space: int,
        time: int,
        space_feedforward: int,
        threshold: float,
        noise: float,
    ):
        super().__init__()
        self.plain, self.threshold = plain, threshold
        width = plain.contract.out_features
        feedforward = plain.contract.in_features // width
        self.time: Modules[Expert] = Modules(Expert(width, feedforward) for _ in range(time - 1))
        self.time_gate = Gate(vector, time, noise) if time > 1 else None
        self.chosen: Tensor | None = None  # the time expert of each row in the last call, for logs
        self.words = space if context else 0  # experts that a word can choose
        if self.words:
            self.norm = nn.LayerNorm(width)
        self.space: Modules[Expert] = Modules(
            Expert(width, space_feedforward) for _ in range(self.words)
        )
        self.word_gate = Gate(context, space, noise) if self.words > 1 else None

    @property
    def early(self) -> tuple[nn.Module, ...]:
        """As in the plain block."""
        return self.plain.early if self.word_gate is None else (*self.plain.early, self.word_gate)

    def keys_values(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l k"]:
        """Keys and values of the words, and beside them the expert that each chooses, one-hot."""
        parts = [self.plain.keys_values(tokens)]
        if self.words:
            one = tokens.new_ones(*tokens.shape[:2], 1)
            parts.append(one if self.word_gate is None else self.word_gate(tokens).to(parts[0]))
        return torch.cat(parts, dim=-1)

    def time_of(self, vector: Float[Tensor, "b d"]) -> Int[Tensor, " b"]:
        """The time expert of each row, without noise."""
        if self.time_gate is None:
            return torch.zeros_like(vector[:, 0], dtype=torch.long)
        return self.time_gate(F.silu(vector), noisy=False).argmax(-1)

    @override
    def forward(
        self,
        x: Float[Tensor, "b n c"],
        keys_values: Float[Tensor, "b l k"] | None,
        context: Context,
    ) -> Float[Tensor, "b n c"]:
        plain = self.plain
        x = plain.attend(x)
        if keys_values is None:
            return x + self._timed(plain.norm3(x), context.vector)
        k = keys_values.shape[-1] - self.words
        q, keys, values = plain.queried(x, keys_values[..., :k])
        maps = cross_attention(q, keys, context.mask)
        if context.maps is not None:
            context.maps.append(maps)
        x = x + plain.read(rearrange(maps @ values, "b m n d -> b n (m d)"))
        x = x + self._timed(plain.norm3(x), context.vector)
        if not self.words:
            return x
        painted = shares(maps, keys_values[..., k:], context.mask, self.threshold)
        return x + self._painted(self.norm(x), *painted)

    def _timed(
        self, x: Float[Tensor, "b n c"], vector: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n c"]:
        """That of the expert which each row chooses; the paper adds nothing to it."""
        experts = (self.plain, *self.time)
        if self.time_gate is None:
            return geglu(x, self.plain.expand, self.plain.contract)
        choice = self.time_gate(F.silu(vector))
        self.chosen = place = choice.detach().argmax(-1)

        def layer(h: Tensor, name: str) -> Tensor:
            own = [getattr(expert, name) for expert in experts]
            weight = torch.stack([one.weight for one in own]).index_select(0, place)
            bias = torch.stack([one.bias for one in own]).index_select(0, place)
            return torch.baddbmm(bias[:, None], h, weight.mT)

        h, gate = layer(x, "expand").chunk(2, dim=-1)
        return layer(h * F.gelu(gate), "contract") * choice.sum(-1)[:, None, None]

    def _painted(
        self,
        x: Float[Tensor, "b n c"],
        inside: Float[Tensor, "b n k"],
        outside: Float[Tensor, "b n k"],
    ) -> Float[Tensor, "b n c"]:
        """The mean over the words of expert(x within the word's region).

        An expert acts on each pixel by itself, on x inside of a region and on 0 outside, so that
        all words of an expert need it once.
        """
        total = torch.zeros_like(x)
        for i, expert in enumerate(self.space):
            nothing = expert(x.new_zeros(x.shape[-1]))
            total = total + inside[..., i, None] * expert(x) + outside[..., i, None] * nothing
        return total


def cross_attention(
    q: Float[Tensor, "b m n d"],
    k: Float[Tensor, "b m l d"],
    mask: Bool[Tensor, "b 1 1 l"] | None,
) -> Float[Tensor, "b m n l"]:
    """Softmax over the words of each head, for each pixel."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


def regions(maps: Float[Tensor, "b m n l"], threshold: float) -> Bool[Tensor, "b n l"]:
    """The pixels whose attention to a word is `threshold` of its largest one or more.

    The heads are averaged (chosen).
    """
    seen = maps.mean(1)
    return seen >= threshold * seen.amax(1, keepdim=True)


def shares(
    maps: Float[Tensor, "b m n l"],
    choice: Float[Tensor, "b l k"],
    mask: Bool[Tensor, "b 1 1 l"] | None,
    threshold: float,
) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b n k"]]:
    """For each pixel and expert the share of the words that choose it, with the pixel in their
    region and without. choice: of each word, one-hot; mask: True at words."""
    words = torch.ones_like(choice[..., :1]) if mask is None else mask[:, 0, 0, :, None].to(choice)
    choice = choice * words / words.sum(1, keepdim=True)
    inside = regions(maps, threshold).to(choice) @ choice
    return inside, choice.sum(1, keepdim=True) - inside


@denoisers.register("raphael")
class Raphael(LDMUNet):
    """The U-Net of latent diffusion with experts; the number of experts is the published one.

    Options and facts as in `ldm_unet`. Padding is hidden from the words' softmax and mean.
    space_experts: one of them is chosen by each word; 0 for none, and there are none without text.
    time_experts: one of them is chosen by the vector of time (and class); the first is the plain
    feed-forward, so that 1 is none. space_feedforward: hidden width of a space expert over the
    width. threshold: of a word's attention, over its largest, where its region begins. gate_noise:
    standard deviation, in probability. edges: a head of five convolutions on the cross-attention of
    each block guesses the edges of the clean image in training, for the objective
    `edge_supervised`; its transformers are then not recomputed or sharded one by one.

    Without space experts and edges and with one time expert, this is `ldm_unet` with `mask_text`.

    Raises:
        ValueError: as `ldm_unet`; for edges without text.
    """

    def __init__(
        self,
        *,
        width: Count = 320,
        multiples: Multiples = (1, 2, 4, 4),
        blocks: Natural = 2,
        attention: Natural | Sequence[Natural] = (1, 1, 1, 0),
        depth: Natural | Sequence[Natural] = 1,
        heads: Count = 8,
        head_width: Count | None = None,
        groups: Count = 32,
        dropout: Rate = 0.0,
        space_experts: Natural = 6,
        time_experts: Count = 4,
        space_feedforward: Count = 4,
        threshold: Share = 0.2,
        gate_noise: NonNegative = 0.1,
        edges: bool = False,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        clock: Clock = LogSNRClock(),
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
    ):
        super().__init__(
            width=width,
            multiples=multiples,
            blocks=blocks,
            attention=attention,
            depth=depth,
            heads=heads,
            head_width=head_width,
            groups=groups,
            dropout=dropout,
            scalars=scalars,
            vectors=vectors,
            clock=clock,
            mask_text=True,
            channels=channels,
            classes=classes,
            text_width=text_width,
            low_channels=low_channels,
        )
        if edges and not text_width:
            raise ValueError(
                "edges are guessed from the attention to words, and the data has none: set "
                "data.text, or denoiser.edges to false"
            )
        if space_experts and not text_width:
            self.notes += ("no captions: no word chooses a space expert, so there are none",)
        self.guesses_edges = edges
        self.edges = nn.ModuleList()
        if time_experts > 1 or (space_experts and text_width):
            words = {"words": space_experts} if space_experts and text_width else {}
            self.experts = {"time": time_experts, **words}
        if not space_experts and time_experts == 1 and not edges:
            return
        for transformer in self.transformers:
            for i, plain in enumerate(transformer.blocks):
                block = ExpertBlock(
                    plain,
                    text_width,
                    self.time_width,
                    space_experts,
                    time_experts,
                    space_feedforward,
                    threshold,
                    gate_noise,
                )
                transformer.blocks[i] = block
        if edges:
            self.edges = nn.ModuleList(edge_head(block.plain.heads) for block in self.blocks)

    @property
    def blocks(self) -> tuple[ExpertBlock, ...]:
        """Its transformer blocks, in the order of their calls."""
        return tuple(part for part in self.modules() if isinstance(part, ExpertBlock))

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        inside = self.transformers if self.guesses_edges else ()
        return tuple(unit for unit in super().units if unit not in inside)

    @property
    @override
    def idle(self) -> int:
        parts = [*(expert for block in self.blocks for expert in block.time), self.edges]
        return sum(p.numel() for part in parts for p in part.parameters())

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        x, context = single_level(self, x_t), self.context(log_snr[:, 0], cond)
        maps: list[Tensor] = []
        if self.training and self.guesses_edges:
            context = context._replace(maps=maps)
        out, features = self.run(x, context, cond, added)
        if not self.training:
            return Prediction((out,), features=features)
        edges = tuple(
            head(image_of(last_word(each, context.mask), x))
            for head, each in zip(self.edges, maps, strict=True)
        )
        return Prediction((out,), features=features, edges=edges, logs=self._balance(context))

    @torch.no_grad()
    @override
    def routes(self, x_t: Levels, log_snr: Float[Tensor, "b levels"], cond: Cond) -> Routes:
        """As in `Denoiser`; times choose without noise."""
        x, context = single_level(self, x_t), self.context(log_snr[:, 0], cond)
        routes, maps = self._chosen(context), list[Tensor]()
        if routes.words is None:
            return routes
        self.run(x, context._replace(maps=maps), cond)
        painted = []
        for block, each, chosen in zip(self.blocks, maps, routes.words.unbind(1), strict=True):
            choice = F.one_hot(chosen, block.words).to(each)
            inside, _ = shares(each, choice, context.mask, block.threshold)
            painted.append(image_of(inside.mT, x))
        return routes._replace(painted=tuple(painted))

    def _chosen(self, context: Context, last: bool = False) -> Routes:
        """last: the times as they were chosen in the last call, with noise; their gates belong to
        the blocks, and are not called outside of them in training."""
        time, words = [], []
        for transformer in self.transformers:
            slot, n = transformer.slot, len(transformer.blocks)
            parts: Sequence[Tensor | None] = [None] * n
            if slot is not None:
                parts = context.keys_values[slot].chunk(n, dim=-1)
            for block, part in zip(transformer.blocks, parts, strict=True):
                assert isinstance(block, ExpertBlock)
                known = block.chosen if last else None
                time.append(block.time_of(context.vector) if known is None else known)
                if part is not None and block.words:
                    words.append(part[..., -block.words :].argmax(-1))
        if not words:
            return Routes(torch.stack(time, 1))
        seen = torch.ones_like(words[0], dtype=torch.bool)
        seen = seen if context.mask is None else context.mask[:, 0, 0]
        return Routes(torch.stack(time, 1), torch.stack(words, 1), seen)

    @torch.no_grad()
    def _balance(self, context: Context) -> dict[str, Tensor]:
        """Effective numbers of experts in the batch, the mean over blocks: 1 where all choose one,
        their number where all are chosen alike often."""
        if not self.blocks:
            return {}
        routes, logs = self._chosen(context, last=True), {}
        rows = torch.ones_like(routes.time[:, 0], dtype=torch.bool)
        logs["experts/time"] = effective(routes.time, rows, self.experts["time"])
        if routes.words is not None and routes.seen is not None:
            logs["experts/words"] = effective(routes.words, routes.seen, self.experts["words"])
        return logs


def effective(
    chosen: Int[Tensor, "b blocks ..."], rows: Bool[Tensor, "b ..."], experts: int
) -> Float[Tensor, ""]:
    """exp(entropy) of how often each expert is chosen where `rows`, the mean over blocks."""
    counts = (F.one_hot(chosen, experts) * rows[:, None, ..., None]).transpose(0, 1)
    load = counts.reshape(len(counts), -1, experts).sum(1) / rows.sum()
    return torch.special.entr(load).sum(-1).exp().mean()


def edge_head(heads: int) -> nn.Sequential:
    """Five convolutions from the attention of each head to logits of an edge."""
    widths = [heads, *[EDGE_WIDTH] * (EDGE_LAYERS - 1), 1]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def last_word(
    maps: Float[Tensor, "b m n l"], mask: Bool[Tensor, "b 1 1 l"] | None
) -> Float[Tensor, "b m n"]:
    """The attention to the last word, which is the pooled one in CLIP (figure 7 of the paper)."""
    if mask is None:
        return maps[..., -1]
    place = mask.long().cumsum(-1).argmax(-1, keepdim=True)  # the last True of each row
    return maps.take_along_dim(place, -1)[..., 0]


def image_of(values: Float[Tensor, "b k n"], x: Float[Tensor, "b c h w"]) -> Tensor:
    """Values of n pixels, rows before columns, as an image in the proportions of x: b k i j."""
    reduction = round((x.shape[-2] * x.shape[-1] / values.shape[-1]) ** 0.5)
    return rearrange(values, "b k (i j) -> b k i j", j=x.shape[-1] // reduction)
