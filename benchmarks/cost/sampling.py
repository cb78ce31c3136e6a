"""Timing of samples, and the cost of their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.cost.cases import Case
from benchmarks.device import autocast
from hierdiff.batch import Cond
from hierdiff.images import to_uint8
from hierdiff.methods import Generator, Part, Request
from hierdiff.metrics.cost import (
    active_parameters,
    energy_of,
    flops,
    parameters,
    seconds_of,
    time_call,
)
from hierdiff.noise import Noise
from hierdiff.text import TextEncoder, encoders
from hierdiff.training.untrained import noise_on


class SamplingTimer:
    """Times samples of a stage, in a batch and, for the latency, alone; from captions to 8-bit
    pixels."""

    def __init__(self, case: Case, stage: Generator, batch: int):
        self.case, self.stage, self.batch = case, in_sampling(stage), batch
        self.device = torch.device(case.device)
        self.noise = noise_on(self.device)
        self.text = None if case.text is None else encoders.build(case.text)

    def cond(self, n: int) -> Cond:
        """Conditions of n images: the example caption, encoded, or none."""
        if self.text is None:
            return Cond()
        return self.text.condition([self.case.caption] * n)

    def sample(self, n: int, steps: int | None = None) -> None:
        """Makes n images at once; steps: None for those of the sampler."""
        with autocast(self.device, self.case.precision):
            finest = [self.case.finest]  # that whose evaluations are counted
            request = Request(n, self.cond(n), noise=self.noise, steps=steps, resolutions=finest)
            images = self.stage.sample(request)
        _ = {side: to_uint8(x).cpu() for side, x in images.items()}

    def warm(self) -> None:
        """Everything that only a first call does."""
        self.wake()

    def wake(self) -> None:
        """Two sampler steps at both batch sizes, untimed."""
        self.sample(self.batch, steps=2)
        self.sample(1, steps=2)

    def repeat(self) -> dict[str, float]:
        """Seconds of a batch, and of one image alone."""
        whole = seconds_of(lambda: self.sample(self.batch), self.device)
        alone = whole if self.batch == 1 else seconds_of(lambda: self.sample(1), self.device)
        return {"seconds": whole, "latency": alone}

    def describe(self, seconds: float) -> dict[str, Any]:
        """The rest of a cost row; seconds: median of a batch."""
        parts = list(self.parts())
        networks = [network for stage in self.stage.chain for network in stage.networks]
        calls = [part for part in self.stage.parts() if part.is_evaluation]
        energy = energy_of(lambda: self.sample(self.batch), self.device)
        rest = seconds / self.batch - sum(part["seconds"] for part in parts)
        return {
            "batch": self.batch,
            "parameters": parameters(nn.ModuleList(networks)),
            "active_parameters": active_parameters(nn.ModuleList(networks)),
            "flops_per_call": flops_of_part(calls[-1], self.noise),
            "flops_per_image": flops_of_sample(self.stage, self.text),
            "evaluations": self.stage.evaluations,
            "energy_j": None if energy is None else energy / self.batch,
            "breakdown": [*parts, {"name": "rest", "seconds": max(0.0, rest)}],
        }

    def parts(self) -> Iterator[dict[str, Any]]:
        """Seconds and FLOPs for one image of each part of the stage, with guidance as a part of its
        own, and of the text encoder."""
        for part in self.stage.parts():
            seconds = self._seconds(partial(part.prepare, self.batch, self.noise))
            count = flops_of_part(part, self.noise)
            yield _row(part.name, seconds * part.calls, count * part.calls)
        if self.text is not None:
            seconds = self._seconds(lambda: partial(self.cond, self.batch))
            yield _row("text encoder", seconds, flops_of_text(self.text, self.case.caption))

    @torch.no_grad()
    def _seconds(self, prepare: Callable[[], Callable[[], Any]]) -> float:
        """Of what `prepare` makes ready, for one image."""
        with autocast(self.device, self.case.precision):
            fn = prepare()
            return time_call(fn, warmup=1, repeats=3, device=self.device).median / self.batch


def _row(name: str, seconds: float, count: int) -> dict[str, Any]:
    return {"name": name, "seconds": seconds, "flops": count}


def in_sampling(stage: Generator) -> Generator:
    """The stage and those before it without what networks do in training alone."""
    for part in stage.chain:
        part.eval()
    return stage


def flops_of_sample(stage: Generator, text: TextEncoder | None = None) -> int:
    """Operations of one image at the finest resolution of the stage: all network calls of all
    stages, the decoder, and the caption."""
    noise = noise_on(in_sampling(stage).device)
    return flops_of_text(text) + sum(
        flops_of_part(part, noise) * part.calls for part in stage.parts()
    )


@torch.no_grad()
def flops_of_part(part: Part, noise: Noise) -> int:
    """Operations of one call for one image."""
    return flops(part.prepare(1, noise))


def flops_of_text(text: TextEncoder | None, caption: str = "") -> int:
    """Operations of encoding a caption; 0 without an encoder."""
    return 0 if text is None else flops(lambda: text.condition([caption]))
