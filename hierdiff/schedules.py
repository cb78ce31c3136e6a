"""Noise schedules: time t in [0, 1] to log signal-to-noise ratio, log(alpha^2 / sigma^2).

t = 0 is the clean image, t = 1 is noise; log_snr falls strictly as t grows. Limits are set by
rescaling time, never by clipping. A schedule knows nothing of images; the process turns a log_snr
into (alpha, sigma).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.options import Between, Count, Limit, Positive, Share
from hierdiff.registry import Registry
from hierdiff.resolution import Sides, side_of

Times = Float[Tensor, "*b"]
TableSteps = Annotated[int, Between(2)]  # of a table
Beta = Annotated[float, Between(0, 1, above=True, below=True)]


class Schedule(ABC):
    """Time t in [0, 1] to log_snr, strictly decreasing; the ends may be infinite."""

    @abstractmethod
    def __call__(self, t: Times) -> Times:
        """log_snr at times in [0, 1], in the dtype of t."""

    def inverse(self, log_snr: Times) -> Times:
        """The time of a log_snr, by bisection to the last bit; 0 or 1 beyond the ends."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            middle = (low + high) / 2
            early = self(middle) > log_snr
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2


schedules: Registry[Schedule] = Registry("schedule", Schedule)

OUTSIDE = 1.0  # log-SNR that a schedule loses in a unit of time outside of its interval

# Times at which a schedule is checked: evenly spaced, and near the ends.
CHECKED = (0.0, 1e-3, 2e-3, *(i / 64 for i in range(1, 64)), 0.998, 0.999, 1.0)


def check_schedule(schedule: Schedule) -> None:
    """Checks that log_snr falls from t = 0 to 1, in double and in single precision.

    Raises:
        ValueError: where it is NaN, does not fall or cannot be computed.
    """
    for dtype in (torch.float64, torch.float32):
        t = torch.tensor(CHECKED, dtype=dtype, device="cpu")
        try:
            log_snr = schedule(t)
        except (ArithmeticError, ValueError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{schedule} has no value ({str(error).splitlines()[0]}): choose other options"
            ) from error
        steps = log_snr.diff()
        falls = steps < 0 if dtype == torch.float64 else steps <= 0  # rounding may make two equal
        if not bool(falls.all()):
            i = int((~falls).int().argmax())
            raise ValueError(
                f"log_snr of {schedule} must fall from t = 0 to t = 1, and is {log_snr[i]:.4g} at "
                f"t = {t[i]:.4g}, {log_snr[i + 1]:.4g} at t = {t[i + 1]:.4g}: choose other options"
            )


@schedules.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """-2 ln tan(angle) with the angle linear in t (simple diffusion, arXiv 2301.11093)."""

    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    @override
    def __call__(self, t: Times) -> Times:
        first, last = self._angles()
        angle = first + t * (last - first)
        return -2 * torch.log(torch.tan(angle.clamp(max=BEFORE_HALF_PI[angle.dtype])))

    @override
    def inverse(self, log_snr: Times) -> Times:
        first, last = self._angles()
        return (torch.atan(torch.exp(-log_snr / 2)) - first) / (last - first)

    def _angles(self) -> tuple[float, float]:
        first, last = (
            math.atan(math.exp(min(-log_snr / 2, LARGEST_EXPONENT)))
            for log_snr in (self.log_snr_max, self.log_snr_min)
        )
        return first, last


LARGEST_EXPONENT = 700.0  # exp of it is finite in double precision


def _before_half_pi(dtype: torch.dtype) -> float:
    half_pi = torch.tensor(math.pi / 2, dtype=dtype, device="cpu")
    if float(half_pi) < math.pi / 2 or dtype == torch.float64:
        return float(half_pi)
    return float(torch.nextafter(half_pi, torch.zeros_like(half_pi)))


