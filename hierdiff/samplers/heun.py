"""Heun's second-order rule (EDM, arXiv 2206.00364, algorithm 1) for every process."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from hierdiff.guidance import Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.samplers.integrate import Sampler, State, Step, eps_of, samplers


@samplers.register("heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """x0 and eps are averaged over both ends of the step in dx = x0 d(alpha) + eps d(sigma).

    The step to t = 0 is Euler's: no network is called there.
    """

    calls_per_step = 2

    @override
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]:
        t, s, last = step
        d_alpha, d_sigma = spread(s.alpha - t.alpha, x), spread(s.sigma - t.sigma, x)
        out = denoise(x, t, state.carry)
        eps = eps_of(x, out.x0, t)
        ahead = _moved(x, out.x0, eps, d_alpha, d_sigma)
        if last:
            return ahead, State(out.carry)
        end = denoise(ahead, s, out.carry)
        end_eps = eps_of(ahead, end.x0, s)
        x0 = tuple((a + b) / 2 for a, b in zip(out.x0, end.x0, strict=True))
        eps = tuple((a + b) / 2 for a, b in zip(eps, end_eps, strict=True))
        return _moved(x, x0, eps, d_alpha, d_sigma), State(end.carry)


def _moved(x: Levels, x0: Levels, eps: Levels, d_alpha: Levels, d_sigma: Levels) -> Levels:
    parts = zip(x, x0, eps, d_alpha, d_sigma, strict=True)
    return tuple(level + clean * a + e * b for level, clean, e, a, b in parts)
