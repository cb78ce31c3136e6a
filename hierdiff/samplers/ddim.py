"""DDIM(eta) (Song et al., arXiv 2010.02502, equation 12). eta = 0 is Euler: one rule, two names.

eps is derived from the (thresholded) x0. eta = 1 is ancestral sampling with the small variance;
like it, the step to t = 0 adds no noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from hierdiff.guidance import Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.options import NonNegative
from hierdiff.process import GaussianProcess
from hierdiff.samplers.integrate import Sampler, State, Step, eps_of, samplers


@samplers.register("ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c noise, c = eta sqrt(small variance)."""

    eta: NonNegative = 0.0

    @override
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]:
        t, s, last = step
        out = denoise(x, t, state.carry)
        eps = eps_of(x, out.x0, t)
        if self.eta == 0:
            parts = zip(out.x0, eps, spread(s.alpha, x), spread(s.sigma, x), strict=True)
            return tuple(a * clean + b * e for clean, e, a, b in parts), State(out.carry)
        _, small = GaussianProcess.step_variance(t, s)
        fresh = self.eta**2 * small
        rest = (s.sigma**2 - fresh).clamp(min=0).sqrt()
        columns = [spread(values, x) for values in (s.alpha, rest, fresh.sqrt())]
        moved = tuple(
            a * clean + k * e + (0 if last else f * noise(e.shape))
            for clean, e, a, k, f in zip(out.x0, eps, *columns, strict=True)
        )
        return moved, State(out.carry)


@samplers.register("euler")
def euler() -> DDIM:
    """Euler's rule in (alpha, sigma): DDIM with eta 0."""
    return DDIM(eta=0.0)
