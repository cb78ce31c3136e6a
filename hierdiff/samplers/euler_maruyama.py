"""Euler-Maruyama steps of the reverse-time SDE of a flow (SiT, arXiv 2401.08740)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from typing_extensions import override

from hierdiff.guidance import Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.options import Positive
from hierdiff.process import PerLevel
from hierdiff.samplers.integrate import Sampler, State, Step, eps_of, samplers

Coefficient = Literal["sigma", "sbdm", "constant", "decreasing", "increasing_decreasing"]


@samplers.register("euler_maruyama")
@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """x_s = x_t + x0 d(alpha) + eps d(sigma) - w h eps / sigma_t + sqrt(2 w h) noise.

    h = sigma_t - sigma_s: the clock of each level is its sigma, which is SiT's time on the straight
    path. Every w >= 0 has the same marginals.

    coefficient: w as in the released code. "sigma" is norm sigma (also what they call linear, on
    this path); "sbdm" is norm sigma / alpha, of the forward SDE reversed, infinite at alpha = 0, so
    that the grid must start below 1; "constant" is norm; "decreasing" is
    (1 - norm cos(pi sigma))^2 / 4; "increasing_decreasing" is norm sin(pi sigma)^2. last: of the
    step to t = 0, which adds no noise. "euler" goes along the flow, to x0; "mean" keeps the term of
    w, as in the released code, and so ends in x0 - w eps.

    Raises:
        ValueError: for options out of range; in the call, for sbdm at t = 1.
    """

    coefficient: Coefficient = "sigma"
    norm: Positive = 1.0
    last: Literal["euler", "mean"] = "euler"

    @override
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]:
        t, s, last = step
        if self.coefficient == "sbdm" and t.time == 1:
            raise ValueError(
                "coefficient sbdm is infinite at t = 1: start the grid below, such as "
                "{name: uniform, start: 0.999}"
            )
        out = denoise(x, t, state.carry)
        eps = eps_of(x, out.x0, t)
        flows = last and self.last == "euler"
        churn = torch.zeros_like(t.sigma) if flows else self._churn(step)
        rest = s.sigma - churn / t.sigma
        columns = [spread(values, x) for values in (s.alpha, rest, (2 * churn).sqrt())]
        moved = tuple(
            a * clean + k * e + (0 if last else f * noise(e.shape))
            for clean, e, a, k, f in zip(out.x0, eps, *columns, strict=True)
        )
        return moved, State(out.carry)

    def _churn(self, step: Step) -> PerLevel:
        """Half the variance of the noise that the step adds, w h."""
        t, s, _ = step
        sigma, h = t.sigma, t.sigma - s.sigma
        match self.coefficient:
            case "sigma":
                return self.norm * sigma * h
            case "sbdm":  # sigma^2 d(log(sigma / alpha)), exact on the straight path
                return self.norm * sigma * (h + sigma / t.alpha * (s.alpha - t.alpha))
            case "constant":
                return self.norm * h
            case "decreasing":
                return (1 - self.norm * torch.cos(math.pi * sigma)).square() / 4 * h
            case "increasing_decreasing":
                return self.norm * torch.sin(math.pi * sigma).square() * h
