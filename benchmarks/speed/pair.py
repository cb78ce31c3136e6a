"""A step of `hierdiff` and of its plain twin in one process, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.device import autocast
from benchmarks.speed.case import Case
from benchmarks.speed.plain import PlainSampling, PlainTraining
from hierdiff.batch import Batch, Cond
from hierdiff.levels import Levels
from hierdiff.methods import Request, methods
from hierdiff.methods.diffusion import Diffusion
from hierdiff.metrics.cost import flops, parameters, seconds_of
from hierdiff.training.fabric import fabric_of
from hierdiff.training.layout import channels_last, with_channels_last
from hierdiff.training.recipe import Recipe
from hierdiff.training.step import TrainingStep
from hierdiff.training.untrained import noise_on

BACKENDS = {  # of attention; auto: as torch chooses
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
WARMUP = 2


def recipe_of(case: Case) -> Recipe:
    """The recipe of a training step."""
    return Recipe(
        steps=1,
        batch_size=case.batch,
        precision=case.precision,
        channels_last=case.channels_last,
        accelerator=case.device,
        **case.recipe,
    )


def untrained(case: Case) -> Diffusion:
    """The stage of a case on its device, every weight moved from where it starts.

    A branch that ends in zeros would hide what lies before it from the comparison of results.
    """
    torch.manual_seed(0)
    stage = methods.build(case.method, offered=case.facts).stages[-1]
    assert isinstance(stage, Diffusion)
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return stage.to(torch.device(case.device))


def conditions(case: Case, n: int) -> Cond:
    """A caption or a class for each of n images, as the data have them."""
    device = torch.device(case.device)
    classes, width = case.facts.get("classes", 0), case.facts.get("text_width", 0)
    if width:
        length = case.facts["text_length"]
        tokens = noise_on(device)((n, length, width))
        return Cond(tokens=tokens, mask=torch.ones(n, length, dtype=torch.bool, device=device))
    labels = torch.arange(n, device=device) % classes if classes else None
    return Cond(labels=labels)


class Ours:
    """Steps of `hierdiff`'s own trainer and sampler; each gives numbers to compare."""

    def __init__(self, case: Case, stage: Diffusion):
        self.case, self.stage = case, stage
        if case.channels_last:
            with_channels_last(stage)
        self.batch = example(case, stage)
        if case.what == "train":
            recipe = recipe_of(case)
            named = dict(stage.named_parameters())
            self.step = TrainingStep(
                fabric_of(recipe, alone=True),
                stage.train(),
                recipe,
                named=named,
                images=case.batch,
                place=(0, 0),
            )

    def __call__(self) -> Tensor | Levels:
        """The loss of a training step, or samples."""
        with self._attention():
            if self.case.what == "train":
                return torch.tensor(self.step(0, [(0, self.batch)], lr=0.0)["loss"])
            request = Request(
                self.case.batch,
                self.batch.cond,
                noise=noise_on(self.stage.device),
                steps=self.case.steps,
                guidance=self.case.guidance if self.case.what == "guided" else 1.0,
            )
            with autocast(self.stage.device, self.case.precision):
                return self.stage.run(request)

    def _attention(self) -> AbstractContextManager[Any]:
        backend = BACKENDS.get(self.case.attention)
        return nullcontext() if backend is None else sdpa_kernel(backend)


class Plain:
    """The same steps of the plain twin."""

    def __init__(self, case: Case, stage: Diffusion):
        self.case, self.stage = case, stage
        self.batch = example(case, stage)
        self.batch = self.batch.map(lambda tensor: tensor.contiguous())
        if case.what == "train":
            self.training = PlainTraining(stage, recipe_of(case))
        else:
            self.sampling = PlainSampling(stage)

    def __call__(self) -> Tensor | Levels:
        """The loss of a training step, or samples."""
        case, noise = self.case, noise_on(self.stage.device)
        if case.what == "train":
            return self.training(self.batch, self.stage.draw(self.batch, noise))
        guidance = case.guidance if case.what == "guided" else 1.0
        with autocast(self.stage.device, case.precision):
            return self.sampling(self.batch.cond, case.batch, noise, case.steps, guidance)


def example(case: Case, stage: Diffusion) -> Batch:
    """A batch of noise at the finest resolution, with conditions."""
    shape = stage.shapes()[0]
    images = noise_on(stage.device)((case.batch, *shape)).clamp(-1, 1)
    if case.channels_last:
        images = channels_last(images)
    return Batch(images, stage.complete(conditions(case, case.batch), case.batch))


SIDES: dict[str, Callable[[Case, Diffusion], Ours | Plain]] = {"ours": Ours, "plain": Plain}


def clocked(fn: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds of one call on the wall, and of this process's cores."""
    cores = time.process_time()
    wall = seconds_of(fn, device)
    return wall, time.process_time() - cores


def timed_pair(case: Case) -> dict[str, Any]:
    """Seconds of a step of both sides, wall and cores, of each repeat; parameters and operations.

    The order of the two changes from repeat to repeat.
    """
    device = torch.device(case.device)
    stage = untrained(case)
    plain = Plain(case, stage)
    ours = Ours(case, stage)
    for _ in range(WARMUP):
        ours()
        plain()
    steps = 1 if case.what == "train" else case.steps
    times: dict[str, list[float]] = {
        f"{name}_{clock}": [] for name in SIDES for clock in ("wall", "cores")
    }
    for repeat in range(case.repeats):
        pair: list[tuple[str, Callable[[], Any]]] = [("ours", ours), ("plain", plain)]
        for name, side in pair if repeat % 2 else pair[::-1]:
            for clock, seconds in zip(("wall", "cores"), clocked(side, device), strict=True):
                times[f"{name}_{clock}"].append(seconds / steps)
    with torch.no_grad() if case.what != "train" else nullcontext():
        operations = flops(plain)
    return {
        "times": times,
        "parameters": parameters(stage),
        "flops": operations / steps,
        "ratio": {clock: spread_of(times, clock) for clock in ("wall", "cores")},
    }


def spread_of(times: Mapping[str, list[float]], clock: str) -> dict[str, float]:
    """Median and quartiles of the paired ratios plain / ours: above 1 is faster than the twin."""
    pairs = zip(times[f"plain_{clock}"], times[f"ours_{clock}"], strict=True)
    ratios = [plain / ours for plain, ours in pairs]
    if len(ratios) == 1:
        return {"median": ratios[0], "low": ratios[0], "high": ratios[0]}
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}
