"""Devices, processes and precision of a training run: its Lightning Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor

from hierdiff.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fabric_of(recipe: Recipe, *, alone: bool = False) -> Fabric:
    """Lightning Fabric for a recipe; under torchrun with its processes, whatever `devices` says.

    alone: one process on one device, whatever started it.

    Raises:
        ValueError: where this machine lacks the accelerator or devices.
    """
    from lightning_fabric import Fabric  # seconds, which processes that time a case do not need

    devices, nodes, strategy = recipe.devices, 1, recipe.strategy
    if alone:
        devices, strategy = 1, "auto"
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
        strategy = "ddp" if strategy == "auto" else strategy
    try:
        return Fabric(
            accelerator=recipe.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=recipe.precision,
        )
    except (RuntimeError, ValueError, TypeError, LookupError, ImportError) as error:
        raise ValueError(
            f"trainer.accelerator={recipe.accelerator}, devices={recipe.devices}: {error}"
        ) from error


def all_reduce(fabric: Fabric, x: Tensor, op: Literal["mean", "sum"]) -> Tensor:
    """The mean or the sum of a tensor over all processes."""
    return cast("Tensor", fabric.all_reduce(x, reduce_op=op))


def process_count(recipe: Recipe) -> int:
    """Number of processes that share a batch; errors as in `fabric_of`."""
    known = recipe.accelerator in ("auto", "cpu") and recipe.strategy == "auto"
    if known and recipe.devices == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1  # without the seconds that it takes to load Lightning
    return int(fabric_of(recipe).world_size)
