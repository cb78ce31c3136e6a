"""What a step of training and a sample cost, in operations or in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from benchmarks.conditions import example_caption
from benchmarks.cost.cases import cases_of, trajectories
from benchmarks.cost.sampling import SamplingTimer, flops_of_sample, flops_of_text
from benchmarks.cost.work import untrained_stage
from benchmarks.device import device_of
from benchmarks.plan.stops import counting, naming_network
from benchmarks.settings import TimingOptions
from hierdiff.methods import Method, Stage, methods
from hierdiff.metrics.cost import flops, time_call
from hierdiff.prepared import Prepared
from hierdiff.training.check import check_trainable
from hierdiff.training.fabric import fabric_of
from hierdiff.training.run import stage_steps
from hierdiff.training.untrained import META, ShapeFabric, UntrainedSteps

REPEATS = 4  # timings of a step or a sample, of which the median is taken
TRIED = 2  # images of a step that is tried: norms over a batch need more than one
Price = Callable[[Stage, Prepared, int], Callable[[int | None], float]]
# price before the first step of a stage; successive pairs (steps, price of each)
Work = tuple[float, Sequence[tuple[int, float | None]]]


def in_operations(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """A function from the number of a step in the stage to its operations, and from None to those
    of encoding the images of a step; what is computed twice to save memory counts once."""
    recipe = replace(run.recipe, precision="32-true", compile=False, recompute=False)
    with torch.device(META):
        steps = UntrainedSteps(ShapeFabric(), stage, recipe, facts=run.data.facts, images=batch)
    return lambda step: flops(partial(steps, step))


def in_seconds(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """A function from the number of a step in the stage to its seconds, and from None to those of
    encoding the images of a step."""
    fabric = fabric_of(run.recipe, alone=True)
    steps = UntrainedSteps(fabric, stage, run.recipe, facts=run.data.facts, images=batch)
    timed = partial(time_call, warmup=2, repeats=REPEATS, device=steps.device)
    return lambda step: timed(partial(steps, step)).median


def once(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """As `in_seconds`, of a price that is 0: what it makes of a few images has only to work."""
    recipe = replace(run.recipe, compile=False, accumulate=1)
    fabric, images = fabric_of(recipe, alone=True), min(batch, TRIED)
    steps = UntrainedSteps(fabric, stage, recipe, facts=run.data.facts, images=images)

    def price(step: int | None) -> float:
        steps(step)
        return 0.0

    return price


class Prices:
    """What training costs by the number of steps; each kind of step is measured once.

    price: `in_operations`, `in_seconds` or `once`. batches: images of a step, by stage.
    """

    def __init__(self, run: Prepared, price: Price):
        self.run, self.price = run, price
        self.batches = [s.batch_size or run.recipe.batch_size for s in run.method.stages]
        self._of: dict[int, Callable[[int | None], float]] = {}
        self._known: dict[tuple[int, int], float] = {}

    @cached_property
    def method(self) -> Method:
        """A second, untrained method to measure: on the meta device for operations."""
        if self.price is in_operations:
            return build_on_shapes(self.run)
        return build_untrained(self.run.config["method"], self.run).to(device_of(self.run))

    def counts(self, steps: int) -> list[int]:
        """Steps of each stage."""
        return stage_steps(self.run.method, steps)

    def images(self, steps: int) -> float:
        """Training images of all stages."""
        return sum(n * batch for n, batch in zip(self.counts(steps), self.batches, strict=True))

    def total(self, steps: int) -> float:
        """The price of all stages."""
        return sum(self.by_stage(steps))

    def by_stage(self, steps: int) -> list[float]:
        """The price of each stage."""
        return [start + sum(n * each for n, each in parts) for start, parts in self.work(steps)]

    def work(self, steps: int) -> list[tuple[float, list[tuple[int, float]]]]:
        """Of each stage the price before its first step, and pairs (steps, price of each)."""
        counts = self.counts(steps)
        with (counting if self.price is in_operations else naming_network)(self.run):
            first = self._encoding(counts)
            return [
                (self._start(index) if index in first else 0.0, self._parts(index, n))
                for index, n in enumerate(counts)
            ]

    def _encoding(self, counts: Sequence[int]) -> set[int]:
        """The stages with steps before which images are encoded, of those with one encoder the
        first."""
        by_encoder: dict[int, int] = {}
        for index, (stage, n) in enumerate(zip(self.method.stages, counts, strict=True)):
            if n:
                by_encoder.setdefault(id(stage if stage.encoder is None else stage.encoder), index)
        return set(by_encoder.values())

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
        """The price of encoding every training image, and its mirrored view if the data has one."""
        if (index, -1) not in self._known:
            views = len(self.run.part) * (2 if self.run.part.flip else 1)
            self._known[index, -1] = self._price(index)(None) * views / self.batches[index]
        return self._known[index, -1]

    def _price(self, index: int) -> Callable[[int | None], float]:
        if index not in self._of:
            self._of[index] = self.price(self.method.stages[index], self.run, self.batches[index])
        return self._of[index]


def attempt(run: Prepared) -> None:
    """Tries what shapes alone cannot judge: one step of training of each kind, and each network
    call of a sample, as the run makes them on its device, on a few images of noise.

    Raises:
        ValueError: where a network stops; it names the network, its error and the shapes it was
            given. Where a stage has nothing to train.
    """
    prices = Prices(run, once)
    for stage in prices.method.stages:
        if stage.share:
            check_trainable(stage)
    prices.work(run.recipe.steps)
    with naming_network(run):
        flops_of_sample(prices.method.at(prices.method.resolutions[0]))


def build_untrained(node: Mapping[str, Any], run: Prepared) -> Method:
    """The method of a node with fresh weights; those of other runs are not read."""
    method = methods.build(node, offered=run.data.facts)
    for stage in method.stages:
        stage.start_untrained()
    return method


def build_on_shapes(run: Prepared, sampler_steps: int | None = None) -> Method:
    """The method of a run on the meta device; sampler_steps: None for those of the run."""
    node = node_with_steps(run, sampler_steps)
    with torch.device(META):
        return build_untrained(node, run)


def node_with_steps(run: Prepared, sampler_steps: int | None) -> dict[str, Any]:
    """The node of the method with other steps of its sampler; None leaves it as it is."""
    node = run.config["method"]
    if sampler_steps is None:
        return node
    return {**node, "sampling": {**node["sampling"], "steps": sampler_steps}}


def flops_of_image(run: Prepared, steps: int | None) -> float:
    """Operations of one finest image from its caption, with so many sampler steps."""
    caption = flops_of_text(run.data.text)
    with counting(run):
        method = build_on_shapes(run, steps)
        stage = method.at(method.resolutions[0])
        return caption + flops_of_sample(stage)


def latency_of_image(run: Prepared, steps: int) -> float:
    """Seconds for one image alone with so many sampler steps, as in a cost row."""
    config = {**run.config, "method": node_with_steps(run, steps)}
    timing = TimingOptions(batches=[1], memory_cap=None, repeats=REPEATS)
    caption, device = example_caption(run.data.part("test")), device_of(run).type
    _, case = cases_of(config, trajectories(run.method)[:1], timing, device, caption)
    alone = SamplingTimer(case, untrained_stage(case), batch=1)
    with naming_network(run):
        alone.warm()
    return statistics.median(alone.repeat()["latency"] for _ in range(REPEATS))
