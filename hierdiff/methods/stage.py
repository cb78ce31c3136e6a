"""A stage: what is trained on its own share of the budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from hierdiff.batch import NOTHING, Batch, Cond
from hierdiff.guidance import Scale
from hierdiff.levels import Name
from hierdiff.noise import Noise
from hierdiff.objective import Loss
from hierdiff.samplers.integrate import Watch

Images = dict[Name, Float[Tensor, "n c *_sides"]]  # by name of a level, finest first


class Turn(NamedTuple):
    """One optimizer's part of a step: the module whose parameters it moves, and its learning rate
    over the trainer's."""

    name: str
    module: nn.Module
    lr: float = 1.0


class Stage(nn.Module, ABC):
    """Trained on its own share of the budget (0: not trained), then kept with its EMA weights.

    `forward` is the loss, so that a wrapper for many devices wraps the loss.
    """

    name: str
    share: float = 1.0
    batch_size: int | None = None  # None: the trainer's
    steps: int = 0  # of its training, told by the trainer before the first
    weights: str | None = None  # file of another run whose stage of this name it starts from
    compiles: bool = True  # may its loss be compiled as one graph
    notes: tuple[str, ...] = ()  # what a reader of its row must know
    tied: bool = True  # are its weights of use for the data that it was trained on alone
    resolutions: tuple[Name, ...]  # names of the images that it makes, finest first
    level_names: tuple[str, ...] = ()  # of the levels in its log, finest first

    @property
    def ready(self) -> bool:
        """Will it have been trained when the run has ended, here or elsewhere?"""
        return self.share > 0 or self.weights is not None

    @property
    def identity(self) -> str:
        """What its weights mean, apart from their shapes: stages of two runs that agree in it can
        stand for each other."""
        return type(self).__name__

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", self),)

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps of its training, `steps` in all, from which on a step does other work: what plans
        of a budget must know."""
        return ()

    def start(self, previous: Stage | None, data: Any) -> Any:
        """Once, before the first step: carries weights over, measures statistics."""
        return data

    def check(self) -> None:
        """Refuses, before compute, what `start` would: files that are not there."""

    @abstractmethod
    def draw(self, batch: Batch, noise: Noise) -> Any:
        """All randomness of one loss, made eagerly and outside of anything compiled."""

    @abstractmethod
    def forward(self, batch: Batch, draws: Any, turn: str = "denoiser", step: int = 0) -> Loss: ...

    @abstractmethod
    def sample(
        self,
        n: int,
        cond: Cond = NOTHING,
        *,
        noise: Noise,
        steps: int | None = None,
        guidance: Scale | None = None,
        watch: Watch | None = None,
    ) -> Images:
        """n images in [-1, 1] at every resolution of this stage."""

    def fed(self, batch: Batch) -> Batch:
        """What its data (`start`) gives for a batch of images."""
        return batch

    def untrained(self) -> None:
        """Stands in for what `start` would measure: weights as drawn are timed, not looked at."""

    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """Samples for a sheet under `cond`; `batch` holds as many real examples."""
        return self.sample(len(batch), cond, noise=noise)
