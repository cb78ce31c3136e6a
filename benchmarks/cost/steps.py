"""Steps of training as they are timed and counted: weights are untrained and images random."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cost.cases import Case
from hierdiff.batch import Batch, Cond
from hierdiff.levels import sides_of
from hierdiff.methods import Stage
from hierdiff.metrics.cost import seconds_of
from hierdiff.noise import Noise, from_generator, generator_of
from hierdiff.training.layout import channels_last
from hierdiff.training.recipe import Recipe
from hierdiff.training.step import TrainingStep

WARMUP = 2  # steps of training before the first that is timed
META = torch.device("meta")


def noise_on(device: torch.device) -> Noise:
    """Standard normals; on the meta device shapes alone."""
    if device == META:
        return lambda shape: torch.empty(tuple(shape), device=META)
    return from_generator(generator_of(0, "cost"), device)


class Steps:
    """Steps of a stage, the trainer's own (`TrainingStep`), on images of noise.

    facts: of the data. images: of one step, in the recipe's micro batches. Called with the number
    of a step inside the stage. The learning rate is 0, so that weights stay as drawn and no number
    of repeats diverges.
    """

    def __init__(
        self,
        fabric: Any,
        stage: Stage,
        recipe: Recipe,
        *,
        facts: Mapping[str, Any],
        images: int,
    ):
        self.stage = stage.train()
        self.device = stage.device
        size = images // recipe.accumulate
        self.raw = [self._raw(size, facts, recipe) for _ in range(recipe.accumulate)]
        self.chunks = list(enumerate(map(stage.prepare_batch, self.raw)))
        named = dict(stage.named_parameters())
        self.step = TrainingStep(fabric, stage, recipe, named=named, images=images, place=(0, 0))

    def _raw(self, n: int, facts: Mapping[str, Any], recipe: Recipe) -> Batch:
        sides = sides_of(self.stage.resolutions[0])
        images = noise_on(self.device)((n, facts["channels"], *sides)).clamp(-1, 1)
        if recipe.channels_last:
            images = channels_last(images)
        cond = self.stage.complete(Cond(), n)
        return Batch(images, cond).map(
            lambda tensor: tensor.to(recipe.dtype) if tensor.is_floating_point() else tensor
        )

    def __call__(self, step: int = 0) -> None:
        self.step(step, self.chunks, lr=0.0)

    def prepare(self) -> None:
        """What the stage's data does once for the images of a step, before the first one."""
        for raw in self.raw:
            self.stage.prepare_batch(raw)


class Shapes:
    """In place of Fabric where nothing is computed (the meta device)."""

    world_size = 1

    def setup_module(self, module: nn.Module, move_to_device: bool = False) -> nn.Module:
        return module

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


class TrainingTimer:
    """Steps of the stage that a case trains; memory: weights, gradients, the optimizer's state and
    the averages."""

    def __init__(self, case: Case, stage: Stage, batch: int, fabric: Any):
        self.case, self.batch = case, batch
        self.device = torch.device(case.device)
        images = case.images(batch)
        self.steps = Steps(fabric, stage, case.trainer, facts=case.facts, images=images)

    def warm(self) -> None:
        self.first = seconds_of(self.steps, self.device)
        self.wake()

    def wake(self) -> None:
        for _ in range(WARMUP - 1):
            self.steps()

    def repeat(self) -> dict[str, float]:
        return {"seconds": seconds_of(self.steps, self.device)}

    def describe(self, seconds: float) -> dict[str, Any]:
        """seconds: of a step, the median. `train_batch`: images of a step."""
        compile_s = max(0.0, self.first - seconds) if self.case.compile else None
        return {"train_batch": self.case.images(self.batch), "compile_s": compile_s}
