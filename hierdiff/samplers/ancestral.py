"""Ancestral sampling: x_s from q(x_s | x_t, x0) (DDPM, arXiv 2006.11239, equations 6 and 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from hierdiff.guidance import Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.options import Positive
from hierdiff.process import GaussianProcess, Moment, PerLevel
from hierdiff.samplers.integrate import Sampler, State, Step, samplers

Variance = Literal["small", "large", "learned"]


@samplers.register("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """Samples from the posterior q(x_s | x_t, x0), with a choice of its variance.

    variance: "small" is the posterior's, exact for point masses; "large" is that of q(x_t | x_s),
    exact for unit-variance data; "learned" is the denoiser's interpolation between the two (iDDPM,
    arXiv 2102.09672, equation 15). The step to t = 0 adds no noise.

    image_scale: Chen's b (arXiv 2301.10972, code): the large variance is that of images multiplied
    by it, 1 - gamma_t / gamma_s, brought to the units of x_s. With 1 nothing changes.
    """

    variance: Variance = "small"
    image_scale: Positive = 1.0

    @property
    @override
    def uses_variance(self) -> bool:
        return self.variance == "learned"

    @override
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]:
        t, s, last = step
        out = denoise(x, t, state.carry)
        mean, _ = GaussianProcess.posterior(out.x0, x, t, s)
        if last:
            return mean, State(out.carry)
        large, small = self._variances(t, s)
        columns = zip(mean, spread(small, x), spread(large, x), strict=True)
        moved = []
        for i, (level, low, high) in enumerate(columns):
            share = self._share(None if out.variance is None else out.variance[i])
            least = torch.finfo(low.dtype).tiny  # 0 times the logarithm of 0 is NaN
            logs = low.clamp(min=least).log(), high.clamp(min=least).log()
            std = (share * logs[1] + (1 - share) * logs[0]).mul(0.5).exp()
            moved.append(level + std * noise(level.shape))
        return tuple(moved), State(out.carry)

    def _variances(self, t: Moment, s: Moment) -> tuple[PerLevel, PerLevel]:
        """Large and small variance of each level.

        With u = 1 - gamma, the variance of scaled images, the large one is
        (1 - SNR_t / SNR_s) u_t in their units, and sigma_s^2 / u_s times that in those of x_s.
        """
        large, small = GaussianProcess.step_variance(t, s)
        if self.image_scale == 1:
            return large, small
        offset = 2 * math.log(self.image_scale)
        u_t, u_s = (torch.sigmoid(offset - moment.log_snr) for moment in (t, s))
        return small * u_t / u_s, small

    def _share(self, variance: Tensor | None) -> Tensor | float:
        """Weight in [0, 1] of the logarithm of the large variance.

        Raises:
            ValueError: where the variance is learned and the denoiser predicts none.
        """
        if self.variance != "learned":
            return float(self.variance == "large")
        if variance is None:
            raise ValueError(
                "variance 'learned' with a denoiser that predicts none: choose 'small' or 'large'"
            )
        return (variance + 1) / 2
