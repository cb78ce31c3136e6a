"""The variational bound that trains a learned variance (iDDPM, arXiv 2102.09672)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hierdiff.levels import Levels, spread
from hierdiff.process import GaussianProcess


def variational_bound(
    process: GaussianProcess,
    x0: Levels,
    x_t: Levels,
    guess: Levels,
    variance: Levels,
    t: Float[Tensor, " b"],
    steps: int,
) -> Levels:
    """KL(q(x_s | x_t, x0) || p(x_s | x_t)) with s = t - 1 / steps, (rows,) for each level.

    In bits, mean over dimensions: one of `steps` terms of the likelihood's bound. p has the mean of
    the posterior at the x0 `guess`; the logarithm of its variance is interpolated by `variance` in
    [-1, 1] between those of the posterior (-1) and of q(x_t | x_s) (1) (iDDPM, arXiv 2102.09672,
    equation 15). In the first step, t <= 1 / steps, the term is -log p(x0 | x_t) for x0 in [-1, 1]
    of 256 values, as published, for latents too. There the posterior's variance is 0, so the
    variance of the second step is the least that is used.
    """
    t = t.double()
    s = (t - 1 / steps).clamp(min=0)
    here, there = process.moment(t), process.moment(s)
    large, small = process.step_variance(process.moment(t.clamp(min=1 / steps)), there)
    first, second = (process.moment(torch.full_like(t[:1], i / steps)) for i in (1, 2))
    small = torch.maximum(small, process.step_variance(second, first)[1])
    true, _ = process.posterior(x0, x_t, here, there)
    mean, _ = process.posterior(guess, x_t, here, there)
    lows, highs = spread(small.log(), x0), spread(large.log(), x0)
    bounds = []
    for i, level in enumerate(x0):
        share = (variance[i].to(level.dtype) + 1) / 2
        log_variance = share * highs[i] + (1 - share) * lows[i]
        gap = lows[i] - log_variance
        wrong = (true[i] - mean[i]) ** 2 * torch.exp(-log_variance)
        kl = (gap.exp() - 1 - gap + wrong) / 2
        ends = (s[: len(level)] == 0).reshape(-1, *[1] * (level.ndim - 1))
        nats = torch.where(ends, -log_bin(level, mean[i], log_variance), kl)
        bounds.append(nats.flatten(1).mean(dim=1) / math.log(2))
    return tuple(bounds)


def log_bin(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability of the bin x +- 1 / 255 under N(mean, variance); those at -1 and 1 are open.

    DDPM, arXiv 2006.11239, equation 13; probabilities are at least 1e-12.
    """
    precision = torch.exp(-log_variance / 2)
    below = torch.special.ndtr((x - 1 / 255 - mean) * precision)
    above = torch.special.ndtr((x + 1 / 255 - mean) * precision)
    below = torch.where(x < -0.999, 0.0, below)
    above = torch.where(x > 0.999, 1.0, above)
    return torch.log((above - below).clamp(min=1e-12))
