"""Bridges: what a stage is given of the one before it.

A bridge takes the state of the previous stage, which stands at a noise level (`here`, a log-SNR,
infinite for a clean state), to the conditions of the next stage and to the state that it starts
from. It owns what the condition is: an image, a band of a codec, an embedding. It is the same
object in training, on the state of real images, and in sampling, on a generated one; which of the
two it gets is the exposure bias of a cascade.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from hierdiff.batch import Cond
from hierdiff.levels import Levels
from hierdiff.noise import Noise
from hierdiff.registry import Registry

CLEAN = float("inf")  # log_snr of a state without noise


class Handover(NamedTuple):
    """What a stage is given.

    cond: its conditions. start: the state from which its trajectory goes on at the time `start_t`,
    None for noise at time 1; in training it is not looked at. beside: levels that its codec decodes
    behind its own (`decode((*x, *beside))`), such as the low band that it does not make itself.
    """

    cond: Cond
    start: Levels | None = None
    start_t: float = 1.0
    beside: Levels = ()


class Bridge(ABC):
    """log_snr: of what it gives in sampling, `CLEAN` where it adds no noise. gives: names of the
    vectors and scalars that it adds to the conditions, which the data need not have."""

    log_snr: float = CLEAN
    gives: frozenset[str] = frozenset()

    def stop(self, log_snr: float) -> float:
        """Time at which the trajectory before it ends: 0 unless it hands over a noisy state."""
        return 0.0

    def draw(self, shapes: Sequence[Sequence[int]], noise: Noise) -> Any:
        """Randomness of one crossing in training, made eagerly; shapes: of the previous stage's
        state, with the batch."""
        return None

    def draw_at(self, shapes: Sequence[Sequence[int]], noise: Noise, log_snr: float) -> Any:
        """Randomness of one crossing in sampling: drawn once a sample, `log_snr` for all.

        Error: ValueError where it is not trained on that log_snr.
        """
        if log_snr != CLEAN:
            raise ValueError(f"log_snr {log_snr:g} for {type(self).__name__}, which adds no noise")
        return None

    @abstractmethod
    def __call__(self, x: Levels, here: float, crossing: Any, cond: Cond) -> Handover:
        """x: the previous stage's state at the log_snr `here`. cond: of the next stage so far."""


bridges: Registry[Bridge] = Registry("bridge", Bridge)
