"""DPM-Solver++(2M): second order from one call a step (arXiv 2211.01095, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hierdiff.guidance import Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.process import GaussianProcess
from hierdiff.samplers.integrate import Sampler, State, samplers


@samplers.register("dpmpp_2m")
@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) D, h half the rise in log_snr.

    D extrapolates x0 from this step and the one before, level by level; the first step and the step
    to t = 0 are of first order.
    """

    def __call__(
        self,
        denoise: Denoise,
        process: GaussianProcess,
        x: Levels,
        t: Tensor,
        s: Tensor,
        state: State,
        noise: Noise,
    ) -> tuple[Levels, State]:
        out = denoise(x, t, state.carry)
        (_, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        x0 = out.x0
        if state.history is not None:
            before, h_before = state.history
            share = torch.where((s > 0)[:, None], h / (2 * h_before), 0.0)
            parts = zip(out.x0, before, spread(share, x), strict=True)
            x0 = tuple(now + r * (now - last) for now, last, r in parts)
        keep, pull = spread(sigma_s / sigma_t, x), spread(-alpha_s * torch.expm1(-h), x)
        moved = tuple(
            k * level + p * clean for level, clean, k, p in zip(x, x0, keep, pull, strict=True)
        )
        return moved, State(out.carry, (out.x0, h))
