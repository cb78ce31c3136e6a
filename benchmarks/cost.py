"""What a method costs at each resolution, each case in a fresh process.

The cost at a resolution is that of the part of the method that makes images up to it (`Method.at`),
with untrained weights: sampling goes through all stages of a cascade (parameters and FLOPs of an
image are their sums, FLOPs of a call those of the last) and through the decoder of a codec,
training is that of the last stage. A fresh process isolates allocator, caches and crashes, and on
CPU its high-water mark is the memory figure. `python -m benchmarks.cost` reads a case as JSON from
standard input and prints its numbers as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import autocast
from hierdiff.batch import Batch, Cond
from hierdiff.images import to_uint8
from hierdiff.method import Diffusion, methods
from hierdiff.metrics.cost import MemoryMeter, flops, parameters, time_call
from hierdiff.noise import Noise, from_generator, generator_of


@dataclass(frozen=True)
class Case:
    """method, facts: node and data facts. what: "train" or "sample". device: "cpu" or "cuda"."""

    method: Mapping[str, Any]
    facts: Mapping[str, Any]
    resolution: int
    what: str
    batch: int
    precision: str
    device: str
    channels_last: bool
    repeats: int
    threads: int


def measured(case: Case) -> dict[str, Any]:
    """Numbers of one case, in this process."""
    torch.set_num_threads(case.threads)
    device = torch.device(case.device)
    meter = MemoryMeter(device)
    method = methods.build(case.method, offered=case.facts).to(device)
    if case.channels_last:
        method = method.to(memory_format=torch.channels_last)
    for stage in method.stages:
        stage.untrained()
    stage = method.at(case.resolution)
    assert isinstance(stage, Diffusion)
    run = train_case if case.what == "train" else sample_case
    return run(case, stage, meter)


def train_case(case: Case, stage: Diffusion, meter: MemoryMeter) -> dict[str, Any]:
    """Steps of AdamW; memory: weights, gradients, two moments and one average of the weights."""
    device = torch.device(case.device)
    optimizer = torch.optim.AdamW(stage.parameters())
    average = [p.detach().clone() for p in stage.parameters()]
    side, channels = stage.resolutions[0], case.facts["channels"]
    noise = from_generator(generator_of(0, "cost"), device)
    images = noise((case.batch, channels, side, side)).clamp(-1, 1)
    if case.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    batch = stage.fed(Batch(images, stage.complete(Cond(), case.batch)))

    def step() -> None:
        draws = stage.draw(batch, noise)
        with autocast(device, case.precision):
            loss = stage(batch, draws)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [p.detach() for p in stage.parameters()], 0.01)

    timing = time_call(step, warmup=2, repeats=case.repeats, device=device)
    peak = meter.peak()
    return {
        "train_images_per_s": case.batch / timing.median,
        "train_noisy": timing.unsteady,
        "train_iqr_s": timing.iqr,
        "train_load": timing.load,
        "train_memory_mib": peak.host if device.type == "cpu" else peak.allocated,
        "train_memory_reserved_mib": peak.reserved,
        "train_memory_baseline_mib": peak.host_baseline,
    }


def sample_case(case: Case, stage: Diffusion, meter: MemoryMeter) -> dict[str, Any]:
    """End to end from noise to uint8; latency is that of one image alone."""
    device = torch.device(case.device)
    noise = from_generator(generator_of(0, "cost"), device)

    def sample(n: int, steps: int | None = None) -> None:
        with autocast(device, case.precision):
            images = stage.sample(n, noise=noise, steps=steps)
        _ = {side: to_uint8(x).cpu() for side, x in images.items()}

    sample(case.batch, steps=2)
    timing = time_call(lambda: sample(case.batch), warmup=0, repeats=case.repeats, device=device)
    peak = meter.peak()
    sample(1, steps=2)
    latency = time_call(lambda: sample(1), warmup=0, repeats=case.repeats, device=device)
    calls = [flops_of_call(part, noise, device) for part in stage.chain]
    decoded = sum(flops_of_decode(part, noise) for part in stage.chain)
    return {
        "device": case.device,
        "dtype": case.precision,
        "threads": case.threads if device.type == "cpu" else None,
        "batch": case.batch,
        "repeats": case.repeats,
        "channels_last": case.channels_last,
        "sample_images_per_s": case.batch / timing.median,
        "sample_noisy": timing.unsteady,
        "sample_iqr_s": timing.iqr,
        "sample_load": timing.load,
        "latency_s": latency.median,
        "latency_iqr_s": latency.iqr,
        "sample_memory_mib": peak.host if device.type == "cpu" else peak.allocated,
        "sample_memory_reserved_mib": peak.reserved,
        "sample_memory_baseline_mib": peak.host_baseline,
        "parameters": sum(
            parameters(module)
            for part in stage.chain
            for module in (part, part.codec.network)
            if module is not None
        ),
        "flops_per_call": calls[-1],
        "flops_per_image": decoded
        + sum(call * part.evaluations for call, part in zip(calls, stage.chain, strict=True)),
        "evaluations": sum(part.evaluations for part in stage.chain),
    }


@torch.no_grad()
def flops_of_decode(stage: Diffusion, noise: Noise) -> int:
    """From the state of one image to its pixels."""
    x = tuple(noise((1, *shape)) for shape in stage.codec.shapes())
    return flops(lambda: stage.codec.decode(x))


@torch.no_grad()
def flops_of_call(stage: Diffusion, noise: Noise, device: torch.device) -> int:
    """Of one network call for one image."""
    x = tuple(noise((1, *shape)) for shape in stage.codec.shapes())
    denoise = stage.denoise(stage.complete(Cond(), 1))
    return flops(lambda: denoise(x, torch.full((1,), 0.5, device=device), None))


def costs(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """One row for each resolution, from a fresh process for each case; a failure is its reason."""
    rows: dict[int, dict[str, Any]] = {}
    for case in cases:
        row = rows.setdefault(case.resolution, {"resolution": case.resolution})
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.cost"],
            input=json.dumps(vars(case)),
            capture_output=True,
            text=True,
        )
        if ended.returncode == 0:
            row |= json.loads(ended.stdout.splitlines()[-1])
        else:
            last = ended.stderr.strip().splitlines()
            row[f"{case.what}_failure"] = last[-1] if last else f"exit code {ended.returncode}"
    return list(rows.values())


if __name__ == "__main__":
    print(json.dumps(measured(Case(**json.load(sys.stdin)))))
