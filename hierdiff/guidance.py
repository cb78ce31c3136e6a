"""Denoise functions and what wraps them: classifier-free guidance, autoguidance, thresholding.

A denoise function is all that a sampler sees of a network: it takes noisy levels and the moment,
and returns clean levels. Guidance joins two of them and thresholding wraps one, level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hierdiff.levels import Levels, clipped
from hierdiff.options import Between, Length, Positive, Share, check
from hierdiff.process import Moment

Carry = Any  # a tree of batch-first tensors handed from step to step, or None


class Denoised(NamedTuple):
    """x0 of each level, finest first; `variance`: learned interpolation in [-1, 1], or None."""

    x0: Levels
    carry: Carry = None
    variance: Levels | None = None


Denoise = Callable[[Levels, Moment, Carry], Denoised]
# One for all levels, or one for each, finest first.
Scale = float | Annotated[Sequence[float], Length(1, more=True)]


def is_off(scale: Scale) -> bool:
    """Whether the scale is 1 for all levels, which is no guidance."""
    return all(s == 1 for s in scale) if isinstance(scale, Sequence) else scale == 1


def check_scale(scale: object, levels: int | None = None) -> None:
    """Checks a guidance scale for so many levels, None for any number of them.

    Raises:
        ValueError: where it is not a finite number, or a sequence of one for each level.
    """
    check(scale, Scale, "guidance")
    if levels is not None and isinstance(scale, Sequence) and len(scale) != levels:
        raise ValueError(
            f"{len(scale)} guidance scales for {levels} levels: one for each, finest first, "
            f"or one for all"
        )


def guided(
    strong: Denoise,
    weak: Denoise,
    scale: Scale,
    *,
    channels: slice = slice(None),
    interval: Sequence[float] = (0.0, 1.0),
    shared_carry: bool = False,
    both: Denoise | None = None,
) -> Denoise:
    """The denoise function of x0 = weak + scale (strong - weak); `strong` itself at scale 1.

    If `weak` has no conditions, this is classifier-free guidance (arXiv 2207.12598); if it is a
    worse network, autoguidance (arXiv 2406.02507). Linear in x0, so the same in eps and v. scale:
    for all levels, or one for each. interval: times at which it acts (arXiv 2404.07724), channels:
    those on which; the rest comes from `strong`. The carry is a pair, one for each. shared_carry:
    `weak` reads the carry of `strong` and its own is dropped, as in the released code of RIN. both:
    `strong` on the first and `weak` on the last half of a doubled batch, called in their place.
    """
    if is_off(scale):
        return strong

    def denoise(x: Levels, t: Moment, carry: Carry) -> Denoised:
        first, own = carry or (None, None)
        second = first if shared_carry else own
        if not interval[0] <= t.time <= interval[1]:
            good = strong(x, t, first)
            return good._replace(carry=(good.carry, own))
        if both is not None and (first is None) == (second is None):
            good, bad = halves(doubled(both, x, t, first, second))
        else:
            good, bad = strong(x, t, first), weak(x, t, second)
        scales = scale if isinstance(scale, Sequence) else [scale] * len(x)
        x0 = []
        for g, b, s in zip(good.x0, bad.x0, scales, strict=True):
            mixed = g.clone()
            mixed[:, channels] = (b + float(s) * (g - b))[:, channels]
            x0.append(mixed)
        return Denoised(tuple(x0), (good.carry, bad.carry), good.variance)

    return denoise


def doubled(both: Denoise, x: Levels, t: Moment, first: Carry, second: Carry) -> Denoised:
    """`both` on the rows of x twice; first, second: carries of the two halves, or both None."""

    def twice(values: Tensor) -> Tensor:
        return torch.cat([values, values])

    rows = t._replace(log_snr=twice(t.log_snr), alpha=twice(t.alpha), sigma=twice(t.sigma))
    carry = None
    if first is not None:
        carry = pytree.tree_map(lambda a, b: torch.cat([a, b]), first, second)
    return both(tuple(map(twice, x)), rows, carry)


def halves(out: Denoised) -> tuple[Denoised, Denoised]:
    """The first and the last half of the rows of a denoised state."""
    leaves, spec = pytree.tree_flatten(tuple(out))
    pairs = [(leaf, leaf) if leaf is None else leaf.chunk(2) for leaf in leaves]
    first, last = (pytree.tree_unflatten([pair[i] for pair in pairs], spec) for i in (0, 1))
    return Denoised(*first), Denoised(*last)


def inpainted(denoise: Denoise, x0: Levels, mask: Levels) -> Denoise:
    """`denoise` with x0 replaced by known clean levels where `mask` is 1, and unchanged where 0.

    x0, mask: of each level, in the shape of the state or broadcast to it. Samples end in x0 where
    it is known: the replacement method (arXiv 2011.13456, section 5) applied to the mean.
    """

    def wrapped(x: Levels, t: Moment, carry: Carry) -> Denoised:
        out = denoise(x, t, carry)
        parts = zip(out.x0, x0, mask, strict=True)
        return out._replace(x0=tuple(m * known + (1 - m) * new for new, known, m in parts))

    return wrapped


def static_threshold(limit: Positive = 1.0) -> Callable[[Levels], Levels]:
    """A function that clips x0 to [-limit, limit]."""
    return lambda x0: tuple(clipped(level, limit) for level in x0)


def dynamic_threshold(
    quantile: Share = 0.995, cap: Annotated[float, Between(1)] = 100.0
) -> Callable[[Levels], Levels]:
    """A function that clips x0 to +-s and divides it by s, per example and level.

    s is the quantile of |x0| over its pixels, within [1, cap].

    Imagen, arXiv 2205.11487, section 2.3; quantile 0.95 and cap 1.5 are DeepFloyd IF's.
    """

    def apply(x0: Levels) -> Levels:
        limits = [
            torch.quantile(level.flatten(1).abs().float(), quantile, dim=1)
            .clamp(1, cap)
            .to(level.dtype)
            .reshape(-1, *[1] * (level.ndim - 1))
            for level in x0
        ]
        return tuple(clipped(x, s) / s for x, s in zip(x0, limits, strict=True))

    return apply


def no_threshold() -> Callable[[Levels], Levels]:
    """A function that leaves x0 as it is."""
    return lambda x0: x0


THRESHOLDS: dict[str, Callable[..., Callable[[Levels], Levels]]] = {
    "none": no_threshold,
    "static": static_threshold,
    "dynamic": dynamic_threshold,
}


def thresholded(denoise: Denoise, threshold: Callable[[Levels], Levels]) -> Denoise:
    """`denoise` followed by `threshold` of x0; samplers then derive eps from the result."""

    def wrapped(x: Levels, t: Moment, carry: Carry) -> Denoised:
        out = denoise(x, t, carry)
        return out._replace(x0=threshold(out.x0))

    return wrapped
