"""Samples as they are timed, and what their parts cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.cost.cases import Case
from benchmarks.cost.steps import noise_on
from benchmarks.measure.samples import autocast
from hierdiff.batch import Cond
from hierdiff.images import to_uint8
from hierdiff.levels import Levels
from hierdiff.methods import Diffusion
from hierdiff.metrics.cost import energy_of, flops, parameters, seconds_of, time_call
from hierdiff.noise import Noise
from hierdiff.text import TextEncoder, encoders


class Sampled:
    """Samples of the stage of a case, in a batch and, for the latency, alone; from captions to
    8-bit pixels."""

    def __init__(self, case: Case, stage: Diffusion, batch: int):
        self.case, self.stage, self.batch = case, stage, batch
        self.device = torch.device(case.device)
        self.noise = noise_on(self.device)
        self.text = None if case.text is None else encoders.build(case.text)

    def cond(self, n: int) -> Cond:
        if self.text is None:
            return Cond()
        tokens, mask = self.text.encode([self.case.caption] * n)
        return Cond(tokens=tokens, mask=mask)

    def sample(self, n: int, steps: int | None = None) -> None:
        with autocast(self.device, self.case.precision):
            images = self.stage.sample(n, self.cond(n), noise=self.noise, steps=steps)
        _ = {side: to_uint8(x).cpu() for side, x in images.items()}

    def warm(self) -> None:
        self.wake()

    def wake(self) -> None:
        self.sample(self.batch, steps=2)
        self.sample(1, steps=2)

    def repeat(self) -> dict[str, float]:
        whole = seconds_of(lambda: self.sample(self.batch), self.device)
        alone = whole if self.batch == 1 else seconds_of(lambda: self.sample(1), self.device)
        return {"seconds": whole, "latency": alone}

    def told(self, seconds: float) -> dict[str, Any]:
        """seconds: of a batch, the median."""
        chain = self.stage.chain
        parts = list(self.parts())
        energy = energy_of(lambda: self.sample(self.batch), self.device)
        rest = seconds / self.batch - sum(part["seconds"] for part in parts)
        return {
            "batch": self.batch,
            "parameters": parameters(
                nn.ModuleList(
                    module
                    for part in chain
                    for module in (part, part.codec.network)
                    if module is not None
                )
            ),
            "flops_per_call": flops_of_call(chain[-1], self.noise),
            "flops_per_image": flops_of_sample(self.stage, self.text),
            "evaluations": sum(self.stage.calls()),
            "energy_j": None if energy is None else energy / self.batch,
            "breakdown": [*parts, {"name": "rest", "seconds": max(0.0, rest)}],
        }

    def parts(self) -> Iterator[dict[str, Any]]:
        """Seconds and FLOPs for one image of each stage's network, of what guidance adds to it, of
        decoders and of the text encoder."""
        rest = without_guidance(self.stage)
        for part, calls, alone in zip(self.stage.chain, self.stage.calls(), rest, strict=True):
            state = tuple(self.noise((self.batch, *shape)) for shape in part.codec.shapes())
            once = self._taken(lambda p=part, x=state: call(p, x))  # type: ignore[misc]
            count = flops_of_call(part, self.noise)
            yield _part(f"stage {part.name}", once, count, alone)
            if calls > alone:
                yield _part(f"guidance {part.name}", once, count, calls - alone)
            if part.codec.network is not None:
                decoded = self._taken(lambda p=part, x=state: p.codec.decode(x))  # type: ignore[misc]
                yield _part("decoder", decoded, flops_of_decode(part, self.noise))
        if self.text is not None:
            read = self._taken(lambda: self.cond(self.batch))
            yield _part("text encoder", read, flops_of_text(self.text, self.case.caption))

    @torch.no_grad()
    def _taken(self, fn: Callable[[], Any]) -> float:
        """Seconds for one image."""
        with autocast(self.device, self.case.precision):
            return time_call(fn, warmup=1, repeats=3, device=self.device).median / self.batch


def _part(name: str, seconds: float, count: int, times: int = 1) -> dict[str, Any]:
    return {"name": name, "seconds": seconds * times, "flops": count * times}


def without_guidance(stage: Diffusion) -> tuple[int, ...]:
    """Network calls for one image if there were no guidance, of each stage of its chain."""
    kept = [part.sampling for part in stage.chain]
    try:
        for part in stage.chain:
            part.sampling = replace(part.sampling, guidance=1.0)
        return stage.calls()
    finally:
        for part, sampling in zip(stage.chain, kept, strict=True):
            part.sampling = sampling


def call(stage: Diffusion, x: Levels) -> Any:
    """One network call in the middle of a trajectory."""
    denoise = stage.denoise(stage.complete(Cond(), len(x[-1])))
    return denoise(x, stage.process.trajectory([0.5], x)[0], None)


def flops_of_sample(stage: Diffusion, text: TextEncoder | None = None) -> int:
    """Of one image: all network calls of all stages, decoders, and its caption."""
    noise = noise_on(stage.device)
    return flops_of_text(text) + sum(
        flops_of_call(part, noise) * calls + flops_of_decode(part, noise)
        for part, calls in zip(stage.chain, stage.calls(), strict=True)
    )


def flops_of_text(text: TextEncoder | None, caption: str = "") -> int:
    return 0 if text is None else flops(lambda: text.encode([caption]))


@torch.no_grad()
def flops_of_decode(stage: Diffusion, noise: Noise) -> int:
    """From the state of one image to its pixels."""
    x = tuple(noise((1, *shape)) for shape in stage.codec.shapes())
    return flops(lambda: stage.codec.decode(x))


@torch.no_grad()
def flops_of_call(stage: Diffusion, noise: Noise) -> int:
    """Of one network call for one image."""
    x = tuple(noise((1, *shape)) for shape in stage.codec.shapes())
    return flops(lambda: call(stage, x))
