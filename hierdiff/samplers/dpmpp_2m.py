"""DPM-Solver++(2M): second order from one call a step (arXiv 2211.01095, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from typing_extensions import override

from hierdiff.guidance import Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.samplers.integrate import Sampler, State, Step, samplers

LONGER = 2  # equal steps in time stay below it under the schedules here, but for that to t = 0


@samplers.register("dpmpp_2m")
@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) D, h half the rise in log_snr.

    D extrapolates x0 from this step and the one before, level by level; the first step and the step
    to t = 0 are of first order. So is one of more than `LONGER` times the h before it (the paper's
    are equal): where a level leaves a time in which its log_snr hardly moved (`Interval`), its x0
    would be extrapolated a hundredfold.
    """

    @override
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]:
        t, s, last = step
        out = denoise(x, t, state.carry)
        h = (s.log_snr - t.log_snr) / 2
        x0 = out.x0
        if state.history is not None and not last:
            before, h_before = state.history
            share = torch.where(h <= LONGER * h_before, h / (2 * h_before), 0.0)
            parts = zip(out.x0, before, spread(share, x), strict=True)
            x0 = tuple(now + r * (now - then) for now, then, r in parts)
        keep, pull = spread(s.sigma / t.sigma, x), spread(-s.alpha * torch.expm1(-h), x)
        moved = tuple(
            k * level + p * clean for level, clean, k, p in zip(x, x0, keep, pull, strict=True)
        )
        return moved, State(out.carry, (out.x0, h))
