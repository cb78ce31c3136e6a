"""The rows of streams of images, a stream for each sampling seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.quality import Meter, Rows, merge_seeds
from hierdiff.data import ImageData


def quality(
    streams: Iterable[Iterable[Mapping[Any, Any]]],
    extractor: Any,
    references: Mapping[Any, Any],
    metrics: Sequence[str] = ("fd",),
    conditions: ImageData | None = None,
) -> Rows:
    """conditions: the data under whose `evaluation_rows` the images were made."""
    found, own = [], None if conditions is None else EvaluationConditions(conditions)
    for stream in streams:
        meter = Meter(extractor, references, metrics, own)
        for levels in stream:
            numbers = range(meter.count, meter.count + len(next(iter(levels.values()))))
            meter.take(meter.extract(levels, numbers), numbers)
        found.append(meter.rows())
    return merge_seeds(found)
