"""Priors: networks from a noisy embedding and conditions to the clean embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers import OneLevelDenoiser
from hierdiff.denoisers.attention import attended
from hierdiff.denoisers.layers import Embedding, LogSNRClock, mean_word, zeroed
from hierdiff.denoisers.protocol import Reads, caption_of, labels_of
from hierdiff.options import Count, Natural
from hierdiff.registry import Registry


class Prior(OneLevelDenoiser):
    """What both priors read: the class, the words, their mean, and the noise level.

    channels: width of the embedding. classes, text_width: of the data.
    """

    rank = 0

    def __init__(self, width: int, channels: int, classes: int, text_width: int):
        super().__init__()
        self.channels = channels
        self.classes, self.text_width = classes, text_width
        self.reads = Reads(classes, text_width)
        self.clock, self.clocks = LogSNRClock(), (LogSNRClock(),)
        self.time = Embedding(width)
        self.state = nn.Linear(channels, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None  # row 0: none
        self.pooled = nn.Linear(text_width, width) if text_width else None

    def vectors(self, log_snr: Float[Tensor, " b"], cond: Cond) -> list[Float[Tensor, "b w"]]:
        """Of the mean word, the class and the noise level, in this order."""
        vectors = []
        if self.pooled is not None:
            vectors.append(self.pooled(mean_word(*caption_of(cond))))
        if self.label is not None:
            vectors.append(self.label(labels_of(cond, self.classes) + 1))
        return [*vectors, self.time(self.clock(log_snr))]


priors: Registry[Prior] = Registry("prior", Prior)


class CausalBlock(nn.Module):
    """Attention to the tokens before and to itself, then two linear layers."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))
        self.ffn = nn.Sequential(
            *(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU()),
            zeroed(nn.Linear(4 * width, width)),
        )

    @override
    def forward(
        self, x: Float[Tensor, "b l w"], seen: Bool[Tensor, "b 1 l l"]
    ) -> Float[Tensor, "b l w"]:
        parts = rearrange(self.qkv(self.norm(x)), "b l (n m d) -> n b m l d", n=3, m=self.heads)
        h = attended(parts[0], parts[1], parts[2], seen)
        x = x + self.out(rearrange(h, "b m l d -> b l (m d)"))
        return x + self.ffn(x)


@priors.register("transformer")
class TransformerPrior(Prior):
    """A causal transformer over words, mean word, class, noise level, noisy embedding and a query,
    at which the prediction is read (unCLIP, arXiv 2204.06125, section 2.2).

    Words of the padding are not seen. text_length: words of a caption at most. Differences: the
    mean word stands in for CLIP's embedding of the text, the class is a token, and both are left
    out where the data has none.
    """

    def __init__(
        self,
        *,
        width: Count = 192,
        depth: Count = 4,
        heads: Count = 4,
        channels: Count,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}: choose others")
        super().__init__(width, channels, classes, text_width)
        self.word = nn.Linear(text_width, width) if text_width else None
        words = text_length if text_width else 0
        self.length = words + bool(text_width) + bool(classes) + 3
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.02 * torch.randn(self.length, width))
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), zeroed(nn.Linear(width, channels))

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        return tuple(self.blocks)

    @override
    def denoise(
        self, x: Float[Tensor, "b d"], log_snr: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b d"]:
        tail = [*self.vectors(log_snr, cond), self.state(x), self.query.expand(len(x), -1)]
        tokens = torch.stack(tail, 1)
        seen = torch.ones(len(x), len(tail), dtype=torch.bool, device=x.device)
        if self.word is not None:
            states, mask = caption_of(cond)
            tokens = torch.cat([self.word(states), tokens], 1)
            seen = torch.cat([mask, seen], 1)
        n = tokens.shape[1]
        if n != self.length:
            raise ValueError(
                f"a caption of {n - len(tail)} words for a prior of {self.length - len(tail)}: "
                f"give it the text_length of the data"
            )
        causal = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(n, dtype=torch.bool, device=x.device)  # padding sees itself: no NaN
        visible = ((causal & seen[:, None]) | itself)[:, None]
        h = tokens + self.places
        for block in self.blocks:
            h = block(h, visible)
        return self.head(self.norm(h[:, -1]))


@priors.register("mlp")
class MLPPrior(Prior):
    """Residual layers on the noisy embedding, modulated by class, mean word and noise level."""

    def __init__(
        self,
        *,
        width: Count = 512,
        depth: Count = 4,
        channels: Count,
        classes: Natural = 0,
        text_width: Natural = 0,
    ):
        super().__init__(width, channels, classes, text_width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.shifts = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.layers = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(width, 2 * width), nn.GELU(), zeroed(nn.Linear(2 * width, width)))
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), zeroed(nn.Linear(width, channels))

    @override
    def denoise(
        self, x: Float[Tensor, "b d"], log_snr: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b d"]:
        vector = F.silu(torch.stack(self.vectors(log_snr, cond)).sum(0))
        h = self.state(x)
        for norm, shift, layer in zip(self.norms, self.shifts, self.layers, strict=True):
            scale, offset = shift(vector).chunk(2, 1)
            h = h + layer(norm(h) * (1 + scale) + offset)
        return self.head(self.norm(h))
