"""Training times: uniform numbers, stratified over the batch, and the density that they become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hierdiff.noise import Noise
from hierdiff.options import Positive
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry


def uniforms(
    b: int, noise: Noise, *, stratified: bool = False, margin: float = 1e-6
) -> Float[Tensor, " b"]:
    """Uniform numbers in (margin, 1 - margin); stratified: one in each of b cells, shuffled."""
    u = torch.special.ndtr(noise((b,)))
    if stratified:
        u = (noise((b,)).argsort() + u) / b
    return u.clamp(margin, 1 - margin)


class TimeDensity(ABC):
    """Uniform numbers in (0, 1) to training times in (0, 1)."""

    @abstractmethod
    def __call__(self, u: Float[Tensor, " b"], process: GaussianProcess) -> Float[Tensor, " b"]: ...


densities: Registry[TimeDensity] = Registry("time density", TimeDensity)


@densities.register("uniform")
@dataclass(frozen=True)
class Uniform(TimeDensity):
    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        return u


@densities.register("logit_normal")
@dataclass(frozen=True)
class LogitNormal(TimeDensity):
    """logit(t) ~ N(mean, std^2) (Esser et al., arXiv 2403.03206)."""

    mean: float = 0.0
    std: Positive = 1.0

    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@densities.register("edm")
@dataclass(frozen=True)
class EDMLogNormal(TimeDensity):
    """ln sigma/alpha ~ N(mean, std^2) at the coarsest level (EDM, arXiv 2206.00364, table 1)."""

    mean: float = -1.2
    std: Positive = 1.2

    def __call__(self, u: Tensor, process: GaussianProcess) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return process.schedules[-1].inverse(-2 * log_sigma)
