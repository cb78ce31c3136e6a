"""Blocks that are compiled one by one, as `trainer.compile=blocks` wants it.

Blocks of one class share what is compiled where their shapes are alike, so that a deep network is
compiled in the time of its few kinds of block, for any batch size. What was compiled is kept on
the disk (`TORCHINDUCTOR_CACHE_DIR`, else in the cache folder), and time is bounded: after `LIMIT`
seconds of first calls the other blocks stay as they are. Only training is compiled; sampling is as
it is without.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hierdiff.data.cache import cache_folder
from hierdiff.denoisers import Denoiser

log = logging.getLogger(__name__)
LIMIT = 600.0  # seconds of first calls; the backward passes take about as long again
KINDS = 64  # of shapes and options that a class of block may have before torch gives up


class Clock:
    """Seconds that the first calls of `blocks` took, which it says when all were called."""

    def __init__(self, blocks: int, limit: float):
        self.left, self.spent, self.limit = blocks, 0.0, limit

    def first(self, call: Callable[[], Any]) -> Any:
        """The result of a first call, its time added."""
        started = time.perf_counter()
        result = call()
        self.spent += time.perf_counter() - started
        self.left -= 1
        if not self.left:
            log.info("blocks compiled in %.0f s, their backward passes to follow", self.spent)
        return result


class CompiledBlock:
    """The `forward` of a block: compiled where gradients are wanted, unless time is up."""

    def __init__(self, forward: Callable[..., Any], clock: Clock):
        self._eager, self._clock = forward, clock
        self._compiled: Callable[..., Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledBlock:
        return CompiledBlock(deepcopy(self._eager, memo), self._clock)  # of the copied block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives."""
        if not torch.is_grad_enabled():
            return self._eager(*args, **kwargs)
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value.ndim:
                torch._dynamo.maybe_mark_dynamic(value, 0)  # the batch
        if self._compiled is not None:
            return self._compiled(*args, **kwargs)
        if self._clock.spent > self._clock.limit:
            return self._eager(*args, **kwargs)
        self._compiled = torch.compile(self._eager)
        return self._clock.first(partial(self._compiled, *args, **kwargs))


def compile_blocks(module: nn.Module, *, limit: float = LIMIT) -> int:
    """From now on the blocks of all networks in `module` are compiled, each at its first call in
    training; how many there are. limit: seconds of first calls."""
    networks = [part for part in module.modules() if isinstance(part, Denoiser)]
    units = {id(unit): unit for network in networks for unit in network.units}.values()
    # those of an inner network may be compiled, and recomputed, since the stage before
    todo = [unit for unit in units if not isinstance(unit.forward, (CompiledBlock, partial))]
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, KINDS)
    clock = Clock(len(todo), limit)
    for unit in todo:
        unit.forward = CompiledBlock(unit.forward, clock)
    return len(todo)
