"""Time grids: the times that a sampler visits, from near 1 down to 0, `steps` + 1 of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.options import Count, Positive, Share, check_fields
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry
from hierdiff.schedules import GammaCosine, Schedule, check_schedule

GridTimes = Float[Tensor, " steps_and_one"]


class Grid(ABC):
    """The times of a trajectory: steps + 1 of them, falling from the start to 0."""

    @abstractmethod
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        """The times, float64 on the CPU; fewer than steps + 1 where several would be equal."""


grids: Registry[Grid] = Registry("time grid", Grid)


@grids.register("uniform")
@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in t from `start` to `end`."""

    start: Share = 1.0
    end: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "grid")
        if self.start <= self.end:
            raise ValueError(
                f"a grid from {self.start:g} to {self.end:g} does not fall: choose a start (noise) "
                f"above its end (image)"
            )

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        return torch.linspace(self.start, self.end, steps + 1, dtype=torch.float64, device="cpu")


@grids.register("karras")
@dataclass(frozen=True)
class KarrasGrid(Grid):
    """`steps` values of sigma/alpha with equal steps in sigma^(1/rho), then 0.

    EDM, arXiv 2206.00364, equation 5; times are those of the coarsest level's schedule.
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0

    def __post_init__(self) -> None:
        check_fields(self, "grid")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min:g} is not below sigma_max {self.sigma_max:g}: "
                f"choose a smaller one"
            )

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigma = torch.linspace(first, last, steps, dtype=torch.float64, device="cpu") ** self.rho
        times = process.schedules[-1].inverse(-2 * sigma.log()).clamp(0, 1)
        times = torch.cat([times, times.new_zeros(1)])
        return torch.unique_consecutive(times)


@grids.register("mdm")
@dataclass(frozen=True)
class MDMGrid(Grid):
    """The grid of MDM's official code.

    Table indices round(k (T + 1) / (steps + 1)), k = steps .. 0, over T.

    It does not start at 1: with 10 steps of 1000 the first time is 0.910.
    """

    table: Count = 1000

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        k = torch.arange(steps, -1, -1, dtype=torch.float64, device="cpu")
        return torch.round(k * (self.table + 1) / (steps + 1)) / self.table


@grids.register("schedule")
@dataclass(frozen=True)
class ScheduleGrid(Grid):
    """The log-SNRs that another schedule has at equal steps of its own time, then t = 0.

    Chen, arXiv 2301.10972, and RIN, arXiv 2212.11972, train on one schedule and sample on another,
    by default a cosine. Times are those of the coarsest level's schedule. Log-SNRs beyond its ends
    become one step at the end, so that the grid may have fewer than `steps` steps.
    """

    schedule: Schedule = GammaCosine()

    def __post_init__(self) -> None:
        check_schedule(self.schedule)

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        uniform = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device="cpu")[:-1]
        log_snr = self.schedule(uniform)
        times = process.schedules[-1].inverse(log_snr).clamp(0, 1)
        times = torch.cat([times, times.new_zeros(1)])
        return torch.unique_consecutive(times)