# The largest number of a precision below pi / 2: single precision rounds pi / 2 up, where the
# tangent is below zero. Numbers, so that a schedule copies no tensor to the host.
BEFORE_HALF_PI = {
    dtype: _before_half_pi(dtype)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


@schedules.register("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Schedule):
    """alpha^2 is a piece of a falling sigmoid, stretched to run from 1 at t = 0 to 0 at t = 1.

    Chen, arXiv 2301.10972. With y running from start / tau to end / tau linear in t, alpha^2 is
    (sigmoid(end / tau) - sigmoid(y)) over the same at t = 0; differences of sigmoids are taken by
    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), exact at both ends.
    """

    start: float = -3.0
    end: float = 3.0
    tau: Positive = 1.0

    @override
    def __call__(self, t: Times) -> Times:
        first, last = self._values()
        width = (self.end - self.start) / self.tau
        offset = math.log(last) - math.log(1 - first) - self.start / self.tau
        signal, noise = -torch.expm1(-(1 - t) * width), -torch.expm1(-t * width)
        return offset - t * width + torch.log(signal) - torch.log(noise)

    @override
    def inverse(self, log_snr: Times) -> Times:
        first, last = self._values()
        value = last - torch.sigmoid(log_snr) * (last - first)
        return (self.tau * torch.logit(value) - self.start) / (self.end - self.start)

    def _values(self) -> tuple[float, float]:
        return 1 / (1 + math.exp(-self.start / self.tau)), 1 / (1 + math.exp(-self.end / self.tau))


@schedules.register("gamma_cosine")
@dataclass(frozen=True)
class GammaCosine(Schedule):
    """alpha^2 is a piece of cos(pi / 2 u)^(2 tau), stretched to run from 1 at t = 0 to 0 at t = 1.

    Chen, arXiv 2301.10972. u runs from `start` to `end`.
    """

    start: Share = 0.0
    end: Share = 1.0
    tau: Positive = 1.0

    @override
    def __call__(self, t: Times) -> Times:
        before_end = (1 - self.end) + (1 - t.double()) * (self.end - self.start)
        value = torch.sin(math.pi / 2 * before_end) ** (2 * self.tau)
        first, last = self._values()
        # rounding may exceed an end
        signal, noise = (value - last).clamp(min=0), (first - value).clamp(min=0)
        return (torch.log(signal) - torch.log(noise)).to(t.dtype)

    @override
    def inverse(self, log_snr: Times) -> Times:
        first, last = self._values()
        value = last + torch.sigmoid(log_snr.double()) * (first - last)
        u = torch.acos(value ** (0.5 / self.tau)) / (math.pi / 2)
        return ((u - self.start) / (self.end - self.start)).to(log_snr.dtype)

    def _values(self) -> tuple[float, float]:
        first, last = (math.sin(math.pi / 2 * (1 - u)) for u in (self.start, self.end))
        return first ** (2 * self.tau), last ** (2 * self.tau)


@schedules.register("gamma_linear")
@dataclass(frozen=True)
class GammaLinear(Schedule):
    """alpha^2 = 1 - t (Chen, arXiv 2301.10972)."""

    @override
    def __call__(self, t: Times) -> Times:
        return torch.log1p(-t) - torch.log(t)

    @override
    def inverse(self, log_snr: Times) -> Times:
        return torch.sigmoid(-log_snr)


@schedules.register("linear_flow")
@dataclass(frozen=True)
class LinearFlow(Schedule):
    """alpha : sigma = 1 - t : t, the straight path of flow matching (arXiv 2210.02747)."""

    @override
    def __call__(self, t: Times) -> Times:
        return 2 * (torch.log1p(-t) - torch.log(t))

    @override
    def inverse(self, log_snr: Times) -> Times:
        return torch.sigmoid(-log_snr / 2)


@schedules.register("power")
@dataclass(frozen=True)
class Power(Schedule):
    """sigma : alpha = sigma_max t^rho: the time in which Karras' grid is uniform.

    EDM, arXiv 2206.00364, equation 5, with sigma = 0 at t = 0.
    """

    sigma_max: Positive = 80.0
    rho: Positive = 7.0

    @override
    def __call__(self, t: Times) -> Times:
        return -2 * (math.log(self.sigma_max) + self.rho * torch.log(t))

    @override
    def inverse(self, log_snr: Times) -> Times:
        return torch.exp((-log_snr / 2 - math.log(self.sigma_max)) / self.rho)


class DiscreteTable(Schedule):
    """A published table of `steps` values of alpha^2, entry i at t = i / steps, entry 0 clean.

    log_snr is linear between entries; before the first one sigma^2 is linear, down to 0 at t = 0.
    """

    steps: int

    @abstractmethod
    def betas(self) -> Float[Tensor, " steps"]:
        """The share of the variance that each step replaces by noise, in (0, 1), float64."""

    @override
    def __call__(self, t: Times) -> Times:
        table = _table(self).to(t.device)
        place = t.double() * self.steps
        left = place.floor().clamp(1, self.steps - 1).long()
        value = table[left] + (place - left) * (table[left + 1] - table[left])
        variance = torch.sigmoid(-table[1]) * place
        first = torch.log1p(-variance) - torch.log(variance)
        return torch.where(place < 1, first, value).to(t.dtype)

    @override
    def inverse(self, log_snr: Times) -> Times:
        table = _table(self).to(log_snr.device)
        value = log_snr.double()
        right = torch.searchsorted(-table[1:], -value).clamp(1, self.steps - 1) + 1
        share = (value - table[right - 1]) / (table[right] - table[right - 1])
        first = torch.sigmoid(-value) / torch.sigmoid(-table[1])
        place = torch.where(value > table[1], first, right - 1 + share)
        return (place / self.steps).to(log_snr.dtype)


@lru_cache(maxsize=32)
def _table(schedule: DiscreteTable) -> Float[Tensor, " steps_and_one"]:
    """log_snr of entries 0 (infinite) to `steps`, float64."""
    alpha_squared = torch.cumprod(1 - schedule.betas(), 0)
    inside = torch.log(alpha_squared) - torch.log1p(-alpha_squared)
    clean = torch.tensor([math.inf], dtype=torch.float64, device="cpu")
    return torch.cat([clean, inside])


@schedules.register("squared_cosine")
@dataclass(frozen=True)
class SquaredCosine(DiscreteTable):
    """alpha^2 = cos^2((u + 0.008) / 1.008 * pi / 2), betas at most 0.999 (arXiv 2102.09672)."""

    steps: TableSteps = 1000

    @override
    def betas(self) -> Float[Tensor, " steps"]:
        u = torch.arange(self.steps + 1, dtype=torch.float64, device="cpu") / self.steps
        alpha_squared = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alpha_squared[1:] / alpha_squared[:-1]).clamp(max=0.999)


@schedules.register("linear_beta")
@dataclass(frozen=True)
class LinearBeta(DiscreteTable):
    """Betas from `start` to `end` in equal steps (DDPM, arXiv 2006.11239), for 1000 steps.

    With another number of steps they are scaled by 1000 / steps.
    """

    steps: TableSteps = 1000
    start: Beta = 1e-4
    end: Beta = 0.02

    @override
    def betas(self) -> Float[Tensor, " steps"]:
        scale = 1000 / self.steps
        betas = torch.linspace(self.start, self.end, self.steps, dtype=torch.float64, device="cpu")
        return scale * betas


@schedules.register("scaled_linear_beta")
@dataclass(frozen=True)
class ScaledLinearBeta(DiscreteTable):
    """Square roots of the betas in equal steps (latent diffusion, arXiv 2112.10752)."""

    steps: TableSteps = 1000
    start: Beta = 0.00085
    end: Beta = 0.012

    @override
    def betas(self) -> Float[Tensor, " steps"]:
        first, last = math.sqrt(self.start), math.sqrt(self.end)
        return torch.linspace(first, last, self.steps, dtype=torch.float64, device="cpu") ** 2


@schedules.register("limited")
@dataclass(frozen=True)
class Limited(Schedule):
    """The piece of `base` between two log-SNRs, stretched over [0, 1].

    A limit that `base` does not reach has no effect. log_snr_min: -20.7 is alpha^2 = 1e-9, at which
    the code of Chen (arXiv 2301.10972) clips. A network that predicts eps needs a finite one.

    Raises:
        ValueError: where a limit is NaN, or the limits enclose no piece of `base`.
    """

    base: Schedule
    log_snr_min: Limit = -20.7
    log_snr_max: Limit = math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.log_snr_min) or math.isnan(self.log_snr_max):
            raise ValueError(
                f"log_snr from {self.log_snr_max} to {self.log_snr_min}: give numbers, or "
                f"infinities for no limit"
            )
        check_schedule(self.base)
        first, last = self._times
        if first >= last:
            raise ValueError(
                f"log_snr from {self.log_snr_max} to {self.log_snr_min} is no piece of "
                f"{self.base}: choose a log_snr_min below log_snr_max that it passes through"
            )

    @cached_property
    def _times(self) -> tuple[float, float]:
        """Times in `base` of log_snr_max and log_snr_min."""
        first = _time(self.base, self.log_snr_max, 0.0)
        return first, _time(self.base, self.log_snr_min, 1.0)

    @override
    def __call__(self, t: Times) -> Times:
        first, last = self._times  # 1 - last may be too small for single precision
        return self.base(first + t.double() * (last - first)).to(t.dtype)

    @override
    def inverse(self, log_snr: Times) -> Times:
        first, last = self._times
        inside = self.base.inverse(log_snr.double())
        return ((inside - first) / (last - first)).to(log_snr.dtype)


