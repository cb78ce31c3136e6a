"""Published protocols of evaluation: what one states, and how far a run departs from it.

A protocol is a file of the config group `protocol`, which states its conditions and sets the
options of measuring to them. Options may be changed afterwards; the record then says what departs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure.scale import files_of
from benchmarks.measure.stream import Gauge
from benchmarks.settings import Measure, Protocol
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.reference import Reference
from hierdiff.metrics.weights import located, search_paths
from hierdiff.resolution import Resolution, px

TRAIN, CAPTIONS = "train", "captions"  # references that are no files


@dataclass(frozen=True)
class Sets:
    """What is asked of images from elsewhere. seeds: the numbers of the sets; labels: as stated."""

    metrics: Sequence[str]
    samples: int
    seeds: Sequence[int]
    labels: str


def evaluation_of(
    protocol: Protocol | None, measure: Measure | Sets, finest: Resolution, gauge: Gauge
) -> dict[str, Any]:
    """The published protocol of a record and how it departs from it; {} without one."""
    if protocol is None:
        return {}
    found = departures(protocol, measure, finest, gauge.extractor, gauge.references[finest])
    return {"evaluation": {"protocol": protocol.name, "departures": found}}


def departures(
    protocol: Protocol,
    measure: Measure | Sets,
    finest: Resolution,
    extractor: Extractor,
    reference: Reference,
) -> list[str]:
    """How a run departs from a protocol, each in a few words; [] where it does not.

    reference: at the finest resolution.
    """
    absent = [name for name in protocol.metrics if name not in measure.metrics]
    return [
        *_of_samples(protocol, measure, finest),
        *_of_scale(protocol, extractor, reference),
        *([f"without {', '.join(absent)}"] if absent else []),
    ]


def _of_samples(protocol: Protocol, measure: Measure | Sets, finest: Resolution) -> Iterator[str]:
    if measure.samples != protocol.samples:
        yield f"{measure.samples:,} of {protocol.samples:,} samples"
    if len(measure.seeds) > 1:
        yield f"mean of {len(measure.seeds)} draws instead of one"
    if measure.labels != protocol.labels:
        yield f"{measure.labels} labels instead of {protocol.labels}"
    if finest != protocol.resolution:
        yield f"{px(finest)} instead of {px(protocol.resolution)}"


def _of_scale(protocol: Protocol, extractor: Extractor, reference: Reference) -> Iterator[str]:
    if not extractor.name.startswith(protocol.extractor):
        yield f"extractor {extractor.name} instead of {protocol.extractor}"
    elif protocol.weights not in (None, extractor.weights):
        yield f"weights {extractor.weights} of {extractor.name} instead of {protocol.weights}"
    own = reference.hash.partition("@")[0]
    if protocol.reference == CAPTIONS:
        return
    if protocol.reference != TRAIN:
        if own != protocol.reference:
            made = f"reference {own}" if "@" in reference.hash else "the training images"
            yield f"{made} instead of {protocol.reference}"
    elif "@" in reference.hash:
        yield f"reference {own} instead of the training images"
    elif protocol.images is not None and reference.statistics.n != protocol.images:
        yield f"{reference.statistics.n:,} instead of {protocol.images:,} real images"


def check_files(
    protocol: Protocol, extractor: Any, references: Mapping[int | str, str | Path] | None
) -> None:
    """Refuses a protocol whose files are not there.

    extractor: its node. references: files by resolution.

    Raises:
        FileNotFoundError: names all of them, and where they come from.
    """
    absent = dict(_absent(protocol, extractor, references))
    if absent:
        places = search_paths("x")
        named = ", and ".join(f"{name} ({url})" if url else name for name, url in absent.items())
        raise FileNotFoundError(
            f"protocol={protocol.name} needs {named}: put what is missing into "
            f"{' or '.join(str(place.parent) for place in places)}, or give the path in "
            f"measure.extractor.weights and measure.references; measure.references=null compares "
            f"with the images of the data"
        )


def _absent(
    protocol: Protocol, node: Any, references: Mapping[int | str, str | Path] | None
) -> Iterator[tuple[str, str | None]]:
    kind = extractors.named(node)
    released, weights = getattr(kind, "released", None), node.get("weights")
    if weights is None and released is not None and not node.get("allow_download"):
        if not any(place.is_file() for place in search_paths(released)):
            yield released, getattr(kind, "released_at", None)
    elif weights is not None and not located(weights).exists():
        yield str(weights), getattr(kind, "released_at", None)
    for path in files_of(references).values():
        if not located(path).is_file():
            own = str(path) == protocol.reference
            yield str(path), protocol.url if own else None
