"""Training steps of a case, timed."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.cost.cases import Case
from hierdiff.methods import Stage
from hierdiff.metrics.cost import seconds_of
from hierdiff.training.untrained import UntrainedSteps

WARMUP = 2  # steps of training before the first that is timed


class TrainingTimer:
    """Times training steps of a stage, whose memory is that of weights, gradients, the optimizer
    and averages."""

    def __init__(self, case: Case, stage: Stage, batch: int, fabric: Any):
        self.case, self.batch = case, batch
        self.device = torch.device(case.device)
        images = case.images(batch)
        self.steps = UntrainedSteps(fabric, stage, case.trainer, facts=case.facts, images=images)

    def warm(self) -> None:
        """The first step, with its compilation, and those before the first timing."""
        self.first = seconds_of(self.steps, self.device)
        self.wake()

    def wake(self) -> None:
        """Untimed steps."""
        for _ in range(WARMUP - 1):
            self.steps()

    def repeat(self) -> dict[str, float]:
        """Seconds of a step."""
        return {"seconds": seconds_of(self.steps, self.device)}

    def describe(self, seconds: float) -> dict[str, Any]:
        """The rest of a cost row; seconds: median of a step."""
        compile_s = max(0.0, self.first - seconds) if self.case.compile else None
        return {"train_batch": self.case.images(self.batch), "compile_s": compile_s}
