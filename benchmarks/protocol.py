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
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.formats import said
from benchmarks.measure import caption_of
from benchmarks.work import (
    META,
    Case,
    Sampled,
    Shapes,
    Steps,
    built,
    device_for,
    flops_of_sample,
    flops_of_text,
    trajectories,
)
from hierdiff.denoisers.protocol import Unpredicted
from hierdiff.files import read_json, write_json
from hierdiff.methods import Diffusion, Method, Stage, methods
from hierdiff.metrics.cost import flops, time_call
from hierdiff.record import content_hash, plain
from hierdiff.train import Prepared
from hierdiff.training import Summary
from hierdiff.training.fabric import fabric_of
from hierdiff.training.run import stage_steps

log = logging.getLogger(__name__)

FILE = "plan.json"
TRAINING = ("images", "flops", "seconds")  # of all stages together
SAMPLING = ("flops_per_image", "latency")  # latency: seconds for one image alone
BUDGETS = (*TRAINING, *SAMPLING)
BY_CLOCK = ("seconds", "latency")
INSTEAD = {"flops": "images", "flops_per_image": "latency"}  # budgets that count no operations
CLOSE = 0.02  # a plan that misses its budget by more is told
TIMED = 4  # steps, or samples, of which the median is taken
FEW, MORE = 2, 6  # sampler steps between which a latency is interpolated
COUNTABLE = 10**15  # steps that a budget may pay for
MOST = 10**6  # steps: a stage that has none of so many is refused


