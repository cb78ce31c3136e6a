"""What gives the scale: reference statistics, and the rows of real images and of a Gaussian."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.quality import Rows, part_meter, quality
from benchmarks.measure.samples import BATCH, image_batches, real_images
from benchmarks.progress import Track
from hierdiff.data import ImageData
from hierdiff.data.cache import cache_folder
from hierdiff.files.digest import read_json, write_json
from hierdiff.files.lock import clean
from hierdiff.files.reading import Damaged
from hierdiff.images import to_uint8
from hierdiff.levels import Resolution, finest_first, name_of, plain_of, resolution_of
from hierdiff.metrics.attributes import ATTRIBUTES
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.quality import POOLED, Quality
from hierdiff.metrics.reference import Reference, levels_of, read_moments, references
from hierdiff.metrics.scale import PixelGaussian
from hierdiff.noise import from_generator, generator_of
from hierdiff.results.record import SCHEMA

log = logging.getLogger(__name__)


def real_references(
    data: ImageData,
    extractor: Extractor,
    resolutions: Sequence[Resolution],
    folder: Path,
    *,
    given: Mapping[Resolution, str | Path] | None = None,
    split: str = "train",
) -> dict[Resolution, Reference]:
    """The references of a part of the images by resolution, stored in `folder`.

    given: files of moments that take their place at some resolutions.
    """
    part, given = data.part(split), given or {}
    check_sides(given, resolutions)
    foreigners = {side: read_moments(path, extractor, side) for side, path in given.items()}
    own = references(
        image_batches(part),
        extractor,
        [side for side in resolutions if side not in foreigners],
        data=part.sha256,
        split=split,
        folder=folder,
    )
    return {side: (own | foreigners)[side] for side in resolutions}


def statistics_folder(data: Mapping[str, Any]) -> Path:
    """The folder of statistics of the data of a node, which all runs share."""
    folder = cache_folder(data.get("cache")) / "statistics"
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    return folder


def files_of(wanted: Mapping[int | str, str | Path]) -> dict[Resolution, str | Path]:
    """The option `measure.references`, whose keys are 32 or 8x32x32, by resolution.

    Raises:
        ValueError: for a key that is a word.
    """
    names = {name_of(str(key)): path for key, path in wanted.items()}
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


def scale_rows(
    data: ImageData,
    extractor: Extractor,
    references: Mapping[Resolution, Reference],
    n: int,
    *,
    seed: int,
    folder: Path,
    track: Track,
    metrics: Sequence[str] = ("fd",),
) -> dict[str, Rows]:
    """Real test images, and a Gaussian with the training pixels' mean and covariance.

    They depend on data and metrics alone, so they are kept in `folder`. Of metrics that compare
    levels of one method there is none. Of real images there are no more than the test part has: a
    row says its own number.
    """
    sides, metrics, test = list(references), list(metrics), data.part("test")
    hashes = [references[side].hash for side in sides]
    identity = [extractor.key, hashes, metrics, PROTOCOL, SCHEMA]
    if ATTRIBUTES in metrics:
        identity += [
            part_meter(EvaluationConditions(test), extractor, references).identity,
            sorted(test.condition_codes),
        ]
    parts = [*identity, n, seed, data.sha256]
    kept = folder / f"scale-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
    try:
        found = read_json(kept)
        return {kind: [Quality.read(row) for row in rows] for kind, rows in found.items()}
    except FileNotFoundError:
        pass
    except Damaged as error:
        log.warning("real images and the Gaussian are measured again: %s", error)
    real = [levels_of(images, sides) for images in real_images(test, n).split(BATCH)]
    gaussian = PixelGaussian.fit(torch.from_numpy(data.part("train").images[:].copy()))
    drawn = to_uint8(gaussian.sample(n, from_generator(generator_of(seed, "gaussian"))))
    fake = [levels_of(chunk, sides) for chunk in drawn.split(BATCH)]

    def measure(levels: list[Any], what: str) -> Rows:
        stream = track(levels, what, len(levels))
        return quality([stream], extractor, references, metrics, conditions=test)

    rows = {"real": measure(real, "real images"), "gaussian": measure(fake, "Gaussian")}
    rows = {kind: [row for row in found if row.view == POOLED] for kind, found in rows.items()}
    write_json(kept, {kind: [row.plain() for row in found] for kind, found in rows.items()})
    return rows
