"""Two processes measure as one does: the same images, bit for bit, and the same rows."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.exposure import exposure_bias
from benchmarks.measure.kept import Kept
from benchmarks.measure.samples import Draw, sample_facts, stored_form
from benchmarks.measure.scale import real_references, scale_rows
from benchmarks.measure.stream import Gauge, Source, measure_seeds
from hierdiff.files.samples import Samples
from hierdiff.metrics.extractors import RandomConv
from hierdiff.processes import ALONE, Processes
from tests.benchmarks.measure.test_exposure import cascade
from tests.training.runs import images

N, METRICS = 70, ["fd", "kd", "pr", "consistency"]


def everything(processes, folder, batch):
    """Rows of scale, of samples under two seeds, and of the exposure analysis, as plain values."""
    torch.set_num_threads(1)
    data, extractor, method = images(60), RandomConv(width=12), cascade()
    test = data.part("test")
    references = real_references(data, extractor, [8, 4], folder, processes=processes)
    gauge = Gauge(extractor, references, processes)
    scale = scale_rows(data, gauge, N, seed=0, folder=folder, metrics=METRICS)
    kept = Kept(folder / "kept.safetensors", "k", processes)

    def measure_seed(seed):
        conditions = EvaluationConditions(test, seed=seed)
        stored = Samples(folder / f"seed{seed}", "npz", N)
        source = Source(
            f"seed {seed}", N, Draw(method, conditions, seed, "32-true", pack=8), batch, 8,
            look=lambda numbers, drawn: stored.add(numbers.start, stored_form(drawn)),
            seen=N,
            close=lambda: stored.close(sample_facts(conditions, seed, range(N))),
        )  # fmt: skip
        return gauge.rows(source, METRICS, conditions, kept)

    rows = measure_seeds(measure_seed, (0, 1), kept)
    draw = Draw(method, EvaluationConditions(test), 0, "32-true")
    bias = exposure_bias(method, draw, gauge, 20, [6.0])
    return {
        "samples": [row.plain() for row in rows],
        **{kind: [row.plain() for row in found] for kind, found in scale.items()},
        "bias": bias,
    }


def work(rank, world, folder):
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    found = everything(Processes.joined(), folder, batch=40)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_images_and_rows_of_one(tmp_path):
    """In batches of another size as well."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone = everything(ALONE, tmp_path / "one", batch=16)
    mp.spawn(work, args=(2, tmp_path / "two"), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=False) == alone
    for path in (tmp_path / "one").glob("seed*/*.npz"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        pixels, same = np.load(path), np.load(other)
        assert len(pixels["arr_0"]) == N and np.array_equal(pixels["arr_0"], same["arr_0"])
    assert len(list((tmp_path / "one").glob("seed*/*.npz"))) == 4
