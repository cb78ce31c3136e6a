"""Training times: uniform numbers, stratified over the batch, mapped to a density of times."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.noise import Noise
from hierdiff.options import Count, Positive, Share, check_fields
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry

LEAST = 1e-6  # share of a density's times that a window must hold


def uniforms(
    b: int, noise: Noise, *, stratified: bool = False, margin: float = 1e-6
) -> Float[Tensor, " b"]:
    """Uniform numbers in (margin, 1 - margin); stratified: one in each of b cells, shuffled."""
    u = torch.special.ndtr(noise((b,)))
    if stratified:
        u = (noise((b,)).argsort() + u) / b
    return u.clamp(margin, 1 - margin)


class TimeDensity(ABC):
    """Uniform numbers in (0, 1) to training times in (0, 1): the inverse of `cdf`."""

    @abstractmethod
    def __call__(self, u: Float[Tensor, " b"], process: GaussianProcess) -> Float[Tensor, " b"]:
        """The times of uniform numbers u, increasing in u."""

    def cdf(self, t: float, process: GaussianProcess) -> float:
        """The share in [0, 1] of the times that are less than t; by bisection of `__call__`."""
        low, high = 0.0, 1.0
        for _ in range(53):
            middle = (low + high) / 2
            u = torch.tensor([middle], dtype=torch.float64, device="cpu")
            low, high = (middle, high) if float(self(u, process)) < t else (low, middle)
        return (low + high) / 2


densities: Registry[TimeDensity] = Registry("time density", TimeDensity)


@densities.register("uniform")
@dataclass(frozen=True)
class Uniform(TimeDensity):
    """All times are equally likely."""

    @override
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        return u

    @override
    def cdf(self, t: float, process: GaussianProcess) -> float:
        return t


@densities.register("logit_normal")
@dataclass(frozen=True)
class LogitNormal(TimeDensity):
    """logit(t) ~ N(mean, std^2) (Esser et al., arXiv 2403.03206)."""

    mean: float = 0.0
    std: Positive = 1.0

    @override
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    @override
    def cdf(self, t: float, process: GaussianProcess) -> float:
        logit = torch.logit(torch.tensor(t, dtype=torch.float64, device="cpu"))
        return float(torch.special.ndtr((logit - self.mean) / self.std))


@densities.register("edm")
@dataclass(frozen=True)
class EDMLogNormal(TimeDensity):
    """ln sigma/alpha ~ N(mean, std^2) at the coarsest level (EDM, arXiv 2206.00364, table 1)."""

    mean: float = -1.2
    std: Positive = 1.2

    @override
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return process.times_of(-2 * log_sigma)

    @override
    def cdf(self, t: float, process: GaussianProcess) -> float:
        time = torch.tensor([t], dtype=torch.float64, device="cpu")
        log_sigma = -process.schedules[-1](time) / 2
        return float(torch.special.ndtr((log_sigma - self.mean) / self.std))


@densities.register("steps")
@dataclass(frozen=True)
class Steps(TimeDensity):
    """`density` at `steps` times alone, i / steps for i = 1 .. steps: each rounded up to the next.

    DDPM (arXiv 2006.11239) and LDM (arXiv 2112.10752) train on the entries of a table of 1000.
    """

    density: TimeDensity = Uniform()
    steps: Count = 1000

    def __post_init__(self) -> None:
        check_fields(self, "steps")

    @override
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        step = (self.density(u, process).double() * self.steps).ceil()
        return (step.clamp(1, self.steps) / self.steps).to(u.dtype)

    @override
    def cdf(self, t: float, process: GaussianProcess) -> float:
        before = math.ceil(round(t * self.steps, 6)) - 1  # the last step whose time is less than t
        return self.density.cdf(max(before, 0) / self.steps, process)


@densities.register("window")
@dataclass(frozen=True)
class Window(TimeDensity):
    """`density` limited to times from low to high, for a network that is called only there.

    A refiner is such a network.

    Raises:
        ValueError: for an empty window, and at the first call where less than a millionth of the
            times of `density` lies inside.
    """

    density: TimeDensity = Uniform()
    low: Share = 0.0
    high: Share = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "window")
        if self.low >= self.high:
            raise ValueError(
                f"a window of times from {self.low:g} to {self.high:g} is empty: write the smaller "
                f"one, nearer to the image, first"
            )

    @override
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        """As in `TimeDensity`.

        Raises:
            ValueError: where less than a millionth of the times of `density` lies in the window.
        """
        before, after = (self.density.cdf(t, process) for t in (self.low, self.high))
        if after - before < LEAST:
            raise ValueError(
                f"of the times of {self.density} a share of {after - before:.1g} lies between "
                f"{self.low:g} and {self.high:g}: choose a wider window, or another density"
            )
        inside = self.density(before + (after - before) * u.double(), process)
        return inside.clamp(self.low, self.high).to(u.dtype)
