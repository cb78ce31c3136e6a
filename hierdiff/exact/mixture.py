"""The exact denoiser of two equal Gaussians: data with two modes, where a wrong step shows."""

from __future__ import annotations

import torch

from hierdiff.guidance import Carry, Denoised
from hierdiff.levels import Levels, spread
from hierdiff.process import Moment


class Mixture:
    """N(-1, variance) and N(1, variance) with equal weights, each number of each level by itself.

    A state alpha x + sigma e has the spread w = alpha^2 variance + sigma^2 around -alpha and alpha.
    Its x0 is the mean of those of the two Gaussians by the chance of each, whose difference is
    tanh(alpha x_t / w).
    """

    def __init__(self, variance: float = 0.0625):
        self.variance = variance

    def __call__(self, x: Levels, t: Moment, carry: Carry = None) -> Denoised:
        parts = zip(x, spread(t.alpha, x), spread(t.sigma, x), strict=True)
        return Denoised(tuple(self._clean(*part) for part in parts))

    def _clean(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        spread_of_state = alpha**2 * self.variance + sigma**2
        mode = torch.tanh(alpha * x / spread_of_state)
        return (alpha * self.variance * x + sigma**2 * mode) / spread_of_state
