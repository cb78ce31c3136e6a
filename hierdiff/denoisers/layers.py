"""Layers of the convolutional denoisers: residual block with FiLM, attention, noise embedding.

They follow the network of Matryoshka diffusion (arXiv 2310.15111 and its official code).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import CAPTION, LABEL, LOW, Cond
from hierdiff.denoisers.attention import attended
from hierdiff.denoisers.norms import GroupNorm, GroupNormSiLU
from hierdiff.options import Between, Count, Length, Positive
from hierdiff.registry import Registry
from hierdiff.schedules import Schedule

Multiples = Annotated[Sequence[Positive], Length(1, more=True)]  # of a width
Rate = Annotated[float, Between(0, 1, below=True)]  # of dropout
Scalars = Sequence[str] | Mapping[str, Positive]  # names; or {name: largest and default value}
Vectors = Mapping[str, Count]  # {name: width}


M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleList, Generic[M]):
    """A `ModuleList` of modules of one class."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...


def zeroed(layer: nn.Conv2d | nn.Linear) -> Any:
    """`layer` with zero weights and bias: a branch that ends in it starts by adding nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def sinusoid(values: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Sines, then cosines of value * exp(-i ln(10^4) / h), i = 0 .. h - 1, h = width / 2."""
    half = width // 2
    rates = torch.exp(-math.log(1e4) / half * torch.arange(half, device=values.device))
    angles = values.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """(rows * columns, width): sinusoids of the row, then of the column, half of the width each."""
    row, column = (
        sinusoid(torch.arange(n, device=device, dtype=torch.float32), width // 2)
        for n in (rows, columns)
    )
    return torch.cat([row.repeat_interleave(columns, 0), column.repeat(rows, 1)], dim=1)


class Clock(ABC):
    """A map of log_snr to the number that is embedded, such as 0 (clean) to 1000 (noise)."""

    @abstractmethod
    def __call__(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The number of each example, of which the network sees sines and cosines."""

    def check(self, schedule: Schedule) -> None:  # noqa: B027
        """Checks that the clock suits a level of this schedule; by default every one does.

        Raises:
            ValueError: where it does not.
        """


clocks: Registry[Clock] = Registry("clock", Clock)


@clocks.register("log_snr")
@dataclass(frozen=True)
class LogSNRClock(Clock):
    """Linear in log_snr: 0 at 30, 1000 at -30."""

    @override
    def __call__(self, log_snr: Tensor) -> Tensor:
        return (30 - log_snr) * (1000 / 60)


@clocks.register("gamma")
@dataclass(frozen=True)
class GammaClock(Clock):
    """scale * sigmoid(log_snr), which is scale * alpha^2 where alpha^2 + sigma^2 = 1.

    Its direction is reversed: 0 is noise. Chen, arXiv 2301.10972; Jabri et al., arXiv 2212.11972,
    code.
    """

    scale: Positive = 1000.0

    @override
    def __call__(self, log_snr: Tensor) -> Tensor:
        return self.scale * torch.sigmoid(log_snr)


@clocks.register("flow")
@dataclass(frozen=True)
class FlowClock(Clock):
    """scale * sigmoid(log_snr / 2): the alpha of the straight path, which is SiT's time.

    Its direction is reversed: 0 is noise, 1 the image, not scaled further (SiT, arXiv 2401.08740,
    code).
    """

    scale: Positive = 1.0

    @override
    def __call__(self, log_snr: Tensor) -> Tensor:
        return self.scale * torch.sigmoid(log_snr / 2)


@clocks.register("steps")
@dataclass(frozen=True)
class StepClock(Clock):
    """The integer step 0 .. steps - 1 of a published network, by its training schedule.

    It adapts networks that were trained on steps: elsewhere a network receives log_snr, never a
    step. The step is the table index minus 1.
    """

    schedule: Schedule
    steps: Count = 1000

    @override
    def __call__(self, log_snr: Tensor) -> Tensor:
        t = self.schedule.inverse(log_snr.double())
        return (torch.round(t * self.steps) - 1).clamp(min=0).float()

    @override
    def check(self, schedule: Schedule) -> None:
        """Checks that the clock counts the steps of the level's schedule.

        Raises:
            ValueError: where they differ by over a fiftieth of the steps.
        """
        t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, device="cpu")
        step = self(schedule(t))
        gap = (step - (t * self.steps - 1)).abs()
        worst = int(gap.argmax())
        if float(gap[worst]) > self.steps / 50:
            raise ValueError(
                f"the denoiser's clock counts steps of {self.schedule}, and its level follows "
                f"{schedule}: at t = {float(t[worst]):.2f} it reads step {float(step[worst]):.0f} "
                f"of {self.steps}; give the method that schedule and shift, or the denoiser the "
                f"clock {{name: log_snr}}"
            )


class Embedding(nn.Module):
    """Sinusoid, linear, SiLU, linear: a number to a vector of `width` features.

    zero: the last layer starts at zero.

    Raises:
        ValueError: where `width` is not a positive multiple of 8.
    """

    def __init__(self, width: int, *, zero: bool = False):
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(
                f"a number is embedded in {width} features: choose a multiple of 8, a quarter of "
                f"which holds sines and cosines (time_width, 4 * width if it is left out)"
            )
        self.features = width // 4
        self.first = nn.Linear(self.features, width)
        last = nn.Linear(width, width)
        self.last = zeroed(last) if zero else last

    @override
    def forward(self, values: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        waves = sinusoid(values, self.features).to(self.first.weight.dtype)
        return self.last(F.silu(self.first(waves)))


class ScalarEmbeddings(nn.ModuleDict):
    """Micro-conditions: an `Embedding` of each named scalar, added to the time embedding.

    scalars: names; or {name: largest value}, to which larger values are clipped and which replaces
    a missing one. Without a largest value, "none" (NaN) adds nothing. Last layers start at zero, so
    that a new scalar changes no prediction.
    """

    def __init__(self, scalars: Scalars | None, width: int):
        limits = scalars if isinstance(scalars, Mapping) else dict.fromkeys(scalars or (), math.inf)
        check_condition_names(limits, "scalar")
        super().__init__({name: Embedding(width, zero=True) for name in limits})
        self.limits = dict(limits)

    @override
    def forward(self, vector: Float[Tensor, "b w"], cond: Cond) -> Float[Tensor, "b w"]:
        """`vector` plus the embedded scalars; its rows are the first of the batch.

        Raises:
            ValueError: where a scalar without a default is missing.
        """
        for name, embedding in self.items():
            scalar, none = scalar_of(cond, name, self.limits[name], len(vector), vector.device)
            vector = vector + torch.where(none[:, None], 0.0, embedding(scalar))
        return vector


def scalar_of(
    cond: Cond, name: str, limit: float, rows: int, device: torch.device
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """A scalar of the first `rows` examples, at most `limit`, and where it is "none".

    A finite limit takes the place of "none".

    Raises:
        ValueError: where a scalar without a finite limit is missing.
    """
    bounded, scalar = math.isfinite(limit), cond.scalars.get(name)
    if scalar is None and not bounded:
        raise ValueError(
            f"this denoiser reads the scalar {name!r} and was given none: give "
            f"cond.scalars[{name!r}], one number for each example, NaN for none"
        )
    if scalar is None:
        scalar = torch.full((rows,), limit, device=device)
    scalar = scalar[:rows]
    none = scalar.isnan()
    scalar = torch.where(none, limit if bounded else 0.0, scalar).clamp(max=limit)
    return scalar, torch.zeros_like(none) if bounded else none


class VectorProjections(nn.ModuleDict):
    """Projections of named vectors, such as an image embedding or a pooled text, summed.

    Each is a linear map without bias that starts at zero; zeros, which mean "none", add nothing.
    vectors: {name: width}. width: of the result.
    """

    def __init__(self, vectors: Vectors | None, width: int):
        widths = dict(vectors or {})
        check_condition_names(widths, "vector")
        super().__init__(
            {name: zeroed(nn.Linear(own, width, bias=False)) for name, own in widths.items()}
        )

    @override
    def forward(self, vector: Float[Tensor, "b w"] | None, cond: Cond) -> Tensor | None:
        """`vector` plus the projections of all vectors; None where there are neither.

        Raises:
            ValueError: where a vector is missing or has another width.
        """
        for name, linear in self.items():
            assert isinstance(linear, nn.Linear)
            part = linear(vector_of(cond, name, linear.in_features).to(linear.weight.dtype))
            vector = part if vector is None else vector + part
        return vector


def vector_of(cond: Cond, name: str, width: int) -> Float[Tensor, "b width"]:
    """A named vector of the conditions.

    Raises:
        ValueError: where it is missing or has another width.
    """
    own = cond.vectors.get(name)
    if own is None or own.shape[1] != width:
        other = "none" if own is None else f"one of {own.shape[1]}"
        raise ValueError(
            f"this denoiser reads the vector {name!r} of width {width} and "
            f"was given {other}: give cond.vectors[{name!r}], zeros for none"
        )
    return own


class JointConditions(nn.Module):
    """Vectors, then Fourier features of scalars, side by side through one MLP, added to the time.

    So SDXL reads its pooled text and its micro-conditions (arXiv 2307.01952, section 2.2 and its
    code). scalars, vectors: as in `ScalarEmbeddings` and `VectorProjections`, in the order that
    they are named in. features: sines and cosines of a scalar; "none" has zeros. width: of the
    result. The last layer starts at zero.

    Raises:
        ValueError: for an odd number of features.
    """

    def __init__(self, scalars: Scalars | None, vectors: Vectors | None, features: int, width: int):
        super().__init__()
        if features % 2:
            raise ValueError(
                f"{features} Fourier features of a scalar: choose an even number, half are sines"
            )
        limits = scalars if isinstance(scalars, Mapping) else dict.fromkeys(scalars or (), math.inf)
        self.limits, self.widths, self.features = dict(limits), dict(vectors or {}), features
        check_condition_names(self.limits, "scalar")
        check_condition_names(self.widths, "vector")
        inputs = sum(self.widths.values()) + features * len(self.limits)
        self.first, self.last = nn.Linear(inputs, width), zeroed(nn.Linear(width, width))

    @override
    def forward(self, vector: Float[Tensor, "b w"], cond: Cond) -> Float[Tensor, "b w"]:
        """`vector` plus the conditions; its rows are the first of the batch.

        Raises:
            ValueError: where a vector, or a scalar without a default, is missing.
        """
        rows, dtype = len(vector), self.first.weight.dtype
        parts = [vector_of(cond, name, size)[:rows].to(dtype) for name, size in self.widths.items()]
        for name, limit in self.limits.items():
            scalar, none = scalar_of(cond, name, limit, rows, vector.device)
            waves = sinusoid(scalar, self.features).to(dtype)
            parts.append(torch.where(none[:, None], 0.0, waves))
        return vector + self.last(F.silu(self.first(torch.cat(parts, dim=1))))


def check_condition_names(names: Iterable[str], what: str) -> None:
    """Checks names of scalars or vectors.

    Raises:
        ValueError: for a name that is not an identifier or that is already taken.
    """
    for name in names:
        if not name.isidentifier() or name in (LABEL, CAPTION, LOW) or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"{what} {name!r} cannot be named so: choose a name of letters, digits and _ that "
                f"is neither {LABEL}, {CAPTION}, {LOW} nor a method of torch's ModuleDict"
            )


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv, norm, (1 + scale) h + shift, SiLU, dropout, zero conv; plus x.

    vector: width of the vector whose linear map gives scale and shift.
    """

    def __init__(self, inputs: int, outputs: int, vector: int, groups: int, dropout: float):
        super().__init__()
        self.norm1 = GroupNormSiLU(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.film = nn.Linear(vector, 2 * outputs)
        self.norm2 = GroupNormSiLU(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    @override
    def forward(
        self, x: Float[Tensor, "b c h w"], vector: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b k h w"]:
        h = self.conv1(self.norm1(x))
        h = self.norm2(h, self.film(F.silu(vector)))
        return self.shortcut(x) + self.conv2(self.dropout(h))


class AttentionBlock(nn.Module):
    """Self-attention and, with the same queries, text cross-attention; their outputs are summed.

    text: width of the text states, 0 for none. joint: pixels and words share one softmax, as in
    Imagen (arXiv 2205.11487, D.3.1), instead of the sum. ffn: a convolutional MLP of 4x width
    follows. projections: of the pixels, 3 for queries, keys and values. slot: place of this block's
    keys and values in `Cond.context`.

    Raises:
        ValueError: where the heads do not divide the width.
    """

    slot: int | None = None

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        *,
        text: int = 0,
        joint: bool = False,
        ffn: bool = True,
        projections: int = 3,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(
                f"{heads} heads do not divide a width of {width}: choose a number that does"
            )
        self.heads, self.joint = heads, joint
        self.norm = GroupNorm(groups, width)
        self.qkv = nn.Conv2d(width, projections * width, 1)
        self.text = nn.Sequential(nn.LayerNorm(text), nn.Linear(text, 2 * width)) if text else None
        self.out = zeroed(nn.Conv2d(width, width, 1))
        self.ffn = (
            nn.Sequential(
                GroupNorm(groups, width),
                nn.Conv2d(width, 4 * width, 1),
                nn.GELU(),
                zeroed(nn.Conv2d(4 * width, width, 1)),
            )
            if ffn
            else None
        )

    @property
    def early(self) -> tuple[nn.Module, ...]:
        """What `keys_values` calls."""
        return () if self.text is None else (self.text,)

    def keys_values(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l two_c"]:
        """Keys and values of the text, computed once for a whole trajectory."""
        assert self.text is not None
        return self.text(tokens)

    @override
    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b l two_c"] | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        q, k, v = heads_of(pixels(self.qkv(self.norm(x))), 3, self.heads)
        if context is None:
            h = attended(q, k, v)
        else:
            text_k, text_v = heads_of(context, 2, self.heads)
            words = None if mask is None else mask[:, None, None]
            if self.joint:
                k, v = torch.cat([k, text_k], dim=2), torch.cat([v, text_v], dim=2)
                seen = None if words is None else F.pad(words, (q.shape[2], 0), value=True)
                h = attended(q, k, v, seen)
            else:
                h = attended(q, k, v) + attended(q, text_k, text_v, words)
        x = x + self.out(rearrange(h, "b m (h w) d -> b (m d) h w", w=x.shape[-1]))
        return x if self.ffn is None else x + self.ffn(x)


def pixels(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Pixels as tokens whose features stand side by side in memory, as the kernels want them."""
    return rearrange(x, "b c h w -> b (h w) c").contiguous()


def heads_of(x: Float[Tensor, "b l k"], n: int, heads: int) -> Float[Tensor, "n b m l d"]:
    """N projections side by side, such as queries, keys and values, each in heads."""
    return rearrange(x, "b l (n m d) -> n b m l d", n=n, m=heads)


class MeanPool(nn.Linear):
    """A linear map, without bias, of the mean of the words; zeros without words."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    @override
    def forward(  # type: ignore[override]
        self, tokens: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]
    ) -> Tensor:
        """(b, outputs): the text as one vector. mask: True at words."""
        return super().forward(mean_word(tokens, mask))


class AttentionPool(nn.Module):
    """The mean word attends to itself and to the words, each after a LayerNorm; a linear map.

    Heads are 64 wide where that divides the width of the text, else there is one.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.heads = 1 if inputs % 64 else inputs // 64
        self.norm = nn.LayerNorm(inputs)
        self.query = nn.Linear(inputs, inputs)
        self.text = nn.Linear(inputs, 2 * inputs)
        self.out = nn.Linear(inputs, outputs)

    @override
    def forward(self, tokens: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Tensor:
        """(b, outputs): the text as one vector. mask: True at words."""
        tokens = self.norm(tokens)
        mean = mean_word(tokens, mask)[:, None]
        tokens, mask = torch.cat([mean, tokens], dim=1), F.pad(mask, (1, 0), value=True)
        q = rearrange(self.query(mean), "b l (m d) -> b m l d", m=self.heads)
        k, v = rearrange(self.text(tokens), "b l (n m d) -> n b m l d", n=2, m=self.heads)
        h = attended(q, k, v, mask[:, None, None])
        return self.out(rearrange(h, "b m 1 d -> b (m d)"))


Pooling = Literal["mean", "attention"]  # of a text to a vector
POOLS: dict[str, Callable[[int, int], nn.Module]] = {"mean": MeanPool, "attention": AttentionPool}


def mean_word(tokens: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b d"]:
    """The mean over the words, where `mask` is True; zeros without any."""
    words = mask[..., None].to(tokens.dtype)
    return (tokens * words).sum(1) / words.sum(1).clamp(min=1)


class Upsample(nn.Module):
    """Both sides doubled by repeating pixels, then a 3x3 convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    @override
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
