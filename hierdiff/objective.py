"""The training loss: time density, prediction space, loss space, weight of log-SNR, level weights.

Prediction and loss space are set apart: MDM predicts v and compares in eps space (arXiv 2310.15111,
official code). A weight is given on the squared error of x0, whatever the loss space; `constant`
alone means a plain mean square in the loss space itself. A learned variance has a term of its own,
which the mean does not feel (iDDPM, arXiv 2102.09672, section 3.1).
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import LOG_SNR_LIMIT, Denoiser, predicted
from hierdiff.levels import Levels, down, level_names, spread
from hierdiff.noise import Noise
from hierdiff.options import Between, Count, NonNegative, Positive, Share
from hierdiff.parameterization import Parameterization, check_kind, error_ratio, target
from hierdiff.process import GaussianProcess
from hierdiff.registry import Node, Registry, constructed

log = logging.getLogger(__name__)


class Weight(ABC):
    """log_snr and the loss space's error ratio -> weight on the squared error of x0."""

    @abstractmethod
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor: ...


weights: Registry[Weight] = Registry("loss weight", Weight)


@weights.register("constant")
@dataclass(frozen=True)
class Constant(Weight):
    """Plain mean square in the loss space."""

    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return ratio


@weights.register("snr")
@dataclass(frozen=True)
class SNR(Weight):
    """The SNR: what a plain loss on eps amounts to."""

    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp()


@weights.register("truncated_snr")
@dataclass(frozen=True)
class TruncatedSNR(Weight):
    """max(SNR, 1) (Salimans & Ho, arXiv 2202.00512)."""

    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp().clamp(min=1)


@weights.register("min_snr")
@dataclass(frozen=True)
class MinSNR(Weight):
    """min(SNR, gamma) (Hang et al., arXiv 2303.09556)."""

    gamma: Positive = 5.0

    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


@weights.register("sigmoid")
@dataclass(frozen=True)
class SigmoidWeight(Weight):
    """sigmoid(bias - log_snr) on the eps error (Kingma & Gao, arXiv 2303.00848)."""

    bias: float = 0.0

    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp() * torch.sigmoid(self.bias - log_snr)


@weights.register("edm")
@dataclass(frozen=True)
class EDMWeight(Weight):
    """SNR + 1 / sigma_data^2: EDM's lambda (arXiv 2206.00364, table 1)."""

    sigma_data: Positive = 0.5

    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2


class TimeDensity(ABC):
    """Uniform numbers in (0, 1) to training times in (0, 1)."""

    @abstractmethod
    def __call__(self, u: Float[Tensor, " b"], process: GaussianProcess) -> Float[Tensor, " b"]: ...


densities: Registry[TimeDensity] = Registry("time density", TimeDensity)


@densities.register("uniform")
@dataclass(frozen=True)
class Uniform(TimeDensity):
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        return u


@densities.register("logit_normal")
@dataclass(frozen=True)
class LogitNormal(TimeDensity):
    """logit(t) ~ N(mean, std^2) (Esser et al., arXiv 2403.03206)."""

    mean: float = 0.0
    std: Positive = 1.0

    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@densities.register("edm")
@dataclass(frozen=True)
class EDMLogNormal(TimeDensity):
    """ln sigma/alpha ~ N(mean, std^2) at the coarsest level (EDM, arXiv 2206.00364, table 1)."""

    mean: float = -1.2
    std: Positive = 1.2

    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return process.schedules[-1].inverse(-2 * log_sigma)


