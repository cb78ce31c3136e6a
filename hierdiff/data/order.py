"""Which examples a step sees, and which an image is made and measured under.

Both are pure functions, so that resuming saves nothing. Epoch e of training is the permutation
seeded by (seed, "order", e), of the examples or, where these stream, of their shards; batches run
on across the end of an epoch. What is drawn for an example, its flip and its crop, is a function of
the example and the epoch alone.

Image number i of any draw has the conditions of `evaluation_rows`: rows of a folder are sorted by
class, so that the first n of them are no sample of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hierdiff.noise import generator_of


def indices(
    step: int,
    *,
    n: int,
    batch: int,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    shards: Sequence[int] | None = None,
    buckets: Sequence[int] | None = None,
) -> Int[Tensor, " b"]:
    """Examples (0..n-1) of `step` for one of `ranks` processes; b = batch / ranks.

    shards: sizes of the shards that examples stream out of, one after another; within each the
    order is its own. buckets: sizes of the buckets, one after another, of which a step has one
    (`bucket_of`), each in epochs of its own. `batch` is the global one;
    ranks take neighbouring slices of it, so that together they see what a single process would.

    Raises:
        ValueError: where a batch is empty or not a multiple of the ranks.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"a batch of {batch} from {n} examples: both must be at least 1")
    if batch % ranks:
        raise ValueError(
            f"batch {batch} is not a multiple of {ranks} processes: choose one that is"
        )
    if buckets is not None:
        which, own = bucket_of(step, buckets, seed)
        rows = indices(own, n=buckets[which], batch=batch, seed=seed, rank=rank, ranks=ranks)
        return rows + sum(buckets[:which])
    share = batch // ranks
    start = step * batch + rank * share
    stop = start + share
    parts = []
    for epoch in range(start // n, (stop - 1) // n + 1):
        order = (
            _permutation(n, seed, "order", epoch)
            if shards is None
            else _by_shard(tuple(shards), seed, "order", epoch)
        )
        parts.append(order[max(start - epoch * n, 0) : stop - epoch * n])
    return torch.cat(parts)


def bucket_of(step: int, buckets: Sequence[int], seed: int) -> tuple[int, int]:
    """The bucket of a step, and how many steps had that bucket before.

    As of an example drawn in the order of the seed: in as many steps as there are examples each
    bucket comes as often as it has some, so that all are seen alike.
    """
    epoch, place = divmod(step, sum(buckets))
    ends = torch.tensor(buckets).cumsum(0)
    order = torch.bucketize(_permutation(sum(buckets), seed, "bucket", epoch), ends, right=True)
    which = int(order[place])
    return which, epoch * buckets[which] + int((order[:place] == which).sum())


def runs(shards: Int[np.ndarray, " n"]) -> list[int]:
    """Sizes of the runs of neighbours in one shard, for `indices`."""
    bounds = np.flatnonzero(np.diff(shards)) + 1
    return np.diff([0, *bounds.tolist(), len(shards)]).tolist()


def epochs(
    step: int,
    *,
    n: int,
    batch: int,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
    buckets: Sequence[int] | None = None,
) -> Int[Tensor, " b"]:
    """The epoch of each example that `indices` gives."""
    if buckets is not None:
        which, step = bucket_of(step, buckets, seed)
        n = buckets[which]
    share = batch // ranks
    start = step * batch + rank * share
    return torch.arange(start, start + share) // n


def chances(
    rows: Int[Tensor, " b"], epochs: Int[Tensor, " b"], *key: int | str, n: int, count: int
) -> Float[Tensor, "b count"]:
    """Numbers in [0, 1) for the examples `rows` (0..n-1), each a function of key, epoch and row.

    key: of the draw, such as ("flip", seed); count: numbers for each example.
    """
    drawn = [
        _uniform(n, count, *key, epoch)[row]
        for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True)
    ]
    return torch.stack(drawn)


def evaluation_rows(n: int, places: Sequence[int]) -> Int[Tensor, " places"]:
    """Rows (0..n-1) of held-out data for the images number `places` (0, 1, ...) of any draw.

    Images e n to (e + 1) n - 1 have the permutation seeded by ("evaluation", e): the first images
    of a larger draw are the smaller draw, and every method has the same.

    Raises:
        ValueError: where there are no held-out images.
    """
    if n < 1:
        raise ValueError(
            "images are made under the conditions of held-out ones, and there are none"
        )
    epochs = {place // n: None for place in places}
    orders = {epoch: _permutation(n, "evaluation", epoch) for epoch in epochs}
    rows = [int(orders[place // n][place % n]) for place in places]
    return torch.tensor(rows, dtype=torch.int64)


def evaluation_rule(n: int) -> str:
    """What an identity says of `evaluation_rows` of n held-out images."""
    return f"rows=permuted({n})"


RULE = (
    "permuted(n): image i has row i % n of the n test rows in the permutation that is seeded by "
    "('evaluation', i // n), for all methods and sampling seeds"
)


@lru_cache(maxsize=8)
def _uniform(n: int, count: int, *key: int | str) -> Float[Tensor, "n count"]:
    return torch.rand(n, count, generator=generator_of(*key))


@lru_cache(maxsize=8)
def _by_shard(sizes: tuple[int, ...], *key: int | str) -> Int[Tensor, " n"]:
    runs = torch.arange(sum(sizes)).split(sizes)
    return torch.cat([runs[shard] for shard in _permutation(len(sizes), *key).tolist()])


@lru_cache(maxsize=8)
def _permutation(n: int, *key: int | str) -> Int[Tensor, " n"]:
    return torch.randperm(n, generator=generator_of(*key))
