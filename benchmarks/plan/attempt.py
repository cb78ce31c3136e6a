"""A network that shapes alone cannot judge is tried once, on a few images of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.cost.sampling import flops_of_sample
from benchmarks.plan.prices import Prices
from benchmarks.plan.stops import naming_network
from hierdiff.methods import Stage
from hierdiff.prepared import Prepared
from hierdiff.training.check import check_trainable
from hierdiff.training.fabric import fabric_of
from hierdiff.training.untrained import UntrainedSteps

IMAGES = 2  # of a step: norms over a batch need more than one


def attempt(run: Prepared) -> None:
    """One step of training of each kind, and each network call of a sample, as the run makes them
    on its device.

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


def once(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """A price (`benchmarks.plan.prices`) that is 0: what it makes has only to work."""
    recipe = replace(run.recipe, compile=False, accumulate=1)
    fabric, images = fabric_of(recipe, alone=True), min(batch, IMAGES)
    steps = UntrainedSteps(fabric, stage, recipe, facts=run.data.facts, images=images)

    def price(step: int | None) -> float:
        steps(step)
        return 0.0

    return price