def _time(schedule: Schedule, log_snr: float, end: float) -> float:
    """The time of log_snr within [0, 1]; `end` for an infinite one."""
    if math.isinf(log_snr):
        return end
    time = schedule.inverse(torch.tensor([log_snr], dtype=torch.float64, device="cpu"))
    return min(1.0, max(0.0, float(time)))


@schedules.register("shifted")
@dataclass(frozen=True)
class Shifted(Schedule):
    """`base` lowered in log-SNR so that noise hides a large image as well as a small one.

    log_snr + exponent * ln(reference / resolution), with sides in pixels. Exponent 2 is simple
    diffusion's shift (arXiv 2301.11093): pooling by k divides white noise by k. MDM uses 1 at 256
    and 2 at 1024. A resolution that is not square counts as the square of as many pixels, over all
    frames: a mean over n pixels divides the variance of white noise by n.
    """

    base: Schedule
    resolution: Count | Sides
    reference: Count | Sides = 64
    exponent: float = 2.0

    @property
    def shift(self) -> float:
        """The offset of log_snr: negative above the reference resolution."""
        return self.exponent * math.log(side_of(self.reference) / side_of(self.resolution))

    @override
    def __call__(self, t: Times) -> Times:
        return self.base(t) + self.shift

    @override
    def inverse(self, log_snr: Times) -> Times:
        return self.base.inverse(log_snr - self.shift)