@dataclass(frozen=True)
class Draws:
    """All randomness of one loss: time, noise of each level, which conditions are dropped.

    again: which examples see the carry of a first pass; None where there is no first pass.
    """

    t: Float[Tensor, " b"]
    eps: Levels
    drop: Bool[Tensor, " b"]
    again: Bool[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Loss:
    """`total` is minimised; `logs` are numbers by name, one for each level, to be read.

    Whoever reads them detaches them: a compiler may give equal outputs as one tensor, and with one
    level the total would be detached with its log.
    """

    total: Float[Tensor, ""]
    logs: dict[str, Float[Tensor, ""]]


for cls, names in ((Draws, ["t", "eps", "drop", "again"]), (Loss, ["total", "logs"])):
    pytree.register_dataclass(cls, field_names=names)


def uniforms(
    b: int, noise: Noise, *, stratified: bool = False, margin: float = 1e-6
) -> Float[Tensor, " b"]:
    """Uniform numbers in (margin, 1 - margin); stratified: one in each of b cells, shuffled."""
    u = torch.special.ndtr(noise((b,)))
    if stratified:
        u = (noise((b,)).argsort() + u) / b
    return u.clamp(margin, 1 - margin)


@dataclass(frozen=True)
class Objective:
    """Loss of one network over joint levels.

    loss_space: a row of `PREDICTIONS`. level_weights: one for each level, finest first; None is 1
    each (each level is a mean over its own pixels, so that its size does not matter). drop: rate at
    which a training example loses its label and text, for classifier-free guidance.

    multiscale: sides s, the level's own among them, for one level only: the sum over s of 1 / s
    times the mean square of the error pooled to s takes the place of the mean square (simple
    diffusion, arXiv 2301.11093, section 3). The log of the level stays the plain mean square.

    self_conditioning: rate at which an example is given the carry of a first pass, through which no
    gradient flows (RIN, arXiv 2212.11972); the others see zeros.

    vlb: weight of `variational_bound`, which trains a learned variance and nothing else, over a
    chain of vlb_steps steps. DiT's loss is 1 at 1000 steps, unscaled; iDDPM's 0.001 times the sum
    over the chain, vlb_steps / 1000. Both are for uniform times.
    """

    parameterization: Parameterization | Node = field(default_factory=Parameterization)
    loss_space: str = "eps"
    weight: Weight | Node = field(default_factory=Constant)
    level_weights: Sequence[NonNegative] | None = None
    time: TimeDensity | Node = field(default_factory=Uniform)
    stratified: bool = True
    drop: Share = 0.0
    multiscale: Sequence[Count] = ()
    self_conditioning: Share = 0.0
    vlb: NonNegative = 0.0
    vlb_steps: Annotated[int, Between(2)] = 1000

    def __post_init__(self) -> None:
        check_kind(self.loss_space)
        parameterization = constructed(Parameterization, self.parameterization)
        object.__setattr__(self, "parameterization", parameterization)
        object.__setattr__(self, "weight", _weight(self.weight))
        object.__setattr__(self, "time", _density(self.time))
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop rate {self.drop} is not a share: choose one in [0, 1]")
        if not 0 <= self.self_conditioning <= 1:
            raise ValueError(
                f"self_conditioning {self.self_conditioning} is not a share: choose one in [0, 1]"
            )
        if self.vlb < 0 or self.vlb_steps < 2:
            raise ValueError(
                f"vlb {self.vlb} over {self.vlb_steps} steps: choose a weight of 0 or more and a "
                f"chain of 2 steps or more"
            )

    def check(
        self,
        process: GaussianProcess,
        denoiser: Denoiser | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Refuses what cannot work with this process, network and state, before compute; warns of a
        learned variance that has no loss.

        shapes: c h w of each level. A network that predicts eps says nothing about x0 where the SNR
        is 0.
        """
        if self.level_weights is not None and len(self.level_weights) != len(process.schedules):
            raise ValueError(
                f"{len(self.level_weights)} level weights for {len(process.schedules)} levels: "
                f"give one for each, finest first"
            )
        scales = self.parameterization.input_scale  # type: ignore[union-attr]
        if not isinstance(scales, str) and len(scales) != len(process.schedules):
            raise ValueError(
                f"{len(scales)} input scales for {len(process.schedules)} levels: "
                f"give one for each, finest first, or one for all"
            )
        if self.multiscale and len(process.schedules) != 1:
            raise ValueError(
                f"multiscale {list(self.multiscale)} for {len(process.schedules)} levels: it is "
                f"the loss of one level, weigh joint levels by level_weights"
            )
        if shapes is not None:
            self._check_sides(shapes[-1][-1])
        if self.self_conditioning and denoiser is not None and not denoiser.carries:
            raise ValueError(
                f"self_conditioning {self.self_conditioning} with {type(denoiser).__name__}, which "
                f"carries nothing from call to call: choose 0, or a denoiser that carries (rin)"
            )
        if self.vlb and denoiser is not None and not denoiser.learns_variance:
            raise ValueError(
                f"vlb {self.vlb} with {type(denoiser).__name__}, which learns no variance: "
                f"choose 0, or a denoiser that does (dit with learned_variance: true)"
            )
        if not self.vlb and denoiser is not None and denoiser.learns_variance:
            log.warning(
                "%s learns a variance, which vlb 0 leaves untrained: set objective.vlb (1 in DiT) "
                "or learned_variance: false, and sample by no rule with variance: learned",
                type(denoiser).__name__,
            )
        end = process.log_snr(torch.ones(1, dtype=torch.float64, device="cpu"))
        if self.parameterization.prediction == "eps" and bool(torch.isneginf(end).any()):  # type: ignore[union-attr]
            raise ValueError(
                "prediction 'eps' with SNR 0 at t = 1 cannot be turned into an image: "
                "predict 'v' or 'x0', or choose a schedule with a finite log_snr at t = 1, "
                "such as a limited one"
            )

    def _check_sides(self, side: int) -> None:
        sides = list(self.multiscale)
        repeated = len(set(sides)) != len(sides)
        if sides and (repeated or side not in sides or any(s < 1 or side % s for s in sides)):
            raise ValueError(
                f"multiscale {sides} at {side} px: name divisors of {side}, each once and {side} "
                f"itself among them"
            )

    def tail(self, n: int) -> Objective:
        """The objective of the n coarsest levels."""
        weights = None if self.level_weights is None else self.level_weights[-n:]
        scale = self.parameterization.input_scale  # type: ignore[union-attr]
        if not isinstance(scale, str):
            scale = scale[-n:]
        parameterization = replace(self.parameterization, input_scale=scale)  # type: ignore[type-var]
        return replace(self, level_weights=weights, parameterization=parameterization)

    def draw(
        self, process: GaussianProcess, shapes: Sequence[Sequence[int]], noise: Noise
    ) -> Draws:
        """Made eagerly, outside a compiled loss; shapes: b c h w of each level, the last full."""
        b = shapes[-1][0]
        u = uniforms(b, noise, stratified=self.stratified)
        drop = torch.special.ndtr(noise((b,))) < self.drop
        eps = tuple(noise(shape) for shape in shapes)
        again = None
        if self.self_conditioning:
            again = torch.special.ndtr(noise((b,))) < self.self_conditioning
        return Draws(self.time(u, process), eps, drop, again)  # type: ignore[operator]

    def __call__(
        self, process: GaussianProcess, denoiser: Denoiser, x0: Levels, cond: Cond, draws: Draws
    ) -> Loss:
        """Level i of x0 may hold the first b_i rows; its loss is the mean over its own rows."""
        log_snr = process.log_snr(draws.t)
        alpha, sigma = process.coefficients(log_snr)
        x_t = process.corrupt(x0, draws.eps, draws.t)
        seen = self.parameterization.scaled(x_t, alpha, sigma)  # type: ignore[union-attr]
        told = denoiser.prepare(cond.dropped(draws.drop))
        limited = log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        carry = None
        if draws.again is not None:
            with torch.no_grad():
                first = predicted(denoiser, seen, limited, told)
            carry = masked(first.carry, draws.again)
        prediction = predicted(denoiser, seen, limited, told, carry)
        clean, eps = self.parameterization.x0_eps(prediction.levels, x_t, alpha, sigma)  # type: ignore[union-attr]
        logs: dict[str, Tensor] = {}
        names = level_names([level.shape[-1] for level in x0])
        total = x0[-1].new_zeros(())
        shares = self.level_weights or [1.0] * len(x0)
        columns = zip(spread(alpha, x0), spread(sigma, x0), spread(log_snr, x0), strict=True)
        sigma_data = self.parameterization.sigma_data  # type: ignore[union-attr]
        for i, (a, s, level_log_snr) in enumerate(columns):
            wanted = target(self.loss_space, x0[i], draws.eps[i], a, s, sigma_data)
            guessed = target(self.loss_space, clean[i], eps[i], a, s, sigma_data)
            ratio = error_ratio(self.loss_space, a, s, sigma_data)
            weight = self.weight(level_log_snr, ratio) / ratio  # type: ignore[operator]
            error = guessed - wanted
            loss = (weight * error**2).mean()
            logs[f"loss/{names[i]}"] = loss
            if self.multiscale:
                pooled = {s: (weight * down(error, s) ** 2).mean() for s in self.multiscale}
                logs |= {f"multiscale/{s}": value for s, value in pooled.items()}
                loss = sum(value / s for s, value in pooled.items())
            total = total + shares[i] * loss
        if self.vlb:
            assert prediction.variance is not None  # the check has asked for it
            guess = tuple(level.detach() for level in clean)
            bounds = variational_bound(
                process, x0, x_t, guess, prediction.variance, draws.t, self.vlb_steps
            )
            for share, name, bound in zip(shares, names, bounds, strict=True):
                total = total + self.vlb * share * bound.mean()
                logs[f"vlb/{name}"] = bound.mean()
        for name, value in (prediction.losses or {}).items():
            total = total + value.mean()
            logs[f"loss/{name}"] = value.mean()
        return Loss(total, logs)


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
    the posterior at the x0 `guess`; the logarithm of its variance lies between those of the
    posterior and of q(x_t | x_s) where `variance` in [-1, 1] says (iDDPM, arXiv 2102.09672,
    equation 15). In the first step, t <= 1 / steps, it is -log p(x0 | x_t) for x0 in [-1, 1] of 256
    values, latents included, as published. The posterior is then a point: no variance counts as
    smaller than that of the second step.
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


def masked(carry: Any, again: Bool[Tensor, " b"]) -> Any:
    """A tree of batch-first tensors, zero in the rows where `again` does not hold."""

    def kept(part: Tensor) -> Tensor:
        rows = again[: len(part)].reshape(-1, *[1] * (part.ndim - 1))
        return torch.where(rows, part, 0.0)

    return pytree.tree_map(kept, carry)


def _weight(part: Any) -> Weight:
    return weights.build(part)


def _density(part: Any) -> TimeDensity:
    return densities.build(part)
