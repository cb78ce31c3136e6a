"""What a kind of table shows, and under which labels and units.

main: the first metric of the records, throughput, memory, what training spent. per_resolution: all
metrics. cost: all costs and budgets. ablation: the options that differ, the first metric, costs at
the finest resolution. all: everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.formats import DOWN, UP
from hierdiff.record import Row

IQR = 1.349  # interquartile range of a standard normal


@dataclass(frozen=True)
class Cost:
    """A cost column: its key in a record, its label, what turns the stored unit into the shown one.

    hardware: whether the number depends on device and dtype.
    """

    key: str
    label: str
    factor: float = 1
    hardware: bool = True

    @property
    def measured(self) -> bool:
        """Whether a finished case always has it."""
        return self.key.endswith(("_images_per_s", "latency_s", "_memory_mib"))

    @property
    def case(self) -> str:
        """Which of the two cases gives it, "train" or "sample"."""
        return "train" if self.key.startswith(("train", "compile")) else "sample"

    def deviation(self, cost: Row) -> tuple[float, int] | None:
        """Of a time or rate the standard deviation of its repeats, in the shown unit, as a normal
        of this interquartile range has it, and their number; None where it was not kept."""
        if self.key == "latency_s":
            seconds, iqr = cost.get(self.key), cost.get("latency_iqr_s")
        elif self.key.endswith("_images_per_s"):
            batch = cost.get("train_batch" if self.case == "train" else "batch")
            seconds, iqr = batch and batch / cost[self.key], cost.get(f"{self.case}_iqr_s")
        else:
            return None
        if not seconds or iqr is None or not cost.get("repeats"):
            return None
        return iqr / IQR / seconds * cost[self.key] * self.factor, cost["repeats"]


COSTS = (
    Cost("train_images_per_s", f"train img/s {UP}"),
    Cost("sample_images_per_s", f"sample img/s {UP}"),
    Cost("latency_s", f"latency ms {DOWN}", 1e3),
    Cost("train_iqr_s", "train batch IQR ms", 1e3),
    Cost("sample_iqr_s", "sample batch IQR ms", 1e3),
    Cost("latency_iqr_s", "latency IQR ms", 1e3),
    Cost("train_memory_mib", f"train MiB {DOWN}"),
    Cost("train_memory_reserved_mib", f"train reserved MiB {DOWN}"),
    Cost("sample_memory_mib", f"sample MiB {DOWN}"),
    Cost("sample_memory_reserved_mib", f"sample reserved MiB {DOWN}"),
    Cost("energy_j", f"J/image {DOWN}"),
    Cost("compile_s", f"compile s {DOWN}"),
    Cost("train_batch", "train batch", hardware=False),
    Cost("batch", "batch", hardware=False),
    Cost("parameters", "params M", 1e-6, hardware=False),
    Cost("flops_per_call", "GFLOPs/call", 1e-9, hardware=False),
    Cost("flops_per_image", "GFLOPs/image", 1e-9, hardware=False),
    Cost("evaluations", "calls", hardware=False),
)
PARTS = {  # numbers of a breakdown or of a search over batch sizes
    "seconds": ("ms/image", 1e3),
    "flops": ("GFLOPs/image", 1e-9),
    "images_per_s": ("img/s", 1.0),
    "memory_mib": ("MiB", 1.0),
}
UNITS = {"images": ("images", 1.0), "flops": ("PFLOPs", 1e15), "seconds": ("s", 1.0)}


@dataclass(frozen=True)
class Preset:
    """What a table shows.

    metrics: "first" of a record, "all" or "none". costs; parts: also those of a breakdown. budgets:
    pairs ("spent" or "planned", what). options: those that differ, as first columns. finest: costs
    at the finest resolution alone.
    """

    metrics: str
    costs: tuple[Cost, ...] = ()
    budgets: tuple[tuple[str, str], ...] = ()
    parts: bool = False
    options: bool = False
    finest: bool = False


def _costs(*keys: str) -> tuple[Cost, ...]:
    return tuple(cost for cost in COSTS if cost.key in keys)


SHORT = ("train_images_per_s", "sample_images_per_s", "train_memory_mib", "sample_memory_mib")
SPENT = (("spent", "images"), ("spent", "flops"))
BUDGETS = tuple((when, what) for when in ("planned", "spent") for what in UNITS)
PRESETS = {
    "main": Preset("first", _costs(*SHORT), SPENT),
    "per_resolution": Preset("all"),
    "cost": Preset("none", COSTS, BUDGETS, parts=True),
    "ablation": Preset(
        "first",
        _costs(*SHORT[:2], "parameters", "flops_per_image"),
        SPENT,
        options=True,
        finest=True,
    ),
    "all": Preset("all", COSTS, BUDGETS, parts=True),
}
