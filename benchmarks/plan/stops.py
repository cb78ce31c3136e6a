"""A network that stops while it is counted or timed: which one, why, and at what input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree

from hierdiff.config import one_line
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import PredictionError
from hierdiff.metrics.cost import is_out_of_memory
from hierdiff.prepared import Prepared


class NotCounted(Exception):
    """A network cannot run on shapes alone; the message says why."""


@contextmanager
def counting(run: Prepared) -> Iterator[None]:
    """A context for work on shapes alone.

    Raises:
        NotCounted: for any other error inside; its message names the method.
        PredictionError: as it is raised inside, since no device would accept the request.
    """
    try:
        yield
    except PredictionError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(str(error))}".rstrip(": .")
        raise NotCounted(
            f"on shapes alone (the meta device) {run.config['method']['name']} stops with {why}"
        ) from error


@contextmanager
def naming_network(run: Prepared) -> Iterator[None]:
    """A context in which an error says which network of the method it stopped, and at what input.

    Raises:
        PredictionError: as it is raised inside, since it names its network. Errors of memory are
            raised as they are too, since the network is not to blame.
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
        if is_out_of_memory(error):
            raise
        network, given = (
            running[-1] if running else (run.config["method"]["name"], "images of noise")
        )
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
