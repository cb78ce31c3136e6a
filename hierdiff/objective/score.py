"""Score matching: time density, prediction space, loss space, weight of log-SNR, level weights.

Prediction and loss space are set apart: MDM predicts v and compares in eps space (arXiv 2310.15111,
official code). A weight is given on the squared error of x0, whatever the loss space; `constant`
alone means a plain mean square in the loss space itself. A learned variance has a term of its own,
which the mean does not feel (iDDPM, arXiv 2102.09672, section 3.1).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils import _pytree as pytree

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import Denoiser
from hierdiff.levels import Levels, down, level_names, spread
from hierdiff.noise import Noise
from hierdiff.objective.base import Objective, objectives
from hierdiff.objective.bound import variational_bound
from hierdiff.objective.loss import Draws, Loss
from hierdiff.objective.times import TimeDensity, Uniform, uniforms
from hierdiff.objective.weights import Constant, Weight
from hierdiff.options import Between, Count, NonNegative, Share
from hierdiff.parameterization import Parameterization, check_kind, error_ratio, target
from hierdiff.process import GaussianProcess
from hierdiff.solve import solve

log = logging.getLogger(__name__)


@objectives.register("score")
@dataclass(frozen=True)
class ScoreMatching(Objective):
    """Denoising score matching over joint levels (MDM, arXiv 2310.15111).

    loss_space: a row of `PREDICTIONS`. level_weights: one for each level, finest first; None is 1
    each (each level is a mean over its own pixels, so that its size does not matter). drop: rate at
    which a training example loses its label, caption and vectors together, for classifier-free
    guidance; or {condition: rate}, such as {label: 0.1, image_embedding: 0.5}, each drawn by itself
    (scalars and the low-resolution image, `low`, can be dropped by name too).

    multiscale: sides s, the level's own among them, for one level only: the sum over s of 1 / s
    times the mean square of the error pooled to s takes the place of the mean square (simple
    diffusion, arXiv 2301.11093, section 3). The log of the level stays the plain mean square.

    self_conditioning: rate at which an example is given the carry of a first pass, through which no
    gradient flows (RIN, arXiv 2212.11972); the others see zeros.

    vlb: weight of `variational_bound`, which trains a learned variance and nothing else, over a
    chain of vlb_steps steps. DiT's loss is 1 at 1000 steps, unscaled; iDDPM's 0.001 times the sum
    over the chain, vlb_steps / 1000. Both are for uniform times.
    """

    parameterization: Parameterization = Parameterization()
    loss_space: str = "eps"
    weight: Weight = Constant()
    level_weights: Sequence[NonNegative] | None = None
    time: TimeDensity = Uniform()
    stratified: bool = True
    drop: Share | Mapping[str, Share] = 0.0
    multiscale: Sequence[Count] = ()
    self_conditioning: Share = 0.0
    vlb: NonNegative = 0.0
    vlb_steps: Annotated[int, Between(2)] = 1000

    def __post_init__(self) -> None:
        check_kind(self.loss_space)
        for rate in self.drop.values() if isinstance(self.drop, Mapping) else (self.drop,):
            if not 0 <= rate <= 1:
                raise ValueError(f"drop rate {rate} is not a share: choose one in [0, 1]")
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
        scales = self.parameterization.input_scale
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
        reads = None if denoiser is None else denoiser.reads
        if isinstance(self.drop, Mapping) and reads is not None:
            for name in self.drop:
                if name not in reads.names:
                    raise ValueError(
                        f"drop names the condition {name!r}, which {type(denoiser).__name__} does "
                        f"not read: it reads {', '.join(sorted(reads.names)) or 'none'}"
                    )
        if shapes is not None:
            self._check_sides(shapes[-1][-1])
        self.time(torch.tensor([0.5], dtype=torch.float64, device="cpu"), process)
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
        if self.parameterization.prediction == "eps" and bool(torch.isneginf(end).any()):
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

    def tail(self, n: int) -> ScoreMatching:
        weights = None if self.level_weights is None else self.level_weights[-n:]
        scale = self.parameterization.input_scale
        if not isinstance(scale, str):
            scale = scale[-n:]
        parameterization = replace(self.parameterization, input_scale=scale)
        return replace(self, level_weights=weights, parameterization=parameterization)

    def draw(
        self, process: GaussianProcess, shapes: Sequence[Sequence[int]], noise: Noise
    ) -> Draws:
        b = shapes[-1][0]
        u = uniforms(b, noise, stratified=self.stratified)
        drop: Bool[Tensor, " b"] | dict[str, Bool[Tensor, " b"]]
        if isinstance(self.drop, Mapping):
            rates = sorted(self.drop.items())
            drop = {name: torch.special.ndtr(noise((b,))) < rate for name, rate in rates}
        else:
            drop = torch.special.ndtr(noise((b,))) < self.drop
        eps = tuple(noise(shape) for shape in shapes)
        again = None
        if self.self_conditioning:
            again = torch.special.ndtr(noise((b,))) < self.self_conditioning
        return Draws(self.time(u, process), eps, drop, again)

    def __call__(
        self, process: GaussianProcess, denoiser: Denoiser, x0: Levels, cond: Cond, draws: Draws
    ) -> Loss:
        parameterization = self.parameterization
        t = process.moment(draws.t)
        x_t = process.corrupt(x0, draws.eps, draws.t)
        given = denoiser.prepare(cond.dropped(draws.drop))
        carry = None
        if draws.again is not None:
            with torch.no_grad():
                first = solve(denoiser, parameterization, x_t, t, given)
            carry = masked(first.prediction.carry, draws.again)
        clean, eps, prediction = solve(denoiser, parameterization, x_t, t, given, carry)
        logs: dict[str, Tensor] = {}
        names = level_names([level.shape[-1] for level in x0])
        total = x0[-1].new_zeros(())
        shares = self.level_weights or [1.0] * len(x0)
        columns = zip(*(spread(v, x0) for v in (t.alpha, t.sigma, t.log_snr)), strict=True)
        sigma_data = parameterization.sigma_data
        for i, (a, s, log_snr) in enumerate(columns):
            wanted = target(self.loss_space, x0[i], draws.eps[i], a, s, sigma_data)
            guessed = target(self.loss_space, clean[i], eps[i], a, s, sigma_data)
            ratio = error_ratio(self.loss_space, a, s, sigma_data)
            weight = self.weight(log_snr, ratio) / ratio
            error = guessed - wanted
            loss = (weight * error**2).mean()
            logs[f"loss/{names[i]}"] = loss
            if self.multiscale:
                pooled = {s: (weight * down(error, s) ** 2).mean() for s in self.multiscale}
                logs |= {f"multiscale/{s}": value for s, value in pooled.items()}
                parts = (value / s for s, value in pooled.items())
                loss = sum(parts, loss.new_zeros(()))
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


def masked(carry: Any, again: Bool[Tensor, " b"]) -> Any:
    """A tree of batch-first tensors, zero in the rows where `again` does not hold."""

    def kept(part: Tensor) -> Tensor:
        rows = again[: len(part)].reshape(-1, *[1] * (part.ndim - 1))
        return torch.where(rows, part, 0.0)

    return pytree.tree_map(kept, carry)
