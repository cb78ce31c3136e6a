"""Our metrics as torchmetrics modules: the numbers of a record, in one process and in two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import MetricCollection

from hierdiff.metrics import modules
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.frechet import Moments
from hierdiff.metrics.modules import (
    DensityCoverage,
    Fidelity,
    FrechetDistance,
    KernelDistance,
    OneMetric,
    PrecisionRecall,
)
from hierdiff.metrics.reference import BATCH, read_moments, references, write_moments

ALL = ("fd", "fd_infinity", "kd", "pr", "dc", "clipped_dc", "mind", "nearest")
NODE = {"name": "random_conv", "width": 12}
FEW, MANY = (10, 11), (45, 38)  # generated and real images, fewer and more than features
CLASSES = [
    one
    for one in vars(modules).values()
    if isinstance(one, type) and issubclass(one, OneMetric) and hasattr(one, "metric")
]


def images(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256 - 60 * seed, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)


def recorded(n: int, m: int, metrics: tuple[str, ...] = ALL) -> dict[str, float]:
    """As a record has it."""
    extractor = RandomConv(width=12)
    real = references(images(m, 0).split(BATCH), extractor, [8], data="x", split="train")
    meter = FidelityMeter(extractor, real, metrics)
    meter.add({8: images(n, 1)})
    rows = [row for row in meter.qualities() if row.view == "native"]
    return {row.metric: row.value for row in rows if row.value is not None}


def filled(metric: Fidelity, n: int, m: int, rank: int = 0, world: int = 1) -> Fidelity:
    """In batches, with the share of a process."""
    for batch in images(m, 0)[rank::world].split(BATCH):
        metric.update(batch, real=True)
    for batch in images(n, 1)[rank::world].split(BATCH):
        metric.update(batch, real=False)
    return metric


def values(metric: Fidelity) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("counts", [FEW, MANY])
def test_the_values_are_those_of_a_record(counts):
    found = values(filled(Fidelity(ALL, NODE), *counts))
    assert found == pytest.approx(recorded(*counts), rel=1e-12, abs=1e-12)
    assert len(found) == 11


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = Fidelity(ALL, NODE)
    for name, counts in (("few", FEW), ("many", MANY)):
        torch.save(values(filled(metric, *counts, rank, 2)), folder / f"{name}-{rank}.pt")
        metric.reset()
    if rank == 0:  # the other process has no image
        filled(metric, *FEW)
    torch.save(values(metric), folder / f"one_sided-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_the_values_of_one(tmp_path):
    mp.spawn(work, args=(tmp_path,), nprocs=2)
    for name, counts in (("few", FEW), ("many", MANY)):
        one = values(filled(Fidelity(ALL, NODE), *counts))
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt")
            # features of other batches differ by rounding
            assert found == pytest.approx(one, rel=1e-4, abs=1e-4), name
    alone = values(filled(Fidelity(["fd", "pr"], NODE), *FEW))
    for rank in range(2):
        found = torch.load(tmp_path / f"one_sided-{rank}.pt")
        assert {k: found[k] for k in alone} == pytest.approx(alone, rel=1e-6, abs=1e-6)


def test_a_metric_of_one_value_is_a_scalar_and_of_two_a_pair():
    expected = recorded(*MANY)
    fd, pr = FrechetDistance(NODE), PrecisionRecall(NODE)
    for metric in (fd, pr):
        filled(metric, *MANY)
    assert float(fd.compute()) == pytest.approx(expected["FD-RandomConv"], rel=1e-12)
    assert set(pr.compute()) == {"precision", "recall"} and fd.compute().dtype == torch.float64


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_stands_for_a_metric_of_the_table(kind):
    able = kind.metric not in ("sfid", "cmmd")
    if able:
        assert kind(NODE).metrics == (kind.metric,)
    else:
        with pytest.raises(ValueError, match="not for the extractor 'random_conv'"):
            kind(NODE)


def test_in_a_collection_metrics_that_keep_the_same_share_one_pass():
    calls = []

    class Counting(RandomConv):
        def features(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().features(x)

    extractor = Counting(width=12)
    parts = [FrechetDistance(extractor), KernelDistance(extractor), DensityCoverage(extractor)]
    collection = MetricCollection(parts)
    for batch in images(40, 0).split(8):
        collection.update(batch, real=True)
    for batch in images(40, 1).split(8):
        collection.update(batch, real=False)
    expected = recorded(40, 40)
    found = collection.compute()
    assert float(found["FrechetDistance"]) == pytest.approx(expected["FD-RandomConv"], rel=1e-4)
    assert float(found["KernelDistance"]) == pytest.approx(expected["KD-RandomConv"], rel=1e-4)
    assert float(found["coverage"]) == expected["coverage"]
    assert sum(calls) == 2 * 80 + 8  # the first update tells which metrics share their states


def test_real_images_may_stay_and_may_come_from_a_file(tmp_path):
    metric = filled(FrechetDistance(NODE), *MANY)
    first = float(metric.compute())
    metric.reset(real=False)
    for batch in images(MANY[0], 1).split(BATCH):
        metric.update(batch, real=False)
    assert float(metric.compute()) == first
    extractor = RandomConv(width=12)
    real = references(images(MANY[1], 0).split(BATCH), extractor, [8], data="x", split="train")
    write_moments(tmp_path / "a.npz", real[8], {})
    reference = read_moments(tmp_path / "a.npz", extractor, 8)
    against = FrechetDistance(NODE, reference)
    for batch in images(MANY[0], 1).split(BATCH):
        against.update(batch, real=False)
    assert float(against.compute()) == pytest.approx(first, rel=1e-9)
    with pytest.raises(ValueError, match="real images are those of the reference"):
        against.update(images(2, 0), real=True)
    with pytest.raises(ValueError, match="'kd' .* holds moments alone"):
        KernelDistance(NODE, reference)
    with pytest.raises(ValueError, match="the reference is of the extractor"):
        FrechetDistance({"name": "random_conv", "width": 12, "seed": 1}, reference)


def test_few_features_stay_in_memory_where_moments_are_enough(monkeypatch):
    metric = FrechetDistance(NODE)
    filled(metric, 100, 100)
    (rows,) = [name for name in metric._defaults if name.startswith("fake") and "rows" in name]
    assert sum(map(len, getattr(metric, rows))) == 0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (images(2, 0).float(), r"images are torch.float32 .*to_uint8 makes it"),
        (images(2, 0)[0], r"\(3, 8, 8\), where uint8 \(b, c, h, w\)"),
        (images(2, 0)[:, :, :4], r"images of \[4, 8\] px after those of \[8, 8\] px"),
    ],
)
def test_other_images_are_refused(batch, message):
    metric = FrechetDistance(NODE)
    metric.update(images(4, 0), real=True)
    with pytest.raises(ValueError, match=message):
        metric.update(batch, real=False)


def test_too_few_images_are_said():
    metric = PrecisionRecall(NODE)
    metric.update(images(9, 0), real=True)
    metric.update(images(3, 1), real=False)
    with pytest.raises(ValueError, match="metric 'pr' of 3 images: measure at least 4"):
        metric.compute()


def test_what_needs_more_than_images_is_refused():
    with pytest.raises(ValueError, match="'haar' needs more than images and one extractor: cho"):
        Fidelity(["fd", "haar"], NODE)


def test_states_are_packed_moments():
    moments = Moments.of(torch.randn(9, 5, dtype=torch.float64))
    unpacked = modules._unpacked(modules._packed(moments))
    assert unpacked.n == 9 and torch.equal(unpacked.mean, moments.mean)
    assert torch.equal(unpacked.scatter, moments.scatter)
