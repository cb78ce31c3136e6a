"""Two processes that share the images find the statistics of all of them."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hierdiff.metrics.attributes import Counts
from hierdiff.metrics.frechet import Statistics
from tests.metrics.parts import TOY

SHARE = {"few": (3, 4), "many": (9, 30), "one_sided": (0, 30)}


def features(name, rank):
    generator = torch.Generator().manual_seed(rank + 1)
    return torch.randn(SHARE[name][rank], 8, generator=generator, dtype=torch.float64) + 1e3


def counts(rank):
    """Of 5 or 6 images with random parts, of which half have a condition."""
    generator = torch.Generator().manual_seed(rank + 1)
    found = {n: torch.randint(k, (5 + rank,), generator=generator) for n, k in TOY.sizes.items()}
    wanted = torch.randint(-1, 2, (5 + rank,), generator=generator)
    return Counts.of(TOY, found, {"shape": wanted})


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in SHARE:
        Statistics.of(features(name, rank)).all_reduce().save(folder / f"{name}-{rank}.npz", name)
        kept = Statistics.of(features(name, rank), keep=12).all_reduce()
        kept.save(folder / f"{name}-kept-{rank}.npz", name)
    whole = counts(rank).all_reduce()
    torch.save([whole.n, whole.variations, whole.accuracies], folder / f"counts-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_hold_the_statistics_of_one_pass(tmp_path):
    mp.spawn(work, args=(tmp_path,), nprocs=2)
    for name in SHARE:
        whole = Statistics.of(torch.cat([features(name, 0), features(name, 1)]))
        for rank in range(2):
            found = Statistics.load(tmp_path / f"{name}-{rank}.npz", name)
            assert found.n == whole.n == sum(SHARE[name])
            assert (found.features is None) == (whole.features is None)
            torch.testing.assert_close(found.moments.mean, whole.moments.mean)
            torch.testing.assert_close(
                found.moments.scatter, whole.moments.scatter, rtol=1e-9, atol=1e-9
            )
        kept = [Statistics.load(tmp_path / f"{name}-kept-{rank}.npz", name) for rank in range(2)]
        assert kept[0].sha256 == kept[1].sha256
        assert len(kept[0].kept) == len(kept[0].rows.unique()) == min(12, sum(SHARE[name]))
        for row, feature in zip(kept[0].rows, kept[0].kept, strict=True):  # number i * 2 + p
            assert torch.equal(feature, features(name, int(row) % 2)[int(row) // 2])
    both = counts(0).merge(counts(1))
    for rank in range(2):
        n, variations, shares = torch.load(tmp_path / f"counts-{rank}.pt")
        assert n == both.n == 11
        assert (variations, shares) == (both.variations, both.accuracies)
