"""The role of an objective: what the training step of a stage of diffusion minimises.

It draws the randomness of a step, calls the network on noisy levels and gives a loss, which is a
pure function of its arguments. Score matching (`score`) is the default: a node without a name is
one of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import Denoiser
from hierdiff.levels import Levels
from hierdiff.noise import Noise
from hierdiff.objective.loss import Draws, Loss
from hierdiff.parameterization import Parameterization
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry


class Objective(ABC):
    """parameterization: what the network predicts and how its input is scaled, in sampling too."""

    parameterization: Parameterization

    def check(  # noqa: B027
        self,
        process: GaussianProcess,
        denoiser: Denoiser | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Refuses what cannot work with this process, network and state, before compute.

        shapes: c h w of each level, finest first. Error: ValueError.
        """

    @abstractmethod
    def tail(self, n: int) -> Objective:
        """The objective of the n coarsest levels."""

    @abstractmethod
    def draw(
        self, process: GaussianProcess, shapes: Sequence[Sequence[int]], noise: Noise
    ) -> Draws:
        """Made eagerly, outside a compiled loss; shapes: b c h w of each level, the last full."""

    @abstractmethod
    def __call__(
        self, process: GaussianProcess, denoiser: Denoiser, x0: Levels, cond: Cond, draws: Draws
    ) -> Loss:
        """The loss of clean levels x0; level i may hold the first b_i rows alone, and its loss is
        the mean over its own rows."""


objectives: Registry[Objective] = Registry("objective", Objective, default="score")
