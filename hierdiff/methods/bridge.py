"""Bridges: what one stage hands over to the next.

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

from jaxtyping import Float
from torch import Tensor

from hierdiff.batch import Cond
from hierdiff.levels import Levels
from hierdiff.noise import Noise
from hierdiff.registry import Registry

CLEAN = float("inf")  # log_snr of a state without noise


class Handover(NamedTuple):
    """What a stage receives from the one before it.

    cond: its conditions. start: the state from which its trajectory continues at time `start_t`,
    None for noise at time 1; ignored in training. beside: levels that its codec decodes behind its
    own (`decode((*x, *beside))`), such as a low band that the stage does not generate itself; the
    stage hands them on behind its state.
    """

    cond: Cond
    start: Levels | None = None
    start_t: float = 1.0
    beside: Levels = ()


class Bridge(ABC):
    """Turns the state of one stage into the conditions, and perhaps the start, of the next.

    gives: names of the vectors and scalars that it adds to the conditions, which the data need not
    have. masks: channels of `cond.low` behind those of an image. any_size: whether it crosses from
    states of any sides; frames: from single frames of clips.
    """

    gives: frozenset[str] = frozenset()
    masks: int = 0
    any_size: bool = False
    frames: bool = False

    @property
    def output_log_snr(self) -> float:
        """The log_snr of its output in sampling; `CLEAN`, the default, where it adds no noise."""
        return CLEAN

    def stop(self, log_snr: float) -> float:
        """Time at which the previous trajectory ends: 0 unless a noisy state is handed over."""
        return 0.0

    def draw(self, shapes: Sequence[Sequence[int]], noise: Noise) -> Any:
        """Random numbers of one crossing in training, drawn eagerly.

        shapes: of each level of the previous stage's state, batch first.
        """
        return None

    def draw_at(self, shapes: Sequence[Sequence[int]], noise: Noise, log_snr: float) -> Any:
        """Random numbers of one crossing in sampling, with the same `log_snr` for all examples.

        shapes: of each level of the previous stage's state, batch first.

        Raises:
            ValueError: where the bridge is not trained on that log_snr.
        """
        if log_snr != CLEAN:
            raise ValueError(f"log_snr {log_snr:g} for {type(self).__name__}, which adds no noise")
        return None

    def degraded(self, images: Float[Tensor, "b c *sides"], noise: Noise) -> Levels | None:
        """The previous stage's state in training, from real images, drawn eagerly.

        None, the default, is the state that the previous stage's codec makes of them.
        """
        return None

    @abstractmethod
    def __call__(self, x: Levels, here: float, crossing: Any, cond: Cond) -> Handover:
        """The handover of a state.

        x: the previous stage's state. here: its log_snr, infinite if it is clean. crossing: the
        numbers of `draw` or `draw_at`. cond: conditions of the next stage so far.
        """


bridges: Registry[Bridge] = Registry("bridge", Bridge)
