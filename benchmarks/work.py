"""What a method does while its cost is measured: steps of training, samples, and their parts.

Weights are untrained and images random. `python -m benchmarks.work` is the process of one case, and
is asked by `benchmarks.cost`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from benchmarks.measure import autocast
from hierdiff.batch import Batch, Cond
from hierdiff.images import to_uint8
from hierdiff.levels import Levels
from hierdiff.method import Diffusion, Stage, methods
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
from hierdiff.text import TextEncoder, encoders
from hierdiff.training.step import column_of, only

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
    """Steps of a stage as the trainer makes them: every turn's loss, gradients, AdamW, an average.

    facts: of the data. batch: images. Called with the number of a step inside the stage.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        facts: Mapping[str, Any],
        batch: int,
        precision: str,
        channels_last: bool = False,
        compiled: bool = False,
    ):
        self.stage, self.precision = stage, precision
        self.device = next(stage.parameters()).device
        self.noise = noise_on(self.device)
        side, channels = stage.resolutions[0], facts["channels"]
        images = self.noise((batch, channels, side, side)).clamp(-1, 1)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        cond = stage.complete(Cond(), batch) if isinstance(stage, Diffusion) else Cond()
        self.raw = Batch(images, cond)
        self.batch = stage.fed(self.raw)
        self._column: Any = column_of
        if compiled and stage.compiles:
            self._column = torch.compile(column_of, fullgraph=True)
        self.turns = []
        for turn in stage.turns:
            parameters = [p for p in turn.module.parameters() if p.requires_grad]
            average = [p.detach().clone() for p in parameters]
            self.turns.append((turn.name, parameters, torch.optim.AdamW(parameters), average))

    def __call__(self, step: int = 0) -> None:
        for name, moved, optimizer, average in self.turns:
            with only(self.stage, moved):
                draws = self.stage.draw(self.batch, self.noise)
                with autocast(self.device, self.precision):
                    column, _ = self._column(self.stage, self.batch, draws, name, step)
                column[0].backward()
            nn.utils.clip_grad_norm_(moved, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            torch._foreach_lerp_(average, [p.detach() for p in moved], 0.01)

    def prepare(self) -> None:
        """What the stage's data does once for a batch of images, before the first step."""
        self.stage.fed(self.raw)


@dataclass(frozen=True)
class Case:
    """method, facts: node and data facts. what: "train" or "sample". batches: sizes to try, rising.
    device: "cpu" or "cuda". memory_cap: MiB, None for what the machine has. text: node of the text
    encoder, whose time for one image's caption is told apart, with an example of a caption."""

    method: Mapping[str, Any]
    facts: Mapping[str, Any]
    resolution: int
    what: str
    batches: Sequence[int]
    precision: str
    device: str
    channels_last: bool = False
    compile: bool = False
    repeats: int = 3
    threads: int = 1
    memory_cap: float | None = None
    text: Mapping[str, Any] | None = None
    caption: str = ""

    @property
    def conditions(self) -> dict[str, Any]:
        """What a cost row says of how it was measured, also where nothing came of it."""
        return {
            "resolution": self.resolution,
            "device": self.device,
            "dtype": self.precision,
            "threads": self.threads if self.device == "cpu" else None,
            "repeats": self.repeats,
            "channels_last": self.channels_last,
        }


class Trained:
    """Steps of the stage that a case trains; memory: weights, gradients, moments, one average."""

    def __init__(self, case: Case, stage: Diffusion, batch: int):
        self.case, self.batch = case, batch
        self.device = torch.device(case.device)
        self.steps = Steps(
            stage,
            facts=case.facts,
            batch=batch,
            precision=case.precision,
            channels_last=case.channels_last,
            compiled=case.compile,
        )

    def warm(self) -> None:
        self.first = seconds_of(self.steps, self.device)
        self.wake()

    def wake(self) -> None:
        for _ in range(WARMUP - 1):
            self.steps()

    def repeat(self) -> dict[str, float]:
        return {"seconds": seconds_of(self.steps, self.device)}

    def told(self, seconds: float) -> dict[str, Any]:
        """seconds: of a step, the median."""
        compile_s = max(0.0, self.first - seconds) if self.case.compile else None
        return {"train_batch": self.batch, "compile_s": compile_s}


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
            "evaluations": sum(part.evaluations for part in chain),
            "energy_j": None if energy is None else energy / self.batch,
            "breakdown": [*parts, {"name": "rest", "seconds": max(0.0, rest)}],
        }

    def parts(self) -> Iterator[dict[str, Any]]:
        """Seconds and FLOPs for one image of each stage's network, of what guidance adds to it, of
        decoders and of the text encoder."""
        for part in self.stage.chain:
            state = tuple(self.noise((self.batch, *shape)) for shape in part.codec.shapes())
            once = self._taken(lambda p=part, x=state: call(p, x))  # type: ignore[misc]
            count, alone = flops_of_call(part, self.noise), without_guidance(part)
            yield _part(f"stage {part.name}", once, count, alone)
            if part.evaluations > alone:
                yield _part(f"guidance {part.name}", once, count, part.evaluations - alone)
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


def without_guidance(stage: Diffusion) -> int:
    """Network calls for one image if there were no guidance."""
    kept = stage.sampling
    stage.sampling = replace(kept, guidance=1.0)
    try:
        return stage.evaluations
    finally:
        stage.sampling = kept


def call(stage: Diffusion, x: Levels) -> Any:
    """One network call in the middle of a trajectory."""
    denoise = stage.denoise(stage.complete(Cond(), len(x[-1])))
    return denoise(x, stage.process.trajectory([0.5], x)[0], None)


def flops_of_sample(stage: Diffusion, text: TextEncoder | None = None) -> int:
    """Of one image: all network calls of all stages, decoders, and its caption."""
    noise = noise_on(stage.device)
    return flops_of_text(text) + sum(
        flops_of_call(part, noise) * part.evaluations + flops_of_decode(part, noise)
        for part in stage.chain
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


def built(case: Case) -> Diffusion:
    """The part of the untrained method that a case is about, on its device."""
    method = methods.build(case.method, offered=case.facts).to(torch.device(case.device))
    if case.channels_last:
        method = method.to(memory_format=torch.channels_last)
    for stage in method.stages:
        stage.untrained()
    stage = method.at(case.resolution)
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
    meter = MemoryMeter(device)
    try:
        if device.type == "cuda" and case.memory_cap is not None:
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, case.memory_cap * MIB / whole))
        work = (Trained if case.what == "train" else Sampled)(case, built(case), batch)
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
