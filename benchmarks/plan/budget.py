"""Budgets that methods share, and the plan by which a method spends one.

A comparison is fair along one axis at a time: equal images, equal floating-point operations or
equal seconds of training; equal operations or equal latency for one image. A budget of training
decides `trainer.steps` and nothing else, so that the stages of a method keep the proportions of its
recipe (its shares and batch sizes), and the sum over all of them meets the budget: each stage of a
cascade, each stage of a grown network at its own cost, a first pass of self-conditioning, both
turns of an adversarial stage before and after its discriminator starts, the encoding of the images
for a latent stage. A budget of sampling decides `sampler.steps`.

Operations are counted on the meta device, where tensors have shapes and no values: forward and
backward, 2 for a multiply-add; those of a network that cannot run there are unknown (None). Seconds
are those of a few steps on this machine. A stage whose weights come from another run is marked as
pretrained and not counted.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.plan.plan import TRAINING, Plan, StagePlan
from benchmarks.plan.prices import (
    Prices,
    Work,
    attempt,
    flops_of_image,
    in_operations,
    in_seconds,
    latency_of_image,
    node_with_steps,
)
from benchmarks.plan.stops import NotCounted
from benchmarks.settings import Match
from hierdiff.files.digest import read_json, write_json
from hierdiff.methods import Method
from hierdiff.prepared import Prepared
from hierdiff.results.plain import content_hash, plain
from hierdiff.training.run import stage_steps

log = logging.getLogger(__name__)
FILE = "plan.json"
SAMPLING = ("flops_per_image", "latency")  # latency: seconds for one image alone
BY_CLOCK = ("seconds", "latency")
INSTEAD = {
    "flops": "images",
    "flops_per_image": "latency",
}  # similar budgets that need no operations
CLOSE = 0.02  # the log warns of a plan that misses its budget by more
FEW, MORE = 2, 6  # sampler steps between which a latency is interpolated
COUNTABLE = 10**15  # the most steps that a budget may pay for
MOST = 10**6  # a stage that has no step out of so many is refused


def make_plan(run: Prepared, match: Match, folder: Path, *, dry: bool, timed: bool = False) -> Plan:
    """The plan of a run under its budgets.

    dry: computes on shapes alone and writes nothing; a budget of time is then ignored, unless
    `timed`, which times some steps and predicts seconds. Otherwise the decision is written to
    `folder`, so that a resumed run keeps its plan.

    Raises:
        ValueError: for two budgets of one kind, one that pays for no step, one that nothing depends
            on, or one of operations that cannot be counted; for a network that stops.
    """
    budgets = budgets_of(match)
    file = PlanFile(folder / FILE, run, budgets)
    if dry and not timed and not file.decision:
        budgets = without_times(budgets)
    operations = Prices(run, in_operations)
    clock = Prices(run, in_seconds) if timed or (not dry and "seconds" in budgets) else None
    work: Sequence[Work]
    image: float | None
    try:
        steps, sampler_steps = file.decision or decide_steps(run, budgets, operations, clock)
        work, image = operations.work(steps), flops_of_image(run, sampler_steps)
    except NotCounted as error:
        attempt(run)
        check_countable(budgets, error)
        log.warning("operations are not counted: %s", error)
        work = [(0.0, [(n, None)] if n else []) for n in operations.counts(steps)]
        image = None
    seconds = clock.by_stage(steps) if clock else [None] * len(work)
    stages = [
        StagePlan(stage.name, batch, start, parts, expected, pretrained=stage.pretrained)
        for stage, batch, (start, parts), expected in zip(
            run.method.stages, operations.batches, work, seconds, strict=True
        )
    ]
    if budgets and not dry and not file.decision:
        file.write(steps, sampler_steps)
    return Plan(budgets, steps, sampler_steps, stages, image)


def with_plan(run: Prepared, plan: Plan) -> Prepared:
    """`run` with the steps of its plan, where a budget has decided them; its method stays."""
    if not plan.match:
        return run
    config = {
        **run.config,
        "trainer": {**run.config["trainer"], "steps": plan.steps},
        "method": node_with_steps(run, plan.sampler_steps),
    }
    return replace(run, recipe=replace(run.recipe, steps=plan.steps), config=config)


def without_times(budgets: Mapping[str, float]) -> dict[str, float]:
    """The budgets that can be met without timing; the log says why the others are left out."""
    for name in [name for name in BY_CLOCK if name in budgets]:
        log.warning(
            "match.%s=%g is met by timing steps, which --dry-run=time does: the plan shows the "
            "steps as they are set", name, budgets[name],
        )  # fmt: skip
    return {name: amount for name, amount in budgets.items() if name not in BY_CLOCK}


def check_countable(budgets: Mapping[str, float], error: NotCounted) -> None:
    """Refuses a budget of operations that cannot be counted.

    Raises:
        ValueError: from `error`, with the budget to take instead.
    """
    needed = next((name for name in INSTEAD if name in budgets), None)
    if needed is not None:
        raise ValueError(
            f"match.{needed}={budgets[needed]:g} needs operations, which cannot be counted: "
            f"{error}: take match.{INSTEAD[needed]}"
        ) from error


def decide_steps(
    run: Prepared, budgets: Mapping[str, float], operations: Prices, clock: Prices | None
) -> tuple[int, int | None]:
    """`trainer.steps` and `sampler.steps` (None for a method that has none) under the budgets.

    What no budget decides is as in the config. clock: None where no budget is one of time.

    Raises:
        ValueError: for a budget of sampling and a method without `sampling.steps`, or one that
            cannot be met.
    """
    steps, sampler_steps = run.recipe.steps, run.config["method"].get("sampling", {}).get("steps")
    total = {"images": operations.images, "flops": operations.total}
    if clock is not None:
        total["seconds"] = clock.total
    for name in (name for name in TRAINING if name in budgets):
        steps = solve_steps(total[name], budgets[name], f"match.{name}", run)
    for name in (name for name in SAMPLING if name in budgets):
        if sampler_steps is None:
            raise ValueError(
                f"match.{name}={budgets[name]:g}: {run.config['method']['name']} has no "
                f"sampling.steps that it could decide: leave it out"
            )
        sampler_steps = solve_sampler_steps(run, name, budgets[name])
    return steps, sampler_steps


def budgets_of(match: Match) -> dict[str, float]:
    """Amounts of the budgets that are set, by name.

    Raises:
        ValueError: for two budgets of one kind, or one that is not above 0.
    """
    budgets = match.amounts()
    for name, amount in budgets.items():
        if amount <= 0:
            raise ValueError(f"match.{name}={amount:g}: take more than 0, or null for no budget")
    for kind in (TRAINING, SAMPLING):
        both = [name for name in kind if name in budgets]
        if len(both) > 1:
            raise ValueError(
                f"budgets {' and '.join(f'match.{name}' for name in both)} contradict each other: "
                f"methods are equal in one of them, the others then differ; leave one"
            )
    return budgets


class PlanFile:
    """`plan.json` of a run: the steps that budgets have decided.

    decision: (`trainer.steps`, `sampler.steps`), None unless the file is of the same run and
    budgets.
    """

    def __init__(self, path: Path, run: Prepared, budgets: Mapping[str, float]):
        self.path = path
        node = {**run.config, "trainer": {**run.config["trainer"], "steps": None}}
        if "sampling" in node["method"]:
            free = {k: v for k, v in node["method"]["sampling"].items() if k != "steps"}
            node["method"] = {**node["method"], "sampling": free}
        self.key = content_hash(plain({"run": node, "match": budgets}, "plan", free=True))
        self.decision: tuple[int, int | None] | None = None
        try:
            content = read_json(path)
            if content["for"] == self.key:
                self.decision = (content["trainer.steps"], content["sampler.steps"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass

    def write(self, steps: int, sampler_steps: int | None) -> None:
        """Writes a decision for the next start of the same run."""
        steps_by_option = {"trainer.steps": steps, "sampler.steps": sampler_steps}
        write_json(self.path, {"for": self.key, **steps_by_option})


def solve_steps(total: Callable[[int], float], amount: float, what: str, run: Prepared) -> int:
    """The number of steps whose total is nearest to the amount.

    total: images, operations or seconds of so many steps, not falling; what: the budget's name, for
    errors. The log warns where the nearest total misses the amount by more than `CLOSE`.

    Raises:
        ValueError: where the amount pays for no step of some stage, for more than `COUNTABLE`
            steps, or for nothing.
    """
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
    """The least number of steps from which on every stage has at least one.

    Raises:
        ValueError: where a stage has none even of `MOST` steps.
    """
    stage_steps(method, MOST)
    # rounding changes the steps of a stage by less than one
    shares = [stage.share for stage in method.stages if stage.share > 0]
    enough = math.ceil(2 / min(shares)) if shares else 0
    return 1 + max((n for n in range(1, enough) if not _all_trained(method, n)), default=0)


def _all_trained(method: Method, steps: int) -> bool:
    try:
        stage_steps(method, steps)
    except ValueError:  # a stage would have none
        return False
    return True


def solve_sampler_steps(run: Prepared, what: str, amount: float) -> int:
    """`sampler.steps` whose operations or seconds for an image are nearest to the amount.

    Both are linear in the steps, so that two prices decide. what: one of `SAMPLING`.

    Raises:
        ValueError: where the price does not depend on the steps, or not one is paid for.
    """
    price = {"flops_per_image": flops_of_image, "latency": latency_of_image}[what]
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
