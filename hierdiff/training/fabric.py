"""Devices, processes and precision of a training run: its Lightning Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from hierdiff.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import Strategy
    from torch.distributed.device_mesh import DeviceMesh


def fabric_of(recipe: Recipe, *, alone: bool = False) -> Fabric:
    """Lightning Fabric for a recipe; under torchrun with its processes, whatever `devices` says.

    alone: one process on one device, whatever started it.

    Raises:
        ValueError: where this machine lacks the accelerator or devices.
    """
    from lightning_fabric import Fabric  # seconds, which processes that time a case do not need

    strategy: str | Strategy
    devices, nodes, strategy = recipe.devices, 1, recipe.strategy
    if alone:
        devices, strategy = 1, "auto"
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
        strategy = "ddp" if strategy == "auto" else strategy
    if strategy == "fsdp":
        strategy = processes()
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


def processes() -> Strategy:
    """Processes that can exchange parts of tensors, on GPUs and for checkpoints on the CPU."""
    from lightning_fabric.strategies import DDPStrategy

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else None
    return DDPStrategy(process_group_backend=backend)


def table_of(recipe: Recipe, count: int) -> dict[str, int]:
    """How `count` processes are laid out under fsdp: sides of a table by name, whose rows share one
    copy of the weights.

    Raises:
        ValueError: where `shard_over` does not divide their number.
    """
    shared = recipe.shard_over or count
    if count % shared:
        raise ValueError(
            f"trainer.shard_over={shared} does not divide {count} processes: choose a divisor"
        )
    return {"shard": count} if shared == count else {"copy": count // shared, "shard": shared}


def mesh_of(fabric: Fabric, recipe: Recipe) -> DeviceMesh:
    """The processes as `table_of` lays them out; errors as there."""
    from torch.distributed.device_mesh import init_device_mesh

    table = table_of(recipe, fabric.world_size)
    sides = tuple(table.values())
    return init_device_mesh(fabric.device.type, sides, mesh_dim_names=tuple(table))


def all_reduce(fabric: Fabric, x: Tensor, op: Literal["mean", "sum"]) -> Tensor:
    """The mean or the sum of a tensor over all processes."""
    return cast("Tensor", fabric.all_reduce(x, reduce_op=op))


def process_count(recipe: Recipe) -> int:
    """Number of processes that share a batch; errors as in `fabric_of`."""
    known = recipe.accelerator in ("auto", "cpu") and recipe.strategy == "auto"
    if known and recipe.devices == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1  # without the seconds that it takes to load Lightning
    return int(fabric_of(recipe).world_size)


def is_loss_of_process(error: RuntimeError) -> bool:
    """Whether an error of an exchange between processes says that one of them is gone."""
    text = str(error)
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    return isinstance(error, torch.distributed.DistError) or any(sign in text for sign in signs)
