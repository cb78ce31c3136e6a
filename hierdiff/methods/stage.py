"""`Stage`: a part of a method that is trained on its own share of the budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hierdiff.batch import Batch, Cond
from hierdiff.denoisers import Denoiser
from hierdiff.noise import Noise
from hierdiff.objective import Loss
from hierdiff.resolution import Name, Resolution

Images = dict[Name, Float[Tensor, "n c *_sides"]]  # by name of a level, finest first


class Turn(NamedTuple):
    """One optimizer's part of a step.

    module: its parameters are trained in this turn. lr: a factor on the trainer's learning rate.
    trainer: options of `trainer` that it has otherwise: its optimizer, betas, weight decay, clip.
    """

    name: str
    module: nn.Module
    lr: float = 1.0
    trainer: Mapping[str, Any] = MappingProxyType({})


class Stage(nn.Module, ABC):
    """Trained on its own share of the budget (0: not trained), then used with its EMA weights.

    `forward` is the loss, so that a distributed wrapper wraps the loss.
    """

    name: str
    share: float = 1.0
    batch_size: int | None = None  # None: the trainer's
    lr: float = 1.0  # of its turns, over the trainer's learning rate
    keeps_moments: bool = False  # go its optimizers on from the states of the stage before?
    trainer: Mapping[str, Any] = MappingProxyType({})  # options of `trainer` that it has otherwise
    steps: int = 0  # of its training; the trainer sets it before the first
    weights: str | None = None  # file of another run; starts from its stage of the same name
    teacher: str | None = None  # file of another run; learns from its stage of the same name
    compiles: bool = True  # whether its loss compiles as one graph
    shards: bool = True  # whether its weights may be cut over processes (one turn, plain gradients)
    notes: tuple[str, ...] = ()  # what a reader of its row in a table must know
    origin: str | None = None  # of weights that were trained elsewhere, a further note
    tied: bool = True  # True: the weights may be reused only on the data they were trained on
    resolutions: tuple[Name, ...]  # names of the images that it is trained on, finest first
    facts: Mapping[str, int] = MappingProxyType({})  # of the data; they complete conditions
    level_names: tuple[str, ...] = ()  # of the levels in its log, finest first

    @property
    def device(self) -> torch.device:
        """Of its parameters; the CPU where it has none."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def images_beside(self) -> float:
        """How many images it is trained on beside each clip of a batch (`Batch.stills`)."""
        return 0.0

    @property
    def ready(self) -> bool:
        """Whether it is trained by the end of the run, in it or in another one."""
        return self.share > 0 or self.weights is not None

    @property
    def networks_from_files(self) -> tuple[Denoiser, ...]:
        """Its networks that start from weights of another run, or from published ones."""
        networks = (part for part in self.modules() if isinstance(part, Denoiser))
        return tuple(network for network in networks if network.weights is not None)

    @property
    def pretrained(self) -> bool:
        """Whether weights of it come from another run, whose budget is not this one's."""
        return self.weights is not None or bool(self.networks_from_files)

    @property
    def identity(self) -> str:
        """What its weights mean, apart from their shapes.

        Weights may be exchanged between stages of two runs with equal identities.
        """
        return type(self).__name__

    @property
    def loss_identity(self) -> tuple[Any, ...]:
        """Equal where the losses of two stages are the same quantity."""
        return (self.identity, self.resolutions)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns of one training step, in order; by default one, for all parameters."""
        return (Turn("denoiser", self, self.lr),)

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps of its training (0 to `steps`) from which on the work of a step differs.

        Plans of a training budget need them.
        """
        return ()

    def start(self, previous: Stage | None, data: Any) -> Any:
        """Runs once, before the first step: carries weights over, measures statistics.

        Weights and the teacher of another run are in place, and win. Returns the data to train on,
        `data` itself by default.
        """
        return data

    def fit(self, resolutions: Sequence[Resolution]) -> None:
        """Readies it for batches of images of these sides beside its own; runs before `start`.

        Raises:
            ValueError: where it is trained on images of one size alone.
        """
        if resolutions:
            raise ValueError(
                f"stage {self.name} is trained on images of one size: leave data.buckets out"
            )

    @property
    def lacks_teacher(self) -> bool:
        """Does its loss need a teacher that it has not been given, as after a run is reopened?"""
        return False

    def learn_from(self, teacher: Stage) -> None:
        """Takes a stage of the same network as the teacher inside its loss.

        Runs at the beginning of every run, before `start`; the stage is that of the file
        `teacher`.

        Raises:
            ValueError: where the loss has no teacher.
        """
        raise ValueError(f"stage {self.name} learns from no teacher: leave the file out")

    def check(self, previous: Stage | None = None) -> None:
        """Raises, before compute, what `start` would raise.

        Raises:
            ValueError: for a missing file, or a `previous` stage that cannot teach.
        """

    @abstractmethod
    def draw(self, batch: Batch, noise: Noise) -> Any:
        """All random numbers of one loss, drawn eagerly, outside of anything compiled."""

    @abstractmethod
    def forward(self, batch: Batch, draws: Any, turn: str = "denoiser", step: int = 0) -> Loss:
        """The loss of a batch in one turn of a training step (0 is the first step)."""

    def draw_parts(self, batch: Batch, noise: Noise) -> tuple[Any, ...]:
        """`draw` of each part of a batch."""
        return tuple(self.draw(part, noise) for part in batch.parts)

    def loss_of_parts(
        self, batch: Batch, draws: Sequence[Any], turn: str = "denoiser", step: int = 0
    ) -> Loss:
        """The loss of a batch with that of the images beside its clips, each by its pixels.

        Nothing passes between the parts, nor between the images: this is what masks do for images
        that are packed behind the frames of clips.
        """
        first, *others = (self(*part, turn, step) for part in zip(batch.parts, draws, strict=True))
        if not others:
            return first
        (stills,) = others
        share = batch.parts[1].images.numel() / sum(part.images.numel() for part in batch.parts)
        total = (1 - share) * first.total + share * stills.total
        return Loss(total, {**first.logs, "loss/stills": stills.total})

    def prepare_batch(self, batch: Batch) -> Batch:
        """A batch as the data that `start` returns would hold it, from a batch of images."""
        return batch

    @property
    def encoder(self) -> nn.Module | None:
        """The network that `prepare_batch` calls, None where there is none; the training images are
        encoded once for all stages that have the same."""
        return None

    def start_untrained(self) -> None:
        """Stands in for `start` where untrained weights are only timed: nothing is measured."""

    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """Images for a sample sheet under `cond`, none by default.

        batch: as many real examples as `cond` has rows.
        """
        return {}

    def complete(self, cond: Cond, n: int) -> Cond:
        """`cond` on this device, with "none" for missing labels and text that the data has.

        Raises:
            ValueError: where a condition has other than n rows, or a label is out of range.
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
    """Checks that labels lie in -1 (none) to classes - 1.

    Raises:
        ValueError: naming a label out of range.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= classes:
        raise ValueError(
            f"label {low if low < -1 else high} is out of range: the model knows classes "
            f"0 to {classes - 1}, and -1 for none"
        )
