"""The process of one case: `python -m benchmarks.cost.work`, driven by `benchmarks.cost.worker`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from benchmarks.cost.cases import OUT_OF_MEMORY, Case
from benchmarks.cost.sampling import SamplingTimer
from benchmarks.cost.steps import TrainingTimer
from hierdiff.heap import keep_freed_memory
from hierdiff.methods import Generator, methods
from hierdiff.metrics.cost import MIB, MemoryMeter, is_out_of_memory
from hierdiff.training.fabric import fabric_of
from hierdiff.training.layout import with_channels_last


def untrained_stage(case: Case) -> Generator:
    """The untrained stage of a case, on its device."""
    dtype = case.trainer.dtype if case.what == "train" else torch.float32
    method = methods.build(case.method, offered=case.facts).to(torch.device(case.device), dtype)
    if case.channels_last:
        with_channels_last(method)
    for stage in method.stages:
        stage.start_untrained()
    stage = method.at(case.finest)
    if case.alone:
        stage = stage.tail(len(stage.resolutions) - stage.resolutions.index(case.finest))
    return stage


def serve(lines: Iterable[str], say: Callable[[Mapping[str, Any]], None]) -> None:
    """Answers lines of commands.

    The first two lines are the case (JSON) and a batch size; then come any number of "repeat" and
    "memory", and "describe" with the median seconds. `say` is called once for each, and at last
    with a "failure" where memory runs out. Between commands the process frees what it can of a
    GPU's memory for others.
    """
    lines = iter(lines)
    case = Case(**json.loads(next(lines)))
    batch = int(next(lines))
    device = torch.device(case.device)
    torch.set_num_threads(case.threads)
    training = case.what == "train"
    fabric = fabric_of(case.trainer, alone=True) if training else None  # a library of 100 MiB
    meter = MemoryMeter(device)
    try:
        if device.type == "cuda" and case.memory_cap is not None:
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, case.memory_cap * MIB / whole))
        stage = untrained_stage(case)
        work = (
            TrainingTimer(case, stage, batch, fabric)
            if training
            else SamplingTimer(case, stage, batch)
        )
        work.warm()
        release(device)
        say({})
        for line in lines:
            what, *numbers = line.split()
            if what == "repeat":
                if device.type == "cuda":  # memory is allocated before the timing
                    work.wake()
                answer = work.repeat()
            elif what == "memory":
                answer = vars(meter.peak())
            else:
                answer = work.describe(*map(float, numbers))
            release(device)
            say(answer)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say({"failure": f"{OUT_OF_MEMORY} at batch {batch}"})


def release(device: torch.device) -> None:
    """Gives cached GPU memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Serves stdin; answers are the only lines on stdout."""
    keep_freed_memory()  # as the commands that train and sample
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    serve(sys.stdin, lambda answer: print(json.dumps(answer), file=out))


if __name__ == "__main__":
    main()
