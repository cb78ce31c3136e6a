"""Cost columns: their labels and units, and the uncertainty of a cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from benchmarks.tables.layout import Column, Spread
from hierdiff.metrics.timing import is_unsteady
from hierdiff.results.cost import Cost

ALIKE = 0.02  # relative difference of memory that counts as equal: it varies so much between runs
OUT_OF_MEMORY, OOM = "out of memory", "OOM"  # how such a reason begins, what a cell says


@cache
def expected_iqr(n: int) -> float:
    """The expected interquartile range of n standard normals: 1.35 for many, 0.56 for two.

    Blom's approximation of the expected order statistics; quartiles are interpolated between them
    as in `hierdiff.metrics.timing.Timing.iqr`.
    """
    drawn = [NormalDist().inv_cdf((i - 0.375) / (n + 0.25)) for i in range(1, n + 1)]
    place = 0.25 * (n - 1)
    low = math.floor(place)
    quartile = drawn[low] + (place - low) * (drawn[min(low + 1, n - 1)] - drawn[low])
    return -2 * quartile


@dataclass(frozen=True)
class CostColumn:
    """A cost column. key: field of a cost row; factor: from the stored unit to that of the label.

    better: which end is better, "low", "high" or None. hardware: whether the number depends
    on device and dtype.
    """

    key: str
    label: str
    better: str | None = None
    factor: float = 1
    hardware: bool = True

    def column(self, group: str) -> Column:
        """The column under a group heading."""
        return Column(group, self.label, self.better, ALIKE if "_memory_" in self.key else None)

    def value(self, cost: Cost) -> float | None:
        """The number in a cost row, in the unit that is stored; None where it has none."""
        number: float | None = getattr(cost, self.key)
        return number

    def failure_word(self, cost: Cost) -> str | None:
        """What stands in place of a number that a finished case always has; None where there is
        one, or the case has not failed."""
        reason = cost.train_failure if self.case == "train" else cost.sample_failure
        always = self.key.endswith(("_images_per_s", "latency_s", "_memory_mib"))
        if reason is None or not always or self.value(cost) is not None:
            return None
        return OOM if reason.startswith(OUT_OF_MEMORY) else "failed"

    @property
    def case(self) -> str:
        """The case that it is timed in, "train" or "sample"."""
        return "train" if self.key.startswith(("train", "compile")) else "sample"

    def spread(self, cost: Cost) -> Spread | None:
        """The spread of a time or rate in the unit of the label; None where it is unknown: one
        repeat, or repeats that are marked noisy.

        The number is a median of n repeats. Their standard deviation s is estimated from their
        interquartile range as that of n normals; the variance of the median is at most pi/2 s^2/n.
        A mean over k training seeds also varies by the variance between their medians over k; the
        part of it that is due to the repeats is not subtracted, which errs to the wide side.
        """
        if self.key == "latency_s":
            seconds, iqr = cost.latency_s, cost.latency_iqr_s
        elif self.key == "train_images_per_s":
            seconds, iqr = _seconds(cost.train_batch, cost.train_images_per_s), cost.train_iqr_s
        elif self.key == "sample_images_per_s":
            seconds, iqr = _seconds(cost.batch, cost.sample_images_per_s), cost.sample_iqr_s
        else:
            return None
        n, value = int(cost.repeats or 0), self.value(cost)
        noisy = cost.train_noisy if self.case == "train" else cost.sample_noisy
        if noisy or not seconds or is_unsteady(seconds, iqr) or n < 2:
            return None
        if iqr is None or value is None:
            return None
        sd = iqr / expected_iqr(n) / seconds * value * self.factor
        parts = {"repeats": (math.pi / 2 * sd**2 / n, n - 1)}
        between: float | None = getattr(cost, f"{self.key}_between")
        if between is not None and cost.runs is not None:
            between *= self.factor
            parts["training seeds"] = (between**2 / cost.runs, cost.runs - 1)
            sd = math.hypot(sd, between)
        return Spread(sd, n, parts)


def _seconds(batch: float | None, rate: float | None) -> float | None:
    """Of a batch at this many images/s; None where either is unknown or zero."""
    return batch / rate if batch and rate else None


COSTS = (
    CostColumn("train_images_per_s", "train img/s", "high"),
    CostColumn("sample_images_per_s", "sample img/s", "high"),
    CostColumn("latency_s", "latency ms", "low", 1e3),
    CostColumn("train_iqr_s", "train batch IQR ms", factor=1e3),
    CostColumn("sample_iqr_s", "sample batch IQR ms", factor=1e3),
    CostColumn("latency_iqr_s", "latency IQR ms", factor=1e3),
    CostColumn("train_memory_mib", "train MiB", "low"),
    CostColumn("train_memory_reserved_mib", "train reserved MiB", "low"),
    CostColumn("sample_memory_mib", "sample MiB", "low"),
    CostColumn("sample_memory_reserved_mib", "sample reserved MiB", "low"),
    CostColumn("energy_j", "J/image", "low"),
    CostColumn("compile_s", "compile s", "low"),
    CostColumn("train_batch", "train batch", hardware=False),
    CostColumn("batch", "batch", hardware=False),
    CostColumn("parameters", "params M", factor=1e-6, hardware=False),
    CostColumn("active_parameters", "active M", factor=1e-6, hardware=False),
    CostColumn("flops_per_call", "GFLOPs/call", factor=1e-9, hardware=False),
    CostColumn("flops_per_image", "GFLOPs/image", factor=1e-9, hardware=False),
    CostColumn("evaluations", "calls", hardware=False),
)
PARTS = {  # numbers of a breakdown or of a search over batch sizes
    "seconds": ("ms/image", 1e3),
    "flops": ("GFLOPs/image", 1e-9),
    "images_per_s": ("img/s", 1.0),
    "memory_mib": ("MiB", 1.0),
}
