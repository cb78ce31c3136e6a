"""What gives the scale: reference statistics, and the rows of real images and of a Gaussian."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.quality import Rows, merge_seeds, part_meter
from benchmarks.measure.samples import ImageBatches, PixelImages, real_images
from benchmarks.measure.stream import Gauge, Source
from hierdiff.data import ImageData
from hierdiff.data.cache import cache_folder
from hierdiff.data.order import evaluation_rows
from hierdiff.files.digest import read_json, write_json
from hierdiff.files.lock import clean
from hierdiff.files.reading import Damaged
from hierdiff.images import to_uint8
from hierdiff.metrics.attributes import ATTRIBUTES
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.quality import POOLED, Quality
from hierdiff.metrics.reference import (
    CAP,
    Reference,
    levels_of,
    read_moments,
    references,
    with_features,
)
from hierdiff.metrics.scale import PixelGaussian
from hierdiff.metrics.table import check_reference, needs_features
from hierdiff.metrics.weights import located
from hierdiff.noise import from_generator, generator_of
from hierdiff.processes import ALONE, Processes
from hierdiff.resolution import Resolution, finest_first, name_of, plain_of, resolution_of
from hierdiff.results.record import SCHEMA

log = logging.getLogger(__name__)


def real_references(
    data: ImageData | None,
    extractor: Extractor,
    resolutions: Sequence[Resolution],
    folder: Path,
    *,
    given: Mapping[Resolution, str | Path] | None = None,
    split: str = "train",
    metrics: Sequence[str] = (),
    processes: Processes = ALONE,
) -> dict[Resolution, Reference]:
    """The references of a part of the images by resolution, stored in `folder`.

    given: files of moments that take their place at some resolutions, with features of the images
    in them where one of the metrics needs those; at all of them where there is no data. A
    collective call of the processes, which share the work.
    """
    given = given or {}
    check_sides(given, resolutions)
    found = {side: read_moments(path, extractor, side) for side, path in given.items()}
    if needs_features(metrics):
        found = {
            side: with_features(one, extractor, folder, processes) for side, one in found.items()
        }
    if data is not None:
        part = data.part(split)
        found |= references(
            ImageBatches(part),
            extractor,
            [side for side in resolutions if side not in given],
            data=part.reference_sha256,
            split=split,
            folder=folder,
            processes=processes,
        )
    return {side: found[side] for side in resolutions}


def statistics_folder(data: Mapping[str, Any]) -> Path:
    """The folder of statistics of the data of a node, which all runs share."""
    folder = cache_folder(data.get("cache")) / "statistics"
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    return folder


def files_of(wanted: Mapping[int | str, str | Path] | None) -> dict[Resolution, str | Path]:
    """The option `measure.references`, whose keys are 32 or 8x32x32, by resolution; a file that is
    named without a folder is looked for where weights are (`weights.search_paths`).

    Raises:
        ValueError: for a key that is a word.
    """
    names = {name_of(str(key)): located(path) for key, path in (wanted or {}).items()}
    for name in names:
        if isinstance(name, str):
            raise ValueError(
                f"measure.references.{name}: a reference file is of a resolution, in pixels: write "
                f"it as 32, or as 8x32x32 for clips"
            )
    return {resolution_of(name): path for name, path in names.items()}


def check_sides(given: Iterable[Resolution], resolutions: Sequence[Resolution]) -> None:
    """Refuses reference files for a resolution at which nothing is measured.

    Raises:
        ValueError: with the resolutions of those files.
    """
    unknown = finest_first(set(given) - set(resolutions))[::-1]
    if unknown:
        raise ValueError(
            f"reference files for {list(map(plain_of, unknown))} px, where nothing is measured: "
            f"give them for some of {list(map(plain_of, resolutions))}"
        )


def check_foreign(
    files: Mapping[Resolution, str | Path],
    resolutions: Sequence[Resolution],
    extractor: Extractor,
    metrics: Iterable[str],
) -> None:
    """Refuses reference files that do not fit what is measured.

    Raises:
        ValueError: where one lacks what a metric needs, or is of none of the resolutions.
    """
    check_sides(files, resolutions)
    for side, path in files.items():
        reference = read_moments(path, extractor, side)
        for name in metrics:
            if name != ATTRIBUTES:
                check_reference(name, reference)


def scale_rows(
    data: ImageData,
    gauge: Gauge,
    n: int,
    *,
    seed: int,
    folder: Path,
    metrics: Sequence[str] = ("fd",),
) -> dict[str, Rows]:
    """Real test images, and a Gaussian with the training pixels' mean and covariance.

    They depend on data and metrics alone, so they are kept in `folder`. Of metrics that compare
    levels of one method there is none. Of real images there are no more than the test part has: a
    row says its own number. A collective call of the processes.
    """
    sides, metrics, test = list(gauge.references), list(metrics), data.part("test")
    conditions, processes = EvaluationConditions(test), gauge.processes
    hashes = [reference.hash for reference in gauge.references.values()]
    identity = [gauge.extractor.key, hashes, metrics, PROTOCOL, SCHEMA]
    if ATTRIBUTES in metrics:
        parts_of = part_meter(conditions, gauge.extractor, gauge.references)
        identity += [parts_of.identity, sorted(test.condition_codes)]
    parts = [*identity, n, seed, data.sha256]
    place = folder / f"scale-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
    known = processes.agree(lambda: _known_rows(place))
    if known is not None:
        return known
    gaussian = pixel_gaussian(data.part("train"))
    normals = from_generator(generator_of(seed, "gaussian"))((n, len(gaussian.images)))

    def real(numbers: range) -> PixelImages:
        return levels_of(real_images(test, n, numbers), sides)

    def drawn(numbers: range) -> PixelImages:
        images = gaussian.of(normals[numbers.start : numbers.stop])
        return levels_of(to_uint8(images), sides)

    sources = {
        "real": Source("real images", min(n, len(test)), real),
        "gaussian": Source("Gaussian", n, drawn),
    }
    rows = {}
    for kind, source in sources.items():
        found = merge_seeds([gauge.rows(source, metrics, conditions)])
        rows[kind] = [row for row in found if row.view == POOLED]
    if processes.first:
        write_json(place, {kind: [row.plain() for row in found] for kind, found in rows.items()})
    return processes.agree(lambda: rows)


def pixel_gaussian(part: ImageData) -> PixelGaussian:
    """The Gaussian of the training images, of `CAP` of them at random where there are more."""
    rows: Any = slice(None)
    if len(part) > CAP:
        rows = evaluation_rows(len(part), range(CAP)).sort().values.numpy()
    return PixelGaussian.fit(torch.from_numpy(part.images[rows].copy()))


def _known_rows(place: Path) -> dict[str, Rows] | None:
    """The rows of a file; None where there is none, or it is damaged."""
    try:
        found = read_json(place)
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("real images and the Gaussian are measured again: %s", error)
        return None
    return {kind: [Quality.read(row) for row in rows] for kind, rows in found.items()}
