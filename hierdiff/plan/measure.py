"""The memory of a training step as it is measured here, on the CPU, beside its estimate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from hierdiff.methods import methods
from hierdiff.metrics.cost import MIB, MemoryMeter
from hierdiff.training.recipe import Recipe
from hierdiff.training.step import parameters_of
from hierdiff.training.untrained import noise_batch, noise_on

# every tensor is given back to the system when it is freed, so that a peak is that of tensors
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measured_peak(node: Mapping[str, Any], facts: Mapping[str, Any], images: int) -> float:
    """MiB that the first stage of a method takes for forward and backward of a batch in float32,
    beside its weights: the high-water mark of a process of its own.

    Raises:
        RuntimeError: where that process fails, with its words.
    """
    case = json.dumps({"node": node, "facts": facts, "images": images})
    ran = subprocess.run(
        [sys.executable, "-m", "hierdiff.plan.measure"],
        input=case, env={**os.environ, **RETURN_MEMORY}, capture_output=True, text=True,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"the step to be measured failed: {ran.stderr.strip()[-1000:]}")
    return float(ran.stdout.split()[-1])


def peak_here(node: Mapping[str, Any], facts: Mapping[str, Any], images: int) -> float:
    """`measured_peak` in this process, which must have done nothing large before."""
    torch.set_num_threads(1)
    recipe = Recipe(steps=1, accelerator="cpu", precision="32-true")
    method = methods.build(node, offered=facts)
    stage = method.stages[0].train()
    stage.start_untrained()

    def gradients(n: int) -> None:
        batch = stage.prepare_batch(noise_batch(stage, n, facts, recipe))
        draws = stage.draw_parts(batch, noise_on(stage.device))
        total = stage.loss_of_parts(batch, draws).total
        total.backward()

    gradients(1)  # what libraries allocate once
    for parameter in parameters_of(stage.turns[0]):
        parameter.grad = None
    meter = MemoryMeter("cpu")
    reset_peak()
    gradients(images)
    peak = meter.peak()
    assert peak.host is not None and peak.host_baseline is not None
    return peak.host - peak.host_baseline


def reset_peak() -> None:
    """The high-water mark of this process becomes its present size (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def error_of(estimate: float, measured: float) -> str:
    """An estimate in bytes and a measurement in MiB as one line."""
    there = measured * MIB
    return (
        f"estimated {estimate / MIB:.0f} MiB, measured {measured:.0f} MiB, "
        f"error {100 * (estimate - there) / there:+.0f} %"
    )


if __name__ == "__main__":
    print(peak_here(**json.load(sys.stdin)))
