"""A stage: what is trained on its own share of the budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hierdiff.batch import Batch, Cond
from hierdiff.levels import Name
from hierdiff.noise import Noise
from hierdiff.objective import Loss

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
    teacher: str | None = None  # file of another run whose stage of this name it learns from
    compiles: bool = True  # may its loss be compiled as one graph
    notes: tuple[str, ...] = ()  # what a reader of its row must know
    tied: bool = True  # are its weights of use for the data that it was trained on alone
    resolutions: tuple[Name, ...]  # names of the images that it is trained on, finest first
    facts: Mapping[str, int] = MappingProxyType({})  # of the data, to complete conditions by
    level_names: tuple[str, ...] = ()  # of the levels in its log, finest first

    @property
    def device(self) -> torch.device:
        """Of its parameters; the CPU where it has none."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

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
    def loss_identity(self) -> tuple[Any, ...]:
        """Equal where the losses of two stages are the same quantity."""
        return (self.identity, self.resolutions)

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

    def learn_from(self, teacher: Stage) -> None:
        """Before the first step of every run, after `start`: takes the stage of the file `teacher`,
        which is as this one, for the teacher inside its loss."""
        raise ValueError(f"stage {self.name} learns from no teacher: leave the file out")

    def check(self, previous: Stage | None = None) -> None:
        """Refuses, before compute, what `start` would: files that are not there, a `previous` stage
        that cannot teach."""

    @abstractmethod
    def draw(self, batch: Batch, noise: Noise) -> Any:
        """All randomness of one loss, made eagerly and outside of anything compiled."""

    @abstractmethod
    def forward(self, batch: Batch, draws: Any, turn: str = "denoiser", step: int = 0) -> Loss: ...

    def prepare_batch(self, batch: Batch) -> Batch:
        """What its data (`start`) gives for a batch of images."""
        return batch

    def start_untrained(self) -> None:
        """Stands in for what `start` would measure: weights as drawn are timed, not looked at."""

    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """What a sheet shows under `cond`, nothing by default; `batch` holds as many real
        examples."""
        return {}

    def complete(self, cond: Cond, n: int) -> Cond:
        """`cond` on this device, with "none" for the labels and text that the data has.

        Error: ValueError where a condition is not given for n images, or a label is out of range.
        """
        device = self.device
        classes, width = self.facts.get("classes", 0), self.facts.get("text_width", 0)
        cond = cond.map(lambda tensor: tensor.to(device))
        parts = {"labels": cond.labels, "captions": cond.tokens, **cond.vectors, **cond.scalars}
        for name, part in parts.items():
            if part is not None and len(part) != n:
                raise ValueError(f"{len(part)} {name} for {n} images: give one for each")
        if classes and cond.labels is None:
            cond = replace(cond, labels=torch.full((n,), -1, device=device))
        if classes and cond.labels is not None and not cond.labels.is_meta:
            check_labels(cond.labels, classes)
        if width and cond.tokens is None:
            length = self.facts["text_length"]
            tokens = torch.zeros(n, length, width, device=device)
            mask = torch.zeros(n, length, dtype=torch.bool, device=device)
            cond = replace(cond, tokens=tokens, mask=mask)
        return cond


def check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= classes:
        raise ValueError(
            f"label {low if low < -1 else high} is out of range: the model knows classes "
            f"0 to {classes - 1}, and -1 for none"
        )
