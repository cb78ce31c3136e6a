"""The sampler protocol and the only loop.

A sampler is a rule for one step from t to s < t: it sees a denoise function and a process, never a
network. For every process here dx = x0 d(alpha) + eps d(sigma), so a rule needs no derivatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hierdiff.guidance import Carry, Denoise
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry


class State(NamedTuple):
    """What passes from step to step beside x: the denoiser's carry and the rule's own history."""

    carry: Carry = None
    history: Any = None


class Sampler(ABC):
    """A step rule; frozen, so that one object serves any number of trajectories."""

    calls_per_step: int = 1

    @abstractmethod
    def __call__(
        self,
        denoise: Denoise,
        process: GaussianProcess,
        x: Levels,
        t: Float[Tensor, " b"],
        s: Float[Tensor, " b"],
        state: State,
        noise: Noise,
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
) -> Levels:
    """x from times[0] to times[-1], which must fall; `watch(i, s, x)` is told after every step.

    Start state and times are arguments: image-to-image, refiners, truncated cascades and windows of
    a trajectory are calls of this function.
    """
    moments = times.tolist()
    if any(s >= t for t, s in pairwise(moments)) or moments[-1] < 0 or moments[0] > 1:
        raise ValueError(f"times must fall within [0, 1], got {moments[:3]} ... {moments[-1]}")
    state = State(carry)
    first = x[-1]
    for i, (t, s) in enumerate(pairwise(moments)):
        both = torch.tensor([t, s], dtype=first.dtype, device=first.device)
        now, then = both[:, None].expand(2, len(first))
        x, state = step(denoise, process, x, now, then, state, noise)
        if watch is not None:
            watch(i, s, x)
    return x


def eps_of(
    x: Levels,
    x0: Levels,
    alpha: Float[Tensor, "b levels"],
    sigma: Float[Tensor, "b levels"],
) -> Levels:
    """The noise that is left when x0 is taken out of x: (x - alpha x0) / sigma."""
    parts = zip(x, x0, spread(alpha, x), spread(sigma, x), strict=True)
    return tuple((level - a * clean) / s for level, clean, a, s in parts)
