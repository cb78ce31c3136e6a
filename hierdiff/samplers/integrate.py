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
from hierdiff.process import GaussianProcess, Moment
from hierdiff.registry import Registry


class State(NamedTuple):
    """What passes from step to step beside x: the denoiser's carry and the rule's own history."""

    carry: Carry = None
    history: Any = None


class Step(NamedTuple):
    """One step of a trajectory, from the moment t to s. last: it ends at time 0, without noise."""

    t: Moment
    s: Moment
    last: bool


class Sampler(ABC):
    """A step rule; frozen, so that one object serves any number of trajectories. It reads no tensor
    back, which would wait for the device at every step."""

    calls_per_step: int = 1

    @property
    def uses_variance(self) -> bool:
        """Does it need `Denoised.variance`?"""
        return False

    @abstractmethod
    def __call__(
        self, denoise: Denoise, x: Levels, step: Step, state: State, noise: Noise
    ) -> tuple[Levels, State]: ...


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
    """x from times[0] to times[-1], which must fall; `watch(i, s, x)` is told after every step.

    Start state and times are arguments: image-to-image, refiners, truncated cascades and windows of
    a trajectory are calls of this function. FloatingPointError, with `what`, step and level, where
    the state becomes NaN or infinite: looked up once, at the end, since each look waits for the
    device.
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
    """The times as numbers. ValueError where they do not fall within [0, 1]."""
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
    """FloatingPointError, with step and level, where the state x of a trajectory was not finite.

    finite: of each level after each step. moments: the times, one more than steps.
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
    """The noise that is left when x0 is taken out of x: (x - alpha x0) / sigma."""
    parts = zip(x, x0, spread(t.alpha, x), spread(t.sigma, x), strict=True)
    return tuple((level - a * clean) / s for level, clean, a, s in parts)
