"""A network that shapes alone cannot judge is tried once, on a few images of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree

from benchmarks.cost.sampling import flops_of_sample
from benchmarks.plan.prices import Prices
from hierdiff.config import one_line
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import PredictionError
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
    with naming_network(str(run.config["method"]["name"])):
        prices.work(run.recipe.steps)
        flops_of_sample(prices.method.at(prices.method.resolutions[0]))


def once(stage: Stage, run: Prepared, batch: int) -> Callable[[int | None], float]:
    """A price (`benchmarks.plan.prices`) that is 0: what it makes has only to work."""
    recipe = replace(run.recipe, compile=False, accumulate=1)
    fabric, images = fabric_of(recipe, alone=True), min(batch, IMAGES)
    steps = UntrainedSteps(fabric, stage, recipe, facts=run.data.facts, images=images)

    def price(step: int | None) -> float:
        steps.prepare() if step is None else steps(step)
        return 0.0

    return price


@contextmanager
def naming_network(method: str) -> Iterator[None]:
    """A context in which an error says which network of the method it stopped, and at what input.

    Raises:
        PredictionError: as it is raised inside, since it names its network.
        ValueError: for any other error.
    """
    running: list[tuple[str, str]] = []  # networks that have not returned, with what they got

    def enter(network: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(network, Denoiser):
            running.append((type(network).__name__, shapes(given)))

    def leave(network: nn.Module, given: Any, out: Any) -> None:
        if isinstance(network, Denoiser):
            running.pop()

    handles = [
        hooks.register_module_forward_pre_hook(enter),
        hooks.register_module_forward_hook(leave),
    ]
    try:
        yield
    except PredictionError:
        raise
    except Exception as error:
        network, given = running[-1] if running else (method, "images of noise")
        why = f"{type(error).__name__}: {one_line(str(error))}".rstrip(": .")
        raise ValueError(
            f"{network} stops with {why}, given {given}: mend it; HIERDIFF_TRACEBACK=1 shows where"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def shapes(given: tuple[Any, ...]) -> str:
    """The arguments of a network in words: `x_t 2x3x16x16, log_snr 2x1, cond.labels 2`."""
    named = dict(zip(("x_t", "log_snr", "cond"), given, strict=False))
    leaves, _ = pytree.tree_flatten_with_path(named)
    return ", ".join(
        f"{_path(path)} {'x'.join(map(str, leaf.shape))}"
        for path, leaf in leaves
        if isinstance(leaf, Tensor)
    )


def _path(keys: tuple[Any, ...]) -> str:
    first, *rest = keys
    names = (
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in rest
    )
    return ".".join([str(first.key), *(() if first.key == "x_t" else names)])
