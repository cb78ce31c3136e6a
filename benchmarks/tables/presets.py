"""The kinds of tables: what each shows, with labels and units.

main: the first metric of the records, throughput, memory, calls of networks for an image, what
training spent. per_resolution: all metrics. cost: all costs and budgets. ablation: the options that
differ, the first metric, costs at the finest resolution. all: everything, but for parts of a method
alone, which have no quality and stand in `cost`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from benchmarks.tables.costs import COSTS, CostColumn
from benchmarks.tables.layout import Column

UNITS = {"images": ("images", 1.0), "flops": ("PFLOPs", 1e15), "seconds": ("s", 1.0)}


@dataclass(frozen=True)
class Preset:
    """What a table shows.

    metrics: "first" of a record, "all" or "none". costs; parts: also those of a breakdown. budgets:
    pairs ("spent" or "planned", what). options: those that differ, as first columns. finest: costs
    at the finest resolution alone.
    """

    metrics: str
    costs: tuple[CostColumn, ...] = ()
    budgets: tuple[tuple[str, str], ...] = ()
    parts: bool = False
    options: bool = False
    finest: bool = False


def _costs(*keys: str) -> tuple[CostColumn, ...]:
    return tuple(cost for cost in COSTS if cost.key in keys)


SHORT = (
    *("train_images_per_s", "sample_images_per_s", "train_memory_mib", "sample_memory_mib"),
    "evaluations",  # few of them, or one, are why a sample is fast
)
SPENT = (("spent", "images"), ("spent", "flops"))
BUDGETS = tuple((when, what) for when in ("planned", "spent") for what in UNITS)
PRESETS = {
    "main": Preset("first", _costs(*SHORT), SPENT),
    "per_resolution": Preset("all"),
    "cost": Preset("none", COSTS, BUDGETS, parts=True),
    "ablation": Preset(
        "first",
        _costs(*SHORT[:2], "parameters", "active_parameters", "flops_per_image"),
        SPENT,
        options=True,
        finest=True,
    ),
    "all": Preset("all", COSTS, BUDGETS, parts=True),
}


def shown_part(wanted: Preset, columns: Collection[Column]) -> Preset:
    """A preset without the costs and budgets of which no column is shown."""
    labels = {column.what for column in columns}
    groups = {(column.group, column.what) for column in columns}
    return replace(
        wanted,
        costs=tuple(cost for cost in wanted.costs if cost.label in labels),
        budgets=tuple(
            (when, what) for when, what in wanted.budgets if (when, UNITS[what][0]) in groups
        ),
    )
