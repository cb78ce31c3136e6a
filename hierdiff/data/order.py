"""Which examples a step sees: a pure function of step and seed, so that resuming saves nothing.

Epoch e is the permutation seeded by (seed, "order", e); batches run on across the end of an epoch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from hierdiff.noise import generator_of


def indices(
    step: int, *, n: int, batch: int, seed: int, rank: int = 0, ranks: int = 1
) -> Int[Tensor, " b"]:
    """Examples (0..n-1) of `step` for one of `ranks` processes; b = batch / ranks.

    `batch` is the global one; ranks take neighbouring slices of it, so that together they see
    what a single process would.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"a batch of {batch} from {n} examples: both must be at least 1")
    if batch % ranks:
        raise ValueError(
            f"batch {batch} is not a multiple of {ranks} processes: choose one that is"
        )
    share = batch // ranks
    start = step * batch + rank * share
    stop = start + share
    parts = []
    for epoch in range(start // n, (stop - 1) // n + 1):
        order = _epoch(epoch, n, seed)
        parts.append(order[max(start - epoch * n, 0) : stop - epoch * n])
    return torch.cat(parts)


@lru_cache(maxsize=4)
def _epoch(epoch: int, n: int, seed: int) -> Int[Tensor, " n"]:
    return torch.randperm(n, generator=generator_of(seed, "order", epoch))
