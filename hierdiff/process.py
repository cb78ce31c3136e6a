"""Gaussian processes over levels: x_t = alpha x0 + sigma eps, each level on its own schedule.

One time t per example is shared by all levels; the noise of the levels is independent (MDM,
arXiv 2310.15111, section 3.1). The three final classes differ in the
(alpha, sigma) of a log_snr.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.levels import Levels, spread
from hierdiff.registry import Registry
from hierdiff.schedules import Interval, Schedule, check_schedule

PerLevel = Float[Tensor, "b levels"]


class Moment(NamedTuple):
    """A time, and the log-SNR, alpha and sigma of each example and level there.

    time: in [0, 1]; a number where all examples share it, as on a trajectory, else (b,).
    """

    time: float | Float[Tensor, " b"]
    log_snr: PerLevel
    alpha: PerLevel
    sigma: PerLevel


class GaussianProcess(ABC):
    """x_t = alpha x0 + sigma eps, with one schedule for each level, finest first.

    Raises:
        ValueError: where alpha or sigma is not finite at t = 0 or 1.
    """

    def __init__(self, schedules: Sequence[Schedule]):
        self.schedules = tuple(schedules)
        for schedule in self.schedules:
            self._check(schedule)

    def _check(self, schedule: Schedule) -> None:
        check_schedule(schedule)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float32, device="cpu")
        for name, values in zip(("alpha", "sigma"), self.coefficients(schedule(ends)), strict=True):
            if not bool(values.isfinite().all()):
                raise ValueError(
                    f"{name} of {type(self).__name__} is {values.tolist()} at t = 0 and 1 under "
                    f"{schedule}: choose a schedule with a finite log_snr there, such as "
                    f"{{name: power, sigma_max: 80}} or {{name: limited, base: ...}}"
                )

    @staticmethod
    @abstractmethod
    def coefficients(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) with alpha^2 / sigma^2 = exp(log_snr)."""

    def log_snr(self, t: Float[Tensor, " b"]) -> PerLevel:
        """The log-SNR of each level at times in [0, 1]."""
        return torch.stack([schedule(t) for schedule in self.schedules], dim=1)

    def times_of(self, log_snr: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """The times at which the coarsest level has these log-SNRs: so grids and densities that are
        stated in noise levels name times.

        Raises:
            ValueError: where it has an interval of its own, since outside of it, where the finer
                levels are made, it names no time.
        """
        coarsest = self.schedules[-1]
        if isinstance(coarsest, Interval) and (coarsest.start, coarsest.stop) != (0, 1):
            raise ValueError(
                f"times by noise levels of the coarsest level, which has the times from "
                f"{coarsest.start:.3g} to {coarsest.stop:.3g} alone: take the grid "
                f"{{name: uniform}} and the density {{name: uniform}} with times=staggered"
            )
        return coarsest.inverse(log_snr)

    def alpha_sigma(self, t: Float[Tensor, " b"]) -> tuple[PerLevel, PerLevel]:
        """The alpha and sigma of each level at times in [0, 1]."""
        return self.coefficients(self.log_snr(t))

    def moment(self, t: Float[Tensor, " b"], time: float | None = None) -> Moment:
        """All coefficients at t. time: as a number, if all examples share one."""
        log_snr = self.log_snr(t)
        return Moment(t if time is None else time, log_snr, *self.coefficients(log_snr))

    def trajectory(self, times: Sequence[float], x: Levels) -> list[Moment]:
        """The moments at `times`, in the dtype and on the device of the state x."""
        coarsest = x[-1]
        columns = torch.tensor(times, dtype=coarsest.dtype, device=coarsest.device)[:, None]
        pairs = zip(columns.expand(-1, len(coarsest)), times, strict=True)
        return [self.moment(t, time) for t, time in pairs]

    def corrupt(self, x0: Levels, eps: Levels, t: Float[Tensor, " b"]) -> Levels:
        """The noisy state at t with unit noise eps; a level may have only the first rows."""
        alpha, sigma = self.alpha_sigma(t)
        scaled = zip(x0, eps, spread(alpha, x0), spread(sigma, x0), strict=True)
        return tuple(a * x + s * e for x, e, a, s in scaled)

    @staticmethod
    def step_variance(t: Moment, s: Moment) -> tuple[PerLevel, PerLevel]:
        """Variances of q(x_t | x_s) and of q(x_s | x_t, x0), s < t.

        sigma_t^2 - (alpha_t sigma_s / alpha_s)^2, and that times sigma_s^2 / sigma_t^2
        (DDPM, arXiv 2006.11239, equation 7).
        """
        ratio = (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2  # SNR_t / SNR_s
        fresh = (1 - ratio).clamp(min=0)  # rounding may step below 0
        return t.sigma**2 * fresh, s.sigma**2 * fresh

    @classmethod
    def posterior(cls, x0: Levels, x_t: Levels, t: Moment, s: Moment) -> tuple[Levels, PerLevel]:
        """Mean and variance of q(x_s | x_t, x0), s < t (DDPM, arXiv 2006.11239, equation 7)."""
        large, small = cls.step_variance(t, s)
        keep = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
        pull = s.alpha * large / t.sigma**2
        parts = zip(x0, x_t, spread(keep, x_t), spread(pull, x_t), strict=True)
        return tuple(k * x + p * clean for clean, x, k, p in parts), small

    @classmethod
    def renoise(cls, x: Levels, here: PerLevel, there: PerLevel, noise: Levels) -> Levels:
        """A sample of q(x_there | x_here): x at log-SNR `here` with noise added to reach `there`.

        there <= here; where they are equal, x is returned exactly. noise: unit noise of each level.
        Variance added: sigma_there^2 - (sigma_here alpha_there / alpha_here)^2, which is
        sigma_there^2 (1 - SNR_there / SNR_here). here = +inf is a clean image; there = -inf is pure
        noise, which a variance-exploding process does not have (its sigma is infinite).
        """
        (alpha_here, _), (alpha, sigma) = cls.coefficients(here), cls.coefficients(there)
        same = here == there  # guard equal ends: inf - inf and 0 / 0 are NaN
        scale = torch.where(same, 1.0, alpha / alpha_here)
        lost = -torch.expm1(torch.where(same, 0.0, there - here))
        added = sigma * lost.clamp(min=0).sqrt()
        parts = zip(x, noise, spread(scale, x), spread(added, x), strict=True)
        return tuple(a * level + b * e for level, e, a, b in parts)

    def tail(self, n: int) -> GaussianProcess:
        """The process of the n coarsest levels."""
        return type(self)(self.schedules[-n:])


processes: Registry[GaussianProcess] = Registry("process", GaussianProcess)


@processes.register("variance_preserving")
class VariancePreserving(GaussianProcess):
    """alpha^2 + sigma^2 = 1: alpha^2 = sigmoid(log_snr)."""

    @staticmethod
    @override
    def coefficients(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


@processes.register("flow")
class Flow(GaussianProcess):
    """alpha + sigma = 1: alpha = sigmoid(log_snr / 2)."""

    @staticmethod
    @override
    def coefficients(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)


@processes.register("variance_exploding")
class VarianceExploding(GaussianProcess):
    """alpha = 1, sigma = exp(-log_snr / 2)."""

    @staticmethod
    @override
    def coefficients(log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(log_snr), torch.exp(-log_snr / 2)
