"""What the groups of a benchmark's config may hold.

Their values are in `hierdiff/configs/benchmark.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from hierdiff.levels import Resolutions
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.perceptual import Perceptual
from hierdiff.options import Between, Count, Length, Natural, Positive, check
from hierdiff.registry import Node, check_node

Several = Between(2)  # statistics of one image are none


@dataclass(frozen=True)
class Curve:
    """How a learning curve is measured. samples: images, 0 for none; loss: images of the loss."""

    samples: Natural
    metrics: Sequence[str]
    loss: Natural


@dataclass(frozen=True)
class Measure:
    """How a run is measured. samples: images under each of `seeds`; batch: images at once;
    references: {resolution: file} (32, or 8x32x32 of clips) of statistics instead of the training
    images."""

    extractor: Extractor | Node
    metrics: Sequence[str]
    samples: Annotated[int, Several]
    seeds: Annotated[Sequence[int], Length(1, more=True)]
    resolutions: Resolutions
    batch: Count
    curve: Curve | Node
    references: Mapping[int | str, str | Path]
    perceptual: Perceptual | Node


@dataclass(frozen=True)
class Match:
    """A budget that methods share, at most one of training and one of sampling. seconds, latency:
    on this machine."""

    images: Positive | None
    flops: Positive | None
    seconds: Positive | None
    flops_per_image: Positive | None
    latency: Positive | None


@dataclass(frozen=True)
class Cost:
    """How costs are timed. batches: sizes to try; memory_cap: MiB; repeats: 0 for no costs; alone:
    also the network of each coarse joint level without the rest."""

    batches: Annotated[Sequence[Count], Length(1, more=True)]
    memory_cap: Positive | None
    repeats: Natural
    alone: bool = False


@dataclass(frozen=True)
class Analysis:
    """Exposure bias. samples: images; log_snrs: of the augmentation."""

    samples: Annotated[int, Several]
    log_snrs: Sequence[float]


GROUPS = {"measure": Measure, "match": Match, "cost": Cost, "analysis": Analysis}
PLAIN: dict[str, Any] = {
    "name": str | int | float,
    "label": str | int | float,
    "folder": str | Path,
    "dry_run": bool | str,
}


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError for an option of a group that is not there, or is none that it may be."""
    for name, schema in GROUPS.items():
        if name in options and not (name == "analysis" and options[name] is None):
            check(options[name], Mapping, name)
            check_node(schema, options[name], name, at=name)
    check_plain(options)


def check_plain(options: Mapping[str, Any]) -> None:
    """ValueError for a name or a folder that is none."""
    for name, kind in PLAIN.items():
        if name in options:
            check(options[name], kind, name)