@schedules.register("interval")
@dataclass(frozen=True)
class Interval(Schedule):
    """All of `base` in the times from `start` to `stop`: before, a level is clean; after, noise.

    With an interval of its own for each level the coarse ones are made first, as LapFlow (arXiv
    2602.19461) stages the bands of a Laplacian pyramid. Outside of it log_snr goes on to fall by
    `OUTSIDE` a unit of time, because a schedule falls everywhere; base must be finite at 0 and 1.

    Raises:
        ValueError: where `start` is not below `stop`.
    """

    base: Schedule
    start: Share = 0.0
    stop: Share = 1.0

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise ValueError(
                f"an interval of times from {self.start} to {self.stop}: give the smaller first"
            )

    @override
    def __call__(self, t: Times) -> Times:
        inside = self.base(((t - self.start) / (self.stop - self.start)).clamp(0, 1))
        before, after = (self.start - t).clamp(min=0), (t - self.stop).clamp(min=0)
        return inside + OUTSIDE * (before - after)


@schedules.register("input_scaled")
@dataclass(frozen=True)
class InputScaled(Schedule):
    """`base` for images multiplied by `scale` before noise is added: a shift by 2 ln(scale).

    Chen, arXiv 2301.10972; the same process if the network's input is normalised
    (`Parameterization.input_scale = "sample"`).

    Raises:
        ValueError: where `scale` is not positive.
    """

    base: Schedule
    scale: Positive

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"input scale {self.scale} is not positive: choose one in (0, 1]")

    @override
    def __call__(self, t: Times) -> Times:
        return self.base(t) + 2 * math.log(self.scale)

    @override
    def inverse(self, log_snr: Times) -> Times:
        return self.base.inverse(log_snr - 2 * math.log(self.scale))


@schedules.register("interpolated")
@dataclass(frozen=True)
class Interpolated(Schedule):
    """t noisy(t) + (1 - t) clean(t) (simple diffusion, arXiv 2301.11093, section 2).

    An infinite end with weight 0 counts as 0: log-SNRs grow like ln t, and t ln t tends to 0.
    """

    noisy: Schedule
    clean: Schedule

    @override
    def __call__(self, t: Times) -> Times:
        noisy, clean = self.noisy(t), self.clean(t)
        return torch.where(t > 0, t * noisy, 0.0) + torch.where(t < 1, (1 - t) * clean, 0.0)
