"""The plan by which a method spends its budget: the steps of each stage, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hierdiff.training import Summary

TRAINING = ("images", "flops", "seconds")  # of all stages together


@dataclass(frozen=True)
class StagePlan:
    """The share of one stage.

    batch: images of a step. start: operations before its first step (images are encoded once).
    parts: successive pairs (steps, operations of each), None for unknown operations. seconds:
    predicted, None where no step was timed. pretrained: its weights come from another run, whose
    training is not counted.
    """

    name: str
    batch: int
    start: float
    parts: Sequence[tuple[int, float | None]]
    seconds: float | None = None
    pretrained: bool = False

    @property
    def steps(self) -> int:
        """All steps of the stage."""
        return sum(steps for steps, _ in self.parts)

    def flops(self, done: int | None = None) -> float | None:
        """Operations of the first `done` steps, None for all; None where they are unknown."""
        left = self.steps if done is None else done
        total = self.start if left else 0.0
        for steps, each in self.parts:
            if each is None:
                return None
            total += min(steps, left) * each
            left = max(0, left - steps)
        return total


@dataclass(frozen=True)
class Plan:
    """How a method spends its budget.

    match: the budgets, by name. steps: `trainer.steps`; sampler_steps: `sampler.steps`, None for a
    method that has none. flops_per_image: of sampling, None where unknown.
    """

    match: Mapping[str, float]
    steps: int
    sampler_steps: int | None
    stages: Sequence[StagePlan]
    flops_per_image: float | None

    def flops(self, stage: int | None = None, done: int | None = None) -> float | None:
        """Operations of the whole training, or of that up to step `done` of a stage; None where
        unknown."""
        if stage is None:
            return sum_or_none(part.flops() for part in self.stages)
        before = [part.flops() for part in self.stages[:stage]]
        return sum_or_none([*before, self.stages[stage].flops(done)])

    def training(self, summary: Summary) -> dict[str, Any]:
        """The training of a record: planned and spent, in all and by stage."""
        stages: list[dict[str, Any]] = []
        for part, steps, seconds in zip(
            self.stages, summary.stage_steps, summary.stage_seconds, strict=True
        ):
            spent = {"images": steps * part.batch, "flops": part.flops(steps), "seconds": seconds}
            about = {"name": part.name, "batch": part.batch, "pretrained": part.pretrained}
            stages.append({**about, "steps": steps, **spent})
        whole = self.flops()
        planned = {
            "images": sum(part.steps * part.batch for part in self.stages),
            "flops": whole,
            "seconds": sum_or_none(part.seconds for part in self.stages),
        }
        return {
            "steps": summary.steps,
            "images_per_s": summary.images_per_second,
            "plan": dict(self.match),
            "planned": planned,
            "spent": {key: sum_or_none(stage[key] for stage in stages) for key in TRAINING},
            "stages": [{**s, "share": s["flops"] / whole if whole else None} for s in stages],
        }


def sum_or_none(amounts: Iterable[float | None]) -> float | None:
    """The sum; None where one amount is unknown."""
    terms = list(amounts)
    known = [amount for amount in terms if amount is not None]
    return sum(known) if len(known) == len(terms) else None
