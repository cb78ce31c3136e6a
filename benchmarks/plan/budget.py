"""Budgets that methods share, and the plan by which a method spends one.

A comparison is fair along one axis at a time: equal images, equal floating-point operations or
equal seconds of training; equal operations or equal latency for one image. A budget of training
decides `trainer.steps` and nothing else, so that the stages of a method keep the proportions of its
recipe (its shares and batch sizes), and the sum over all of them meets the budget: each stage of a
cascade, each stage of a grown network at its own cost, a first pass of self-conditioning, both
turns of an adversarial stage before and after its discriminator starts, the encoding of the images
for a latent stage. A budget of sampling decides `sampler.steps`.

Operations are counted on shapes alone (the meta device, nothing is computed), forward and backward,
2 for a multiply-add; those of a network that cannot run there are unknown (None). Seconds are those
of a few steps on this machine. A stage whose weights come from another run is marked as pretrained
and not counted.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.plan.plan import TRAINING, Plan, StagePlan
from benchmarks.plan.prices import (
    NotCounted,
    Prices,
    Work,
    _image_flops,
    _latency,
    by_clock,
    on_shapes,
)
from hierdiff.files import read_json, write_json
from hierdiff.methods import Method
from hierdiff.results.plain import content_hash, plain
from hierdiff.train import Prepared
from hierdiff.training.run import stage_steps

log = logging.getLogger(__name__)
FILE = "plan.json"
SAMPLING = ("flops_per_image", "latency")  # latency: seconds for one image alone
BUDGETS = (*TRAINING, *SAMPLING)
BY_CLOCK = ("seconds", "latency")
INSTEAD = {"flops": "images", "flops_per_image": "latency"}  # budgets that count no operations
CLOSE = 0.02  # a plan that misses its budget by more is told
FEW, MORE = 2, 6  # sampler steps between which a latency is interpolated
COUNTABLE = 10**15  # steps that a budget may pay for
MOST = 10**6  # steps: a stage that has none of so many is refused


def planned(
    run: Prepared,
    match: Mapping[str, float | None],
    folder: Path,
    *,
    dry: bool,
    timed: bool = False,
) -> Plan:
    """The plan of a run under the budgets that are given (not None).

    dry: computes on shapes alone and leaves nothing, so that a budget of time is left open unless
    `timed`, which times steps and expects seconds. Else what was decided is kept in `folder`, so
    that a run that goes on keeps its plan. Errors: ValueError for two budgets of one kind, one that
    pays for no step, one that nothing depends on, one of operations that cannot be counted.
    """
    asked = checked(match)
    kept = Decided(folder / FILE, run, asked)
    if dry and not timed and not kept.found:
        for name in [name for name in BY_CLOCK if name in asked]:
            log.warning(
                "match.%s=%g is met by timing steps, which --dry-run=time does: the plan shows the "
                "steps as they are set", name, asked[name],
            )  # fmt: skip
        asked = {name: amount for name, amount in asked.items() if name not in BY_CLOCK}
    operations = Prices(run, on_shapes)
    clock = Prices(run, by_clock) if timed or (not dry and "seconds" in asked) else None
    work: Sequence[Work]
    image: float | None
    try:
        steps, sampler_steps = kept.found or decided(run, asked, operations, clock)
        work, image = operations.work(steps), _image_flops(run, sampler_steps)
    except NotCounted as error:
        needed = next((name for name in INSTEAD if name in asked), None)
        if needed is not None:
            raise ValueError(
                f"match.{needed}={asked[needed]:g} needs operations, which cannot be counted: "
                f"{error}: take match.{INSTEAD[needed]}"
            ) from error
        log.warning("operations are not counted: %s", error)
        work = [(0.0, [(n, None)] if n else []) for n in operations.counts(steps)]
        image = None
    seconds = clock.by_stage(steps) if clock else [None] * len(work)
    stages = [
        StagePlan(stage.name, batch, start, parts, expected, pretrained=stage.weights is not None)
        for stage, batch, (start, parts), expected in zip(
            run.method.stages, operations.batches, work, seconds, strict=True
        )
    ]
    if asked and not dry and not kept.found:
        kept.keep(steps, sampler_steps)
    return Plan(asked, steps, sampler_steps, stages, image)


def decided(
    run: Prepared, asked: Mapping[str, float], operations: Prices, clock: Prices | None
) -> tuple[int, int]:
    """`trainer.steps` and `sampler.steps`; what no budget decides is as the run has it."""
    steps, sampler_steps = run.recipe.steps, run.config["method"]["sampling"]["steps"]
    total = {"images": operations.images, "flops": operations.total}
    if clock is not None:
        total["seconds"] = clock.total
    for name in (name for name in TRAINING if name in asked):
        steps = solved(total[name], asked[name], f"match.{name}", run)
    for name in (name for name in SAMPLING if name in asked):
        sampler_steps = sampled(run, name, asked[name])
    return steps, sampler_steps


def checked(match: Mapping[str, float | None]) -> dict[str, float]:
    """The budgets that are given."""
    asked = {name: float(amount) for name, amount in match.items() if amount is not None}
    for name, amount in asked.items():
        if amount <= 0:
            raise ValueError(f"match.{name}={amount:g}: take more than 0, or null for no budget")
    for kind in (TRAINING, SAMPLING):
        both = [name for name in kind if name in asked]
        if len(both) > 1:
            raise ValueError(
                f"budgets {' and '.join(f'match.{name}' for name in both)} contradict each other: "
                f"methods are equal in one of them, the others then differ; leave one"
            )
    return asked


class Decided:
    """`plan.json` of a run: what a budget decided, for the run and budgets that it was asked of."""

    def __init__(self, path: Path, run: Prepared, asked: Mapping[str, float]):
        self.path = path
        node = {**run.config, "trainer": {**run.config["trainer"], "steps": None}}
        free = {k: v for k, v in node["method"]["sampling"].items() if k != "steps"}
        node["method"] = {**node["method"], "sampling": free}
        self.key = content_hash(plain({"run": node, "match": asked}, "plan", free=True))
        self.found: tuple[int, int] | None = None
        try:
            kept = read_json(path)
            if kept["for"] == self.key:
                self.found = (kept["trainer.steps"], kept["sampler.steps"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass

    def keep(self, steps: int, sampler_steps: int) -> None:
        told = {"for": self.key, "trainer.steps": steps, "sampler.steps": sampler_steps}
        write_json(self.path, told)


def solved(total: Callable[[int], float], amount: float, what: str, run: Prepared) -> int:
    """The steps whose total is nearest to the amount."""
    least = fewest(run.method)
    if total(least) > (1 + CLOSE) * amount:
        raise ValueError(
            f"{what}={amount:g} does not pay for {run.config['method']['name']}, whose stages need "
            f"{total(least):.3g} for a step each: give more"
        )
    high = least
    while total(high) < amount:
        high *= 2
        if high > COUNTABLE:
            raise ValueError(
                f"{what}={amount:g} pays for more than {COUNTABLE:.0e} steps of "
                f"{run.config['method']['name']}: give less"
            )
        if total(high) == total(high // 2):
            raise ValueError(f"{what}={amount:g}: nothing is trained that it could pay for")
    above = bisect_left(range(high + 1), amount, lo=least, key=total)
    steps = min((n for n in (above - 1, above) if n >= least), key=lambda n: abs(total(n) - amount))
    if abs(total(steps) - amount) > CLOSE * amount:
        log.warning(
            "%s=%g: the nearest plan has %.3g (%d steps): a budget of few steps cannot be met "
            "closely", what, amount, total(steps), steps,
        )  # fmt: skip
    return steps


def fewest(method: Method) -> int:
    """The steps from which on every stage has some. Error: ValueError where there are none."""
    stage_steps(method, MOST)
    # rounding takes less than one step of a stage
    enough = math.ceil(2 / min(stage.share for stage in method.stages if stage.share > 0))
    return 1 + max((n for n in range(1, enough) if not _possible(method, n)), default=0)


def _possible(method: Method, steps: int) -> bool:
    try:
        stage_steps(method, steps)
    except ValueError:  # a stage would have none
        return False
    return True


def sampled(run: Prepared, what: str, amount: float) -> int:
    """`sampler.steps` whose operations or seconds for an image are nearest to the amount: both
    are linear in it."""
    price = {"flops_per_image": _image_flops, "latency": _latency}[what]
    low, high = (price(run, steps) for steps in (FEW, MORE))
    slope = (high - low) / (MORE - FEW)
    if slope <= 0:
        raise ValueError(
            f"match.{what}={amount:g}: it does not depend on sampler.steps here, which the stages "
            f"state each for itself: leave it out there, or match something else"
        )
    steps = round(FEW + (amount - low) / slope)
    if steps < 1:
        raise ValueError(
            f"match.{what}={amount:g} does not pay for one sampler step of "
            f"{run.config['method']['name']} ({low - (FEW - 1) * slope:.3g}): give more"
        )
    return steps
