"""What making the images of a level costs, as a row of one type from timing to table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hierdiff.resolution import Name, Resolution, level_of, place_of, plain_of, resolution_of

ALONE = "alone"  # part of a cost row


@dataclass(frozen=True)
class CostPart:
    """What one part of a sample takes for one image: seconds, and operations (FLOPs)."""

    name: str
    seconds: float | None = None
    flops: float | None = None


@dataclass(frozen=True)
class BatchTrial:
    """A batch size that was tried: images/s and peak memory in MiB, or the failure."""

    name: str
    images_per_s: float | None = None
    memory_mib: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Cost:
    """Costs of a level: of training the last stage that makes its images, and of sampling them.

    level: name of the level. trajectory: names of all levels that one trajectory makes. part: None,
        or "alone" of a network without the rest of its trajectory, which made no measured image.
    device, dtype, threads, channels_last: how it was run. repeats: of each timing.
    *_images_per_s: median rates. *_iqr_s: interquartile range of the seconds of a batch. *_noisy:
        whether they spread too widely. *_load: load average of the machine.
    *_memory_mib: peak. *_memory_reserved_mib: peak that the allocator of a GPU holds.
        *_memory_baseline_mib: of the process before the method.
    batch, train_batch: images at once. *_sweep: batch sizes that were tried.
    latency_s: seconds of one image alone. compile_s: of a first step beyond another.
    parameters, flops_per_call, flops_per_image, evaluations: of a sample, breakdown: of its parts.
    active_parameters: without those that one call for one image leaves aside.
    energy_j: joules an image.
    *_failure: why there are no numbers. train_step: how older versions stepped, None: as the run.
    runs: training seeds merged. *_between: standard deviation between them.
    What was not measured is None.
    """

    level: Name
    trajectory: tuple[Name, ...] = ()
    part: str | None = None
    device: str | None = None
    dtype: str | None = None
    threads: float | None = None
    repeats: float | None = None
    channels_last: bool | None = None
    train_images_per_s: float | None = None
    train_noisy: bool | None = None
    train_iqr_s: float | None = None
    train_load: float | None = None
    train_memory_mib: float | None = None
    train_memory_reserved_mib: float | None = None
    train_memory_baseline_mib: float | None = None
    train_batch: float | None = None
    compile_s: float | None = None
    train_sweep: tuple[BatchTrial, ...] = ()
    train_failure: str | None = None
    train_step: str | None = None
    sample_images_per_s: float | None = None
    sample_noisy: bool | None = None
    sample_iqr_s: float | None = None
    sample_load: float | None = None
    sample_memory_mib: float | None = None
    sample_memory_reserved_mib: float | None = None
    sample_memory_baseline_mib: float | None = None
    latency_s: float | None = None
    latency_iqr_s: float | None = None
    batch: float | None = None
    parameters: float | None = None
    active_parameters: float | None = None
    flops_per_call: float | None = None
    flops_per_image: float | None = None
    evaluations: float | None = None
    energy_j: float | None = None
    breakdown: tuple[CostPart, ...] = ()
    sample_sweep: tuple[BatchTrial, ...] = ()
    sample_failure: str | None = None
    runs: int | None = None
    train_images_per_s_between: float | None = None
    sample_images_per_s_between: float | None = None
    latency_s_between: float | None = None

    @property
    def resolution(self) -> Resolution:
        """Of its level."""
        return resolution_of(self.level)

    @property
    def lists(self) -> dict[str, tuple[CostPart, ...] | tuple[BatchTrial, ...]]:
        """Parts of a sample and batch sizes that were tried, by field."""
        return {
            "breakdown": self.breakdown,
            "train_sweep": self.train_sweep,
            "sample_sweep": self.sample_sweep,
        }

    def plain(self) -> dict[str, Any]:
        """As a record stores it; the inverse of `read`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "level"}
        own = {"trajectory": [plain_of(name) for name in self.trajectory]}
        entries = {
            name: [{k: v for k, v in vars(one).items() if v is not None} for one in of]
            for name, of in self.lists.items()
        }
        return {**place_of(self.level), **parts, **own, **entries}

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Cost:
        """Reads a row in the form of `hierdiff.results.form`."""
        names = row.get("trajectory") or ()
        own = {
            "level": level_of(row),
            "trajectory": tuple(n if isinstance(n, str) else resolution_of(n) for n in names),
            "breakdown": tuple(CostPart(**one) for one in row.get("breakdown") or ()),
            "train_sweep": tuple(BatchTrial(**one) for one in row.get("train_sweep") or ()),
            "sample_sweep": tuple(BatchTrial(**one) for one in row.get("sample_sweep") or ()),
        }
        return cls(**{**{k: v for k, v in row.items() if k != "resolution"}, **own})
