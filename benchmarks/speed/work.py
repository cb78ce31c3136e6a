"""The process of one measurement: `python -m benchmarks.speed.work`, driven by its `__main__`.

Reads one JSON object on stdin, {"task": ..., "case": ..., ...}, and writes one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.speed.case import Case
from benchmarks.speed.pair import SIDES, WARMUP, recipe_of, timed_pair, untrained
from benchmarks.speed.profile import profiled
from hierdiff.metrics.cost import MemoryMeter, is_out_of_memory
from hierdiff.training.fabric import fabric_of


def memory_of(case: Case, side: str) -> dict[str, float | None]:
    """The peak of the steps of one side alone in this process, MiB; `own`: without the libraries.

    On a CPU it is that of the process, and `own` is what it takes above a process that has imported
    all and built nothing: weights, gradients, optimizer, averages, activations. On a GPU both are
    those of its allocator.
    """
    fabric_of(recipe_of(case), alone=True)  # imports 100 MiB, which the twin does not need
    meter = MemoryMeter(case.device)
    step = SIDES[side](case, untrained(case))
    for _ in range(WARMUP + 1):
        step()
    peak = meter.peak()
    if peak.allocated is not None:
        return {"peak": peak.allocated, "own": peak.allocated}
    assert peak.host is not None and peak.host_baseline is not None
    return {"peak": peak.host, "own": peak.host - peak.host_baseline}


TASKS: dict[str, Callable[..., Mapping[str, Any]]] = {
    "pair": timed_pair,
    "memory": memory_of,
    "profile": profiled,
}


def answer(question: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers of a task, or its failure where memory runs out."""
    case = Case(**question["case"])
    torch.set_num_threads(case.threads)
    options = {key: value for key, value in question.items() if key not in ("task", "case")}
    try:
        return TASKS[question["task"]](case, **options)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {"failure": "out of memory"}


def main() -> None:
    """Answers stdin; the answer is the only line on stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    print(json.dumps(answer(json.load(sys.stdin))), file=out)


if __name__ == "__main__":
    main()
