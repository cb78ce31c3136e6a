"""The sampler protocol and the only loop.

A sampler is a rule for one step from t to s < t: it sees a denoise function and the coefficients at
both times, never a network. For every process here dx = x0 d(alpha) + eps d(sigma), so a rule needs
no derivatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hierdiff.guidance import Carry, Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.options import check_fields
from hierdiff.process import GaussianProcess, Moment
from hierdiff.registry import Registry


class State(NamedTuple):
    """What a step hands to the next besides x: the denoiser's carry and the rule's history."""

    carry: Carry = None
    history: Any = None


class Step(NamedTuple):
    """One step of a trajectory, from the moment t to s. last: whether it ends at t = 0."""

    t: Moment
    s: Moment
    last: bool


class Sampler(ABC):
    """A step rule; frozen, so that one object serves any number of trajectories.

    calls_per_step: of the denoise function; the step to t = 0 is one call. A rule copies no tensor
    to the host, which would make every step wait for the device.
    """

    calls_per_step: int = 1

    def __post_init__(self) -> None:
        check_fields(self, "sampler")

    @property
    def uses_variance(self) -> bool:
        """Whether it needs `Denoised.variance`."""
        return False

    @abstractmethod
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]:
        """The state at s from the state x at t, and what the next step needs."""


samplers: Registry[Sampler] = Registry("sampler", Sampler)

Watch = Callable[[int, float, Levels], None]


def integrate(
    step: Sampler,
    denoise: Denoise,
    process: GaussianProcess,
    x: Levels,
    times: Float[Tensor, " steps_and_one"],
    noise: Noise,
    carry: Carry = None,
    watch: Watch | None = None,
    what: str = "the state",
) -> Levels:
    """The state at times[-1] of a trajectory that is at x at times[0].

    times: falling within [0, 1]. carry: the denoiser's at the first step. watch: called as
    `watch(i, s, x)` after step i, which ends at time s. what: name of x in errors. Start state and
    times are arguments: image-to-image, refiners, truncated cascades and windows of a trajectory
    are calls of this function.

    Raises:
        ValueError: where the times do not fall within [0, 1].
        FloatingPointError: with step and level, where the state becomes NaN or infinite; checked
            once, at the end, since each check waits for the device.
    """
    falling = check_times(times)
    state = State(carry)
    finite: list[Tensor] = []  # after each step, of each level
    for i, (t, s) in enumerate(pairwise(process.trajectory(falling, x))):
        x, state = step(denoise, x, Step(t, s, last=falling[i + 1] == 0), state, noise)
        finite.append(torch.stack([level.isfinite().all() for level in x]))
        if watch is not None:
            watch(i, falling[i + 1], x)
    if finite and not x[-1].is_meta:
        check_trajectory(torch.stack(finite), falling, x, what)
    return x


def check_times(times: Float[Tensor, " steps_and_one"]) -> list[float]:
    """The times as numbers.

    Raises:
        ValueError: where they do not fall within [0, 1].
    """
    moments = times.tolist()
    inside = moments and moments[-1] >= 0 and moments[0] <= 1
    if not inside or not all(s < t for t, s in pairwise(moments)):
        raise ValueError(
            f"times must fall within [0, 1], got {moments[:3]} ... {moments[-1:]}: "
            f"choose another grid, or fewer steps"
        )
    return moments


def check_trajectory(
    finite: Bool[Tensor, "steps levels"], moments: Sequence[float], x: Levels, what: str
) -> None:
    """Checks that the state of a trajectory was finite after every step.

    finite: whether each level was, after each step. moments: the times, one more than steps. x: the
    last state. what: its name in the error.

    Raises:
        FloatingPointError: with the first step and level where it was not.
    """
    if bool(finite.all()):
        return
    step = int((~finite).any(1).int().argmax())
    level = int((~finite[step]).int().argmax())
    shape = " x ".join(map(str, x[level].shape[1:]))
    raise FloatingPointError(
        f"samples of {what} are not finite (NaN or infinite) after step {step + 1} of "
        f"{len(finite)}, t = {moments[step]:.4g} to {moments[step + 1]:.4g}, at level {level} "
        f"({shape}): look for NaN in the weights, for guidance that is too large without a "
        f"threshold, for a schedule that is infinite there, and for overflow in reduced precision"
    )


def eps_of(x: Levels, x0: Levels, t: Moment) -> Levels:
    """The noise eps = (x - alpha x0) / sigma of a state x with clean levels x0."""
    parts = zip(x, x0, spread(t.alpha, x), spread(t.sigma, x), strict=True)
    return tuple((level - a * clean) / s for level, clean, a, s in parts)
