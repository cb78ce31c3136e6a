"""The exact denoiser of two equal Gaussians: data with two modes, where a wrong step shows."""

from __future__ import annotations

import torch

from hierdiff.guidance import Carry, Denoised
from hierdiff.levels import Levels, spread
from hierdiff.process import Moment


class Mixture:
    """N(-1, variance) and N(1, variance) with equal weights, independent in every pixel.

    A state alpha x + sigma e has the variance w = alpha^2 variance + sigma^2 around -alpha and
    around alpha. Its x0 is the mean of those of the two Gaussians, weighted by their posterior
    probabilities, whose difference is tanh(alpha x_t / w).
    """

    def __init__(self, variance: float = 0.0625):
        self.variance = variance

    def __call__(self, x: Levels, t: Moment, carry: Carry = None) -> Denoised:
        """E[x0 | x], a denoise function; without a carry."""
        parts = zip(x, spread(t.alpha, x), spread(t.sigma, x), strict=True)
        return Denoised(tuple(self._clean(*part) for part in parts))

    def _clean(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance = alpha**2 * self.variance + sigma**2
        mode = torch.tanh(alpha * x / variance)
        return (alpha * self.variance * x + sigma**2 * mode) / variance
