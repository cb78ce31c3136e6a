"""Sharding: the weights of a stage cut over processes, piece by piece (FSDP2).

What is cut on its own is listed by the networks; nothing here knows their classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hierdiff.denoisers import Denoiser
from hierdiff.methods import Stage

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def networks_of(stage: Stage) -> tuple[Denoiser, ...]:
    """The outermost networks of a stage; those inside of them are reached through them."""
    found = [part for part in stage.modules() if isinstance(part, Denoiser)]
    inside = {id(part) for one in found for part in one.modules() if part is not one}
    return tuple(one for one in found if id(one) not in inside)


def units_of(stage: Stage) -> tuple[nn.Module, ...]:
    """The blocks of its networks, each once."""
    return distinct(unit for network in networks_of(stage) for unit in network.units)


def shards_of(network: Denoiser) -> tuple[nn.Module, ...]:
    """Modules that are sharded each on its own, inner ones first: what `prepare` calls by itself,
    the blocks, and the networks of the coarser levels. The rest belongs to the whole."""
    return distinct([*network.early, *network.units, *levels_below(network)])


def levels_below(network: Denoiser) -> list[Denoiser]:
    """The networks of the n coarsest levels, n from 1, without the whole."""
    below = []
    for n in range(1, network.levels):
        with suppress(ValueError):  # it has no network for n levels
            below.append(network.tail(n))
    return below


def distinct(modules: Iterable[nn.Module]) -> tuple[nn.Module, ...]:
    """The modules, each at its first place."""
    return tuple({id(module): module for module in modules}.values())


def can_shard(stage: Stage) -> bool:
    """Whether the weights of a stage may be sharded: it says so, and all are its networks'."""
    inside = {id(p) for network in networks_of(stage) for p in network.parameters()}
    return stage.shards and all(
        id(p) in inside for turn in stage.turns for p in turn.module.parameters() if p.requires_grad
    )


class ShardedStage:
    """A copy of a stage whose weights are cut over processes (FSDP2); the stage itself waits on the
    CPU, as a whole, and gets its weights back by `gather`.

    mesh: as `mesh_of` gives it.
    """

    def __init__(self, whole: Stage, mesh: DeviceMesh):
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self.whole = whole
        self.device = whole.device
        self.stage = copy.deepcopy(whole)
        whole.to("cpu")
        self.networks = networks_of(self.stage)
        for network in self.networks:
            for module in (*shards_of(network), network):
                fully_shard(module, mesh=mesh)
                if isinstance(module, Denoiser):
                    register_fsdp_forward_method(module, "prepare")

    def tensors(self) -> dict[Tensor, Tensor]:
        """The tensor that is trained in place of each parameter and buffer of the whole stage."""
        cut = dict(named_tensors(self.stage))
        return {tensor: cut[name] for name, tensor in named_tensors(self.whole)}

    @contextmanager
    def accumulating(self, enabled: bool) -> Iterator[None]:
        """Inside, if enabled, gradients are summed up on each process and not yet exchanged."""
        for network in self.networks:
            cast("FSDPModule", network).set_requires_gradient_sync(not enabled)
        yield

    @torch.no_grad()
    def gather(self, *, keep: bool = True) -> None:
        """The whole stage, on the CPU, gets the weights as they stand. All processes call it; those
        that do not keep them only send their parts."""
        for mine, cut in self.tensors().items():
            found = whole(cut)
            if keep:
                mine.copy_(found)

    def release(self) -> None:
        """The whole stage comes back to the device; its weights are those of the last `gather`."""
        self.whole.to(self.device)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, those that have several names under each of them."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def is_cut(tensor: Tensor) -> bool:
    """Whether this process holds a part of a tensor."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor  # a second, which most commands do not need

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which must all ask for it."""
    return cast("DTensor", tensor).full_tensor() if is_cut(tensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    return cast("DTensor", tensor).to_local() if is_cut(tensor) else tensor


@torch.no_grad()
def put(value: Tensor, into: Tensor) -> None:
    """Copies a whole tensor, or one cut in the same way, into a tensor that may be cut."""
    if is_cut(into) and not is_cut(value):
        from torch.distributed.tensor import distribute_tensor

        cut = cast("DTensor", into)
        value = distribute_tensor(
            value.to(cut.device), cut.device_mesh, cut.placements, src_data_rank=None
        )
    into.copy_(value)
