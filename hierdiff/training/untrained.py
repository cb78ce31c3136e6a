"""Training steps to be timed, counted or planned: weights are untrained and images are noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hierdiff.batch import Batch, Cond
from hierdiff.methods import Stage
from hierdiff.noise import Noise, from_generator, generator_of
from hierdiff.resolution import sides_of
from hierdiff.training.layout import channels_last
from hierdiff.training.recipe import Recipe
from hierdiff.training.step import TrainingStep

META = torch.device("meta")


def noise_on(device: torch.device) -> Noise:
    """Standard normals; on the meta device shapes alone."""
    if device == META:
        return lambda shape: torch.empty(tuple(shape), device=META)
    return from_generator(generator_of(0, "cost"), device)


def noise_batch(stage: Stage, n: int, facts: Mapping[str, Any], recipe: Recipe) -> Batch:
    """N images of noise on the device of a stage, without label and caption; facts: of the data."""
    sides = sides_of(stage.resolutions[0])

    def batch(n: int, *sides: int) -> Batch:
        images = noise_on(stage.device)((n, facts["channels"], *sides)).clamp(-1, 1)
        if recipe.channels_last:
            images = channels_last(images)
        return Batch(images, stage.complete(Cond(), n))

    made = batch(n, *sides)
    if beside := math.ceil(stage.images_beside * n):
        made = replace(made, stills=batch(beside, *sides[1:]))
    return made.map(
        lambda tensor: tensor.to(recipe.dtype) if tensor.is_floating_point() else tensor
    )


class UntrainedSteps:
    """The trainer's own steps (`TrainingStep`) of a stage, on images of noise.

    facts: of the data. images: of one step, in the recipe's micro batches. A call takes the number
    of the step inside the stage, None for the encoding of its images, which training does once,
    before its first step. The learning rate is 0, so that weights stay as they were drawn and
    repeats cannot diverge.
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
        self.raw = [noise_batch(stage, size, facts, recipe) for _ in range(recipe.accumulate)]
        self.chunks = list(enumerate(map(stage.prepare_batch, self.raw)))
        named = dict(stage.named_parameters())
        self.step = TrainingStep(fabric, stage, recipe, named=named, images=images, place=(0, 0))

    def __call__(self, step: int | None = 0) -> None:
        """One step of training, or its encoding."""
        if step is not None:
            self.step(step, self.chunks, lr=0.0)
            return
        for raw in self.raw:
            self.stage.prepare_batch(raw)


class ShapeFabric:
    """What `TrainingStep` needs of Fabric, for the meta device, where nothing is computed."""

    world_size = 1

    def setup_module(self, module: nn.Module, move_to_device: bool = False) -> nn.Module:
        """The module as it is."""
        return module

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        """A context that does nothing: there is one process."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The backward pass, without a loss scale."""
        loss.backward()