@dataclass(frozen=True)
class StagePlan:
    """What one stage is given.

    batch: images of a step. start: operations before its first step (images are encoded once).
    parts: pairs (steps, operations of one) one after another, None for unknown operations. seconds:
    expected, None where no step was timed. pretrained: it stands on weights of another run, whose
    training nobody counts here.
    """

    name: str
    batch: int
    start: float
    parts: Sequence[tuple[int, float | None]]
    seconds: float | None = None
    pretrained: bool = False

    @property
    def steps(self) -> int:
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

    match: the budgets asked for, by name. steps: `trainer.steps`; sampler_steps: `sampler.steps`.
    flops_per_image: of sampling, None where unknown.
    """

    match: Mapping[str, float]
    steps: int
    sampler_steps: int
    stages: Sequence[StagePlan]
    flops_per_image: float | None

    def flops(self, stage: int | None = None, done: int | None = None) -> float | None:
        """Operations of training, all of them, or up to step `done` of a stage; None: unknown."""
        if stage is None:
            return in_all(part.flops() for part in self.stages)
        before = [part.flops() for part in self.stages[:stage]]
        return in_all([*before, self.stages[stage].flops(done)])

    def training(self, summary: Summary) -> dict[str, Any]:
        """What a record says of the training: planned and spent, in all and by stage."""
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
            "seconds": in_all(part.seconds for part in self.stages),
        }
        return {
            "steps": summary.steps,
            "images_per_s": summary.images_per_second,
            "plan": dict(self.match),
            "planned": planned,
            "spent": {key: in_all(stage[key] for stage in stages) for key in TRAINING},
            "stages": [{**s, "share": s["flops"] / whole if whole else None} for s in stages],
        }


def in_all(amounts: Iterable[float | None]) -> float | None:
    """The sum; None where one is unknown."""
    found = list(amounts)
    return None if None in found else sum(found)  # type: ignore[arg-type]


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


# ---------------------------------------------------------------- what a step costs


Price = Callable[[Stage, Prepared, int], Callable[[int | None], float]]
# before the first step of a stage; (steps, price of one) one after another
Work = tuple[float, Sequence[tuple[int, float | None]]]


class NotCounted(Exception):
    """A network cannot run on shapes alone; the message says why."""


@contextmanager
def counted(run: Prepared) -> Iterator[None]:
    """Around what runs on shapes alone. Error: NotCounted for whatever stops it, and `Unpredicted`,
    which no device would accept."""
    try:
        yield
    except Unpredicted:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
        raise NotCounted(
            f"on shapes alone (the meta device) {run.config['method']['name']} stops with {why}"
        ) from error


def on_shapes(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """Operations of a step by its number in the stage; None: of encoding the images of a step."""
    recipe = replace(run.recipe, precision="32-true", compile=False)
    with torch.device(META):
        steps = Steps(Shapes(), stage, recipe, facts=run.data.facts, images=batch)
    return lambda step: flops(steps.prepare if step is None else lambda: steps(step))


def by_clock(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """Seconds of a step, likewise."""
    fabric = fabric_of(run.recipe, alone=True)
    steps = Steps(fabric, stage, run.recipe, facts=run.data.facts, images=batch)

    def price(step: int | None) -> float:
        fn = steps.prepare if step is None else lambda: steps(step)
        return time_call(fn, warmup=2, repeats=TIMED, device=steps.device).median

    return price


class Prices:
    """What training costs, by the number of steps; the work of each kind of step is found once."""

    def __init__(self, run: Prepared, price: Price):
        self.run, self.price = run, price
        self.batches = [s.batch_size or run.recipe.batch_size for s in run.method.stages]
        self._of: dict[int, Callable[[int | None], float]] = {}
        self._known: dict[tuple[int, int], float] = {}

    @cached_property
    def method(self) -> Method:
        if self.price is on_shapes:
            return shapes_alone(self.run)
        return untrained(self.run.config["method"], self.run).to(device_of(self.run))

    def counts(self, steps: int) -> list[int]:
        return stage_steps(self.run.method, steps)

    def images(self, steps: int) -> float:
        return sum(n * batch for n, batch in zip(self.counts(steps), self.batches, strict=True))

    def total(self, steps: int) -> float:
        return sum(self.by_stage(steps))

    def by_stage(self, steps: int) -> list[float]:
        return [start + sum(n * each for n, each in parts) for start, parts in self.work(steps)]

    def work(self, steps: int) -> list[tuple[float, list[tuple[int, float]]]]:
        """Of each stage what it costs before its first step, and pairs (steps, price of one)."""
        counts = self.counts(steps)
        with counted(self.run) if self.price is on_shapes else nullcontext():
            return [
                (self._start(index) if n else 0.0, self._parts(index, n))
                for index, n in enumerate(counts)
            ]

    def _parts(self, index: int, steps: int) -> list[tuple[int, float]]:
        stage = self.method.stages[index]
        stage.steps = steps  # on which the marks may depend
        marks = [0, *sorted({mark for mark in stage.changes if 0 < mark < steps}), steps]
        spans = zip(marks, marks[1:], strict=False)
        return [(end - first, self._step(index, first)) for first, end in spans if end > first]

    def _step(self, index: int, step: int) -> float:
        kind = sum(mark <= step for mark in self.method.stages[index].changes)
        if (index, kind) not in self._known:
            self._known[index, kind] = self._price(index)(step)
        return self._known[index, kind]

    def _start(self, index: int) -> float:
        """Of encoding every training image, and its mirrored view where the data has one."""
        if (index, -1) not in self._known:
            views = len(self.run.part) * (2 if self.run.part.flip else 1)
            once = self._price(index)(None) if self._encodes(index) else 0.0
            self._known[index, -1] = once * views / self.batches[index]
        return self._known[index, -1]

    def _encodes(self, index: int) -> bool:
        stage = self.method.stages[index]
        return isinstance(stage, Diffusion) and stage.codec.network is not None

    def _price(self, index: int) -> Callable[[int | None], float]:
        if index not in self._of:
            self._of[index] = self.price(self.method.stages[index], self.run, self.batches[index])
        return self._of[index]


def untrained(node: Mapping[str, Any], run: Prepared) -> Method:
    """The method of a node with other weights than those of the run."""
    method = methods.build(node, offered=run.data.facts)
    for stage in method.stages:
        stage.untrained()
    return method


def shapes_alone(run: Prepared, sampler_steps: int | None = None) -> Method:
    """The method of a run on the meta device, and with other steps of its sampler."""
    node = run.config["method"] if sampler_steps is None else with_steps(run, sampler_steps)
    with torch.device(META):
        return untrained(node, run)


def with_steps(run: Prepared, sampler_steps: int) -> dict[str, Any]:
    """The node of the method with other steps of its sampler."""
    node = run.config["method"]
    return {**node, "sampling": {**node["sampling"], "steps": sampler_steps}}


def device_of(run: Prepared) -> torch.device:
    return device_for(run.recipe.accelerator)


# ---------------------------------------------------------------- how many steps a budget pays for


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


def _image_flops(run: Prepared, steps: int) -> float:
    caption = flops_of_text(run.data.text)
    with counted(run):
        method = shapes_alone(run, steps)
        stage = method.at(method.resolutions[0])
        assert isinstance(stage, Diffusion)
        return caption + flops_of_sample(stage)


def _latency(run: Prepared, steps: int) -> float:
    """Seconds for one image alone, as a cost row has them."""
    case = Case(
        method=with_steps(run, steps),
        facts=run.data.facts,
        trajectory=trajectories(run.method)[0],
        what="sample",
        batches=[1],
        precision=run.recipe.precision,
        device=device_of(run).type,
        channels_last=run.recipe.channels_last,
        text=run.config["text"],
        caption=caption_of(run.data.part("test")),
    )
    alone = Sampled(case, built(case), batch=1)
    alone.warm()
    return statistics.median(alone.repeat()["latency"] for _ in range(TIMED))


# ---------------------------------------------------------------- shown


def table(plans: Mapping[str, Plan]) -> Table:
    """A line for each stage of each method, and one for the whole."""
    out = Table(title="plan")
    for head in ("method", "stage", "steps", "batch", "images", "TFLOPs", "seconds"):
        out.add_column(head, justify="left" if head in ("method", "stage") else "right")
    for head in ("sampler steps", "GFLOPs/image"):
        out.add_column(head, justify="right")
    for name, plan in plans.items():
        for part in plan.stages:
            mark = " (pretrained)" if part.pretrained else ""
            out.add_row(said(name), said(part.name + mark), *_numbers([part]), "", "")
        whole = _numbers(plan.stages)
        image = _told(plan.flops_per_image, 1e9, ".3g")
        out.add_row(
            said(name),
            "all",
            *whole,
            str(plan.sampler_steps),
            image,
            style="bold",
            end_section=True,
        )
    return out


def _numbers(parts: Sequence[StagePlan]) -> Iterable[str]:
    yield f"{sum(part.steps for part in parts):,}"
    yield ", ".join(dict.fromkeys(str(part.batch) for part in parts))
    yield f"{sum(part.steps * part.batch for part in parts):,}"
    yield _told(in_all(part.flops() for part in parts), 1e12, ",.4g")
    yield _told(in_all(part.seconds for part in parts), 1, ",.0f")


def _told(amount: float | None, unit: float, form: str) -> str:
    return "–" if amount is None else f"{amount / unit:{form}}"
