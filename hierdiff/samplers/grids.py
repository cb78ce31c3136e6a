"""Time grids: the times that a sampler visits, from near 1 down to 0, `steps` + 1 of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.options import Count, Natural, Positive, Share, check_fields
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry
from hierdiff.schedules import GammaCosine, Schedule, check_schedule

GridTimes = Float[Tensor, " steps_and_one"]


class Grid(ABC):
    """The times of a trajectory: steps + 1 of them, falling from the start to 0."""

    @abstractmethod
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        """The times, float64 on the CPU; fewer than steps + 1 where several would be equal.

        Raises:
            ValueError: for a count of steps that the grid does not have.
        """


grids: Registry[Grid] = Registry("time grid", Grid)


@grids.register("uniform")
@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in t from `start` to `end`.

    last: size of the last step, 0 for that of the others (SiT, arXiv 2401.08740, code: 0.04).
    """

    start: Share = 1.0
    end: Share = 0.0
    last: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "grid")
        if self.start <= self.end + self.last:
            step = f" with a last step of {self.last:g}" if self.last else ""
            raise ValueError(
                f"a grid from {self.start:g} to {self.end:g}{step} does not fall: choose a start "
                f"(noise) above its end (image)"
            )

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        if not self.last:
            return _linspace(self.start, self.end, steps + 1)
        even = _linspace(self.start, self.end + self.last, steps)
        return torch.cat([even, even.new_tensor([self.end])])


def _linspace(first: float, last: float, count: int) -> GridTimes:
    return torch.linspace(first, last, count, dtype=torch.float64, device="cpu")


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
        sigma = _linspace(first, last, steps) ** self.rho
        times = process.times_of(-2 * sigma.log()).clamp(0, 1)
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


RESPACING = re.compile(r"ddim[1-9]\d*|[1-9]\d*(,[1-9]\d*)*")


@grids.register("respaced")
@dataclass(frozen=True)
class RespacedGrid(Grid):
    """The grid of ADM, arXiv 2105.05233, and DiT: some entries of a table of steps, then t = 0.

    respacing: as their option of that name. "250": so many entries, evenly from the first to the
    last; "10,8,5" or [10, 8, 5]: so many from each part of the table, the cleanest part first;
    "ddim25": every 40th, beginning with the first; null: one part, of as many entries as `steps`.
    Entry i of the table, counted from 1, stands at t = i / table.

    Raises:
        ValueError: for a respacing of another form; in the call, for steps that it does not have.
    """

    table: Count = 1000
    respacing: str | Count | Sequence[Count] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "grid")
        text = self._text(1)
        if not RESPACING.fullmatch(text):
            raise ValueError(
                f"respacing {text!r}: write counts of steps such as '250' or '10,8,5', or 'ddim25'"
            )

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        text = self._text(steps)
        if text.startswith("ddim"):
            count = int(text.removeprefix("ddim"))
            index = self._strided(count)
        else:
            counts = [int(part) for part in text.split(",")]
            count = sum(counts)
            index = self._sections(counts)
        if count != steps:
            raise ValueError(
                f"respacing {text!r} has {count} steps and not {steps}: set steps={count}, or "
                f"respacing=null for any count of steps"
            )
        return _table_times(index, self.table)

    def _text(self, steps: int) -> str:
        if self.respacing is None:
            return str(steps)
        if isinstance(self.respacing, (str, int)):
            return str(self.respacing).replace(" ", "")
        return ",".join(map(str, self.respacing))

    def _strided(self, count: int) -> list[int]:
        """`count` entries, counted from 0, one whole stride apart.

        Raises:
            ValueError: where no whole stride visits so many.
        """
        for stride in range(1, self.table):
            index = range(0, self.table, stride)
            if len(index) == count:
                return list(index)
        raise ValueError(
            f"no whole stride visits {count} steps of a table of {self.table}: choose another "
            f"count, such as a divisor of {self.table}"
        )

    def _sections(self, counts: Sequence[int]) -> list[int]:
        """So many entries, counted from 0, of each part; the first parts are one longer if need be.

        Strides are added up one by one, as in the released code: a product rounds otherwise.

        Raises:
            ValueError: where a part has fewer entries than its steps.
        """
        size, longer = divmod(self.table, len(counts))
        index: list[int] = []
        first = 0
        for part, count in enumerate(counts):
            length = size + (part < longer)
            if length < count:
                raise ValueError(
                    f"{count} steps of a part of {length}, of a table of {self.table}: choose fewer"
                )
            stride = (length - 1) / (count - 1) if count > 1 else 1.0
            places = accumulate([stride] * (count - 1), initial=0.0)
            index += [first + round(place) for place in places]
            first += length
        return index


@grids.register("leading")
@dataclass(frozen=True)
class LeadingGrid(Grid):
    """The grid of latent diffusion, arXiv 2112.10752: every (table // steps)-th entry of a table.

    offset: added to each entry, the first of which is 0. end: where the last step ends; the
    released code ends at the table's first entry, t = 1 / table, and leaves its noise in. A count
    of steps that does not divide the table gives more of them, as theirs: 31 for 30.
    """

    table: Count = 1000
    offset: Natural = 1
    end: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "grid")
        if (self.offset + 1) / self.table <= self.end:
            raise ValueError(
                f"a grid whose last entry is at {(self.offset + 1) / self.table:g} does not fall "
                f"to {self.end:g}: choose a smaller end"
            )

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        if steps > self.table:
            raise ValueError(f"{steps} steps of a table of {self.table}: choose fewer")
        index = [i + self.offset for i in range(0, self.table, self.table // steps)]
        return _table_times(index, self.table, self.end)


@grids.register("trailing")
@dataclass(frozen=True)
class TrailingGrid(Grid):
    """Equal steps from the last entry of a table, t = 1, to 0 (Lin et al., arXiv 2305.08891).

    Each is rounded to an entry: the uniform grid wherever `steps` divides the table.
    """

    table: Count = 1000

    @override
    def __call__(self, steps: int, process: GaussianProcess) -> GridTimes:
        return torch.round(_linspace(self.table, 0, steps + 1)) / self.table


def _table_times(index: Sequence[int], table: int, end: float = 0.0) -> GridTimes:
    """Falling times of entries of a table, counted from 0 and rising, then `end`."""
    entries = torch.tensor(index, dtype=torch.float64, device="cpu").flip(0) + 1
    return torch.cat([entries / table, entries.new_tensor([end])])


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
        uniform = _linspace(1, 0, steps + 1)[:-1]
        log_snr = self.schedule(uniform)
        times = process.times_of(log_snr).clamp(0, 1)
        times = torch.cat([times, times.new_zeros(1)])
        return torch.unique_consecutive(times)
