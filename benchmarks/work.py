"""What a method does while its cost is measured: steps of training, samples, and their parts.

Weights are untrained and images random. `python -m benchmarks.work` is the process of one case, and
is asked by `benchmarks.cost`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import autocast
from hierdiff.batch import Batch, Cond
from hierdiff.images import to_uint8
from hierdiff.levels import Levels
from hierdiff.methods import Diffusion, Method, Stage, methods
from hierdiff.metrics.cost import (
    MIB,
    MemoryMeter,
    energy_of,
    flops,
    is_out_of_memory,
    parameters,
    seconds_of,
    time_call,
)
from hierdiff.noise import Noise, from_generator, generator_of
from hierdiff.record import ALONE
from hierdiff.text import TextEncoder, encoders
from hierdiff.training.fabric import fabric_of
from hierdiff.training.recipe import Precision, Recipe
from hierdiff.training.step import TrainingStep

OUT_OF_MEMORY = "out of memory"  # how the reason of a case begins that did not fit
WARMUP = 2  # steps of training before the first that is timed
META = torch.device("meta")


def device_for(accelerator: str | None) -> torch.device:
    """Where a run with this `trainer.accelerator` computes on this machine."""
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


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
        self.device = next(stage.parameters()).device
        size = images // recipe.accumulate
        self.raw = [self._raw(size, facts, recipe) for _ in range(recipe.accumulate)]
        self.chunks = list(enumerate(map(stage.fed, self.raw)))
        named = dict(stage.named_parameters())
        self.step = TrainingStep(fabric, stage, recipe, named=named, images=images, place=(0, 0))

    def _raw(self, n: int, facts: Mapping[str, Any], recipe: Recipe) -> Batch:
        side = self.stage.resolutions[0]
        images = noise_on(self.device)((n, facts["channels"], side, side)).clamp(-1, 1)
        if recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        cond = self.stage.complete(Cond(), n) if isinstance(self.stage, Diffusion) else Cond()
        return Batch(images, cond).map(
            lambda tensor: tensor.to(recipe.dtype) if tensor.is_floating_point() else tensor
        )

    def __call__(self, step: int = 0) -> None:
        self.step(step, self.chunks, lr=0.0)

    def prepare(self) -> None:
        """What the stage's data does once for the images of a step, before the first one."""
        for raw in self.raw:
            self.stage.fed(raw)


class Shapes:
    """In place of Fabric where nothing is computed (the meta device)."""

    world_size = 1

    def setup_module(self, module: nn.Module, move_to_device: bool = False) -> nn.Module:
        return module

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


@dataclass(frozen=True)
class Case:
    """method, facts: node and data facts. trajectory: resolutions of the images that one
    trajectory makes, finest first. alone: what makes the coarsest of them is measured without the
    rest. what: "train" or "sample". batches: images at once, sizes to try, rising. recipe: options
    of `trainer` on which a step depends, beside the named ones. device: "cpu" or "cuda".
    memory_cap: MiB, None for what the machine has. text: node of the text encoder, whose time for
    one image's caption is told apart, with an example of a caption."""

    method: Mapping[str, Any]
    facts: Mapping[str, Any]
    trajectory: Sequence[int]
    what: str
    batches: Sequence[int]
    precision: Precision
    device: str
    channels_last: bool = False
    compile: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    repeats: int = 3
    threads: int = 1
    memory_cap: float | None = None
    text: Mapping[str, Any] | None = None
    caption: str = ""

    @property
    def resolution(self) -> int:
        """Of its finest images."""
        return self.trajectory[0]

    @property
    def trainer(self) -> Recipe:
        """The recipe of a step, on one device."""
        return Recipe(
            steps=1,
            precision=self.precision,
            channels_last=self.channels_last,
            compile=self.compile,
            accelerator=self.device,
            **self.recipe,
        )

    def images(self, batch: int) -> int:
        """Of one step of training, or of one call of the sampler, with `batch` at once."""
        return batch * self.trainer.accumulate if self.what == "train" else batch

    @property
    def conditions(self) -> dict[str, Any]:
        """What a cost row says of how it was measured, also where nothing came of it."""
        return {
            "resolution": self.resolution,
            "trajectory": list(self.trajectory),
            "part": ALONE if self.alone else None,
            "device": self.device,
            "dtype": self.precision,
            "threads": self.threads if self.device == "cpu" else None,
            "repeats": self.repeats,
            "channels_last": self.channels_last,
        }


class Trained:
    """Steps of the stage that a case trains; memory: weights, gradients, the optimizer's state and
    the averages."""

    def __init__(self, case: Case, stage: Diffusion, batch: int, fabric: Any):
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

    def told(self, seconds: float) -> dict[str, Any]:
        """seconds: of a step, the median. `train_batch`: images of a step."""
        compile_s = max(0.0, self.first - seconds) if self.case.compile else None
        return {"train_batch": self.case.images(self.batch), "compile_s": compile_s}


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


def trajectories(method: Method) -> list[tuple[int, ...]]:
    """The resolutions at which a method makes images, those of one trajectory together."""
    makers = [method.at(side) for side in method.resolutions]
    return [
        tuple(s for s, other in zip(method.resolutions, makers, strict=True) if other is maker)
        for i, maker in enumerate(makers)
        if all(maker is not before for before in makers[:i])
    ]


def built(case: Case) -> Diffusion:
    """The untrained stage that a case is about, on its device."""
    dtype = case.trainer.dtype if case.what == "train" else torch.float32
    method = methods.build(case.method, offered=case.facts).to(torch.device(case.device), dtype)
    if case.channels_last:
        method = method.to(memory_format=torch.channels_last)
    for stage in method.stages:
        stage.untrained()
    stage = method.at(case.resolution)
    if case.alone:
        assert isinstance(stage, Diffusion)
        stage = stage.tail(len(stage.resolutions) - stage.resolutions.index(case.resolution))
    assert isinstance(stage, Diffusion)
    return stage


def serve(lines: Iterable[str], say: Callable[[Mapping[str, Any]], None]) -> None:
    """The process of a case: lines with the case and a batch size, then any number of "repeat" and
    "memory", then "told" with the median seconds; each is answered by a line. Lack of memory is an
    answer too, and the last. While it waits it leaves to others what it can of a GPU's memory."""
    asked = iter(lines)
    case = Case(**json.loads(next(asked)))
    batch = int(next(asked))
    device = torch.device(case.device)
    torch.set_num_threads(case.threads)
    training = case.what == "train"
    fabric = fabric_of(case.trainer, alone=True) if training else None  # a library of 100 MiB
    meter = MemoryMeter(device)
    try:
        if device.type == "cuda" and case.memory_cap is not None:
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, case.memory_cap * MIB / whole))
        stage = built(case)
        work = Trained(case, stage, batch, fabric) if training else Sampled(case, stage, batch)
        work.warm()
        release(device)
        say({})
        for line in asked:
            what, *given = line.split()
            if what == "repeat":
                if device.type == "cuda":  # allocations are no part of the time
                    work.wake()
                answer = work.repeat()
            elif what == "memory":
                answer = vars(meter.peak())
            else:
                answer = work.told(*map(float, given))
            release(device)
            say(answer)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say({"failure": f"{OUT_OF_MEMORY} at batch {batch}"})


def release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    serve(sys.stdin, lambda answer: print(json.dumps(answer), file=out))


if __name__ == "__main__":
    main()
