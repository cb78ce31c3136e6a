"""Images that came from elsewhere, measured as those of a run are (`benchmarks.evaluate`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from benchmarks.conditions import Conditions, EvaluationConditions, Following, OwnConditions
from benchmarks.device import device_for
from benchmarks.measure.external import External, external_images
from benchmarks.measure.kept import FILE as MEASURING
from benchmarks.measure.kept import Kept, measuring_key
from benchmarks.measure.protocol import Sets, check_files, evaluation_of
from benchmarks.measure.quality import AUTO, Rows, settle_metrics
from benchmarks.measure.samples import ImageBatches, PixelImages, real_images
from benchmarks.measure.scale import (
    check_foreign,
    files_of,
    real_references,
    scale_rows,
    statistics_folder,
)
from benchmarks.measure.stream import Gauge, Source, measure_seeds
from benchmarks.naming import folder_name
from benchmarks.ready import check_folder
from benchmarks.settings import Measure, Protocol, Several, freeze, group_of, thaw
from benchmarks.single import show
from benchmarks.sweep.finished import check_same_inputs, check_same_options, inputs_of
from hierdiff.data import ImageData, datasets
from hierdiff.data.cache import cache_folder
from hierdiff.files.lock import worked_in
from hierdiff.images import write_sheet
from hierdiff.metrics.attributes import ATTRIBUTES
from hierdiff.metrics.cached import CachedFeatures
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.table import (
    CAPTIONED,
    check_metrics,
    join_extractors,
)
from hierdiff.options import Count, check, hints
from hierdiff.processes import Processes
from hierdiff.registry import Later, Node
from hierdiff.resolution import (
    Resolution,
    Sides,
    check_resolutions,
    finest_first,
    plain_of,
    px,
    resolution_of,
    text_of,
)
from hierdiff.results.provenance import now, provenance
from hierdiff.results.record import EXTERNAL, FILE, SCHEMA, UNKNOWN, Record

log = logging.getLogger(__name__)

SHOWN = 32  # images on the sheet
Fact = str | int | float | bool | Sequence[Any]


@dataclass(frozen=True)
class Stated:
    """What the maker of the images says of them; "unknown" where it is not said.

    labels: how classes were drawn, "random" or "balanced", which a protocol asks for.
    """

    method: Fact = UNKNOWN
    checkpoint: Fact = UNKNOWN
    guidance: Fact = UNKNOWN
    sampler: Fact = UNKNOWN
    steps: Fact = UNKNOWN
    ema: Fact = UNKNOWN
    precision: Fact = UNKNOWN
    seed: Fact = UNKNOWN
    labels: Fact = UNKNOWN
    source: Fact = UNKNOWN
    licence: Fact = UNKNOWN


@dataclass(frozen=True)
class ExternalMeasure:
    """Options of the quality. samples: images in each of the disjoint sets that a value is the mean
    of, None for one set of all; resolutions: beside that of the images; seed: of the Gaussian. The
    others are as in `benchmarks.settings.Measure`."""

    extractor: Later[Extractor]
    metrics: Sequence[str]
    samples: Annotated[int, Several] | None
    resolutions: Sequence[Count | Sides]
    batch: Count
    references: Mapping[int | str, str | Path] | None
    seed: int


# options of measuring that runs alone have
OF_RUNS = {one.name for one in fields(Measure)} - {one.name for one in fields(ExternalMeasure)}


@dataclass(frozen=True)
class ExternalSettings:
    """The settings of the command. images, trust: see `external_images`. data: None where all
    references are files. dataset: its name in tables, None for that of the data or of the file.
    conditions: "test" where image i was made under evaluation row i of the test part, "own" where
    it was made under the caption and label beside it. protocol: None for none."""

    images: str | Path | Node
    label: str | int | float
    folder: str | Path | None
    split: Literal["train", "all"]
    dataset: str | None
    conditions: Literal["unknown", "test", "own"]
    trust: Sequence[str]
    stated: Stated
    measure: ExternalMeasure
    data: Node | None = None
    protocol: Protocol | None = None

    @property
    def place(self) -> Path:
        """The folder of the record."""
        return Path(self.folder or Path("runs") / folder_name(str(self.label), []))

    def to_config(self) -> dict[str, Any]:
        """As new dicts, lists and plain values; without `data` and `protocol` where there are
        none."""
        config = thaw(self)
        chosen = {"data", "protocol"}
        return {name: one for name, one in config.items() if name not in chosen or one is not None}


@dataclass(frozen=True)
class Job:
    """An evaluation that has passed all checks.

    sha256: of the images' pixels. conditions: None where they are not known. resolutions: where
    images are measured, finest first. metrics: settled. data: None where all references are files,
    which `files` are by resolution.
    """

    settings: ExternalSettings
    images: External
    sha256: str
    data: ImageData | None
    files: Mapping[Resolution, str | Path]
    resolutions: Sequence[Resolution]
    metrics: Sequence[str]
    extractor: Extractor
    conditions: Conditions | None

    @property
    def set_size(self) -> int:
        """Number of images behind each value."""
        return self.settings.measure.samples or len(self.images)

    @property
    def config(self) -> dict[str, Any]:
        """The settings, with the metrics settled."""
        config = self.settings.to_config()
        return {**config, "measure": {**config["measure"], "metrics": list(self.metrics)}}

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of everything that the record is made from."""
        data = None if self.data is None else self.data.sha256
        parts = {k: v for k, v in self.config.items() if k in ("data", "measure")}
        own = self.conditions.sha256 if isinstance(self.conditions, OwnConditions) else None
        beside = {} if own is None else {"captions and labels": own}
        return {"images": self.sha256, **beside, **inputs_of(parts, data)}


def external_settings(config: Mapping[str, Any]) -> ExternalSettings:
    """The settings of a composed config.

    Raises:
        ValueError: for a value that an option cannot have.
    """
    kinds = hints(ExternalSettings)
    protocol = config.get("protocol")
    if protocol is not None:  # its file also sets options that only runs have
        measure = {k: v for k, v in config["measure"].items() if k not in OF_RUNS}
        config = {**config, "measure": measure}
        protocol = group_of(Protocol, protocol, "protocol")
    groups: dict[str, Any] = {
        "protocol": protocol,
        "stated": group_of(Stated, config["stated"], "stated"),
        "measure": group_of(ExternalMeasure, config["measure"], "measure"),
    }
    rest = {
        one.name: config.get(one.name) for one in fields(ExternalSettings) if one.name not in groups
    }
    for name, value in rest.items():
        check(value, kinds[name], name)
    return ExternalSettings(**{name: freeze(value) for name, value in rest.items()}, **groups)


def ready_to_evaluate(settings: ExternalSettings) -> Job:
    """Checks an evaluation and reads every image once; nothing is measured or written.

    Raises:
        OSError: where a file is absent.
        ValueError: for images, references or options that do not fit each other.
    """
    check_folder(settings.place)
    measure = settings.measure
    if settings.protocol is not None:
        check_files(settings.protocol, measure.extractor, measure.references)
    images = external_images(settings.images, settings.trust)
    files = files_of(measure.references)
    data = None if settings.data is None else datasets.build(settings.data, at="data")
    sides = sides_to_measure(images.resolution, measure.resolutions, list(files), data is None)
    absent = [side for side in sides if side not in files]
    if data is None and absent:
        raise ValueError(
            f"images of {px(images.resolution)} have nothing to be compared with at "
            f"{', '.join(map(px, absent))}: give data=NAME (folder, critters, ...), or "
            f"measure.references={{{text_of(absent[0])}: FILE.npz}}"
        )
    if data is not None:
        check_against(images, data)
    n, count = measure.samples or len(images), len(images)
    if n > count or n < 2:
        raise ValueError(f"images={settings.images}: {count} images, {max(n, 2)} are needed")
    if count % n:
        log.warning("the last %d of %d images are left over and not measured", count % n, count)
    conditions = conditions_of(settings.conditions, images, data)
    metrics = settled_metrics(settings, conditions, sides)
    extractor = extractors.build(measure.extractor, at="measure.extractor")
    join_extractors(extractor, metrics)
    check_metrics(metrics, extractor, n=n, others=[ATTRIBUTES], resolutions=sides)
    check_foreign(files, sides, extractor, metrics)
    sha256 = images.sha256()
    return Job(settings, images, sha256, data, files, sides, metrics, extractor, conditions)


def sides_to_measure(
    own: Resolution, wanted: Sequence[Any], files: Sequence[Resolution], files_alone: bool
) -> tuple[Resolution, ...]:
    """The resolution of the images, and the coarser ones, finest first.

    wanted: by the user; where there are none, half of the images', or those of the files.

    Raises:
        ValueError: for one that does not divide that of the images.
    """
    coarser = [resolution_of(one) for one in wanted] or list(files)
    if not coarser and not files_alone and isinstance(own, int) and own % 2 == 0:
        coarser = [own // 2]
    sides = finest_first([own, *coarser])
    for one in coarser:
        if one != own:
            check_resolutions([own, one])
    return tuple(sides)


def check_against(images: External, data: ImageData) -> None:
    """Refuses images that are not like the data.

    Raises:
        ValueError: for other sides or channels.
    """
    if data.resolution != images.resolution:
        side = plain_of(images.resolution)
        way = f"give data.resolution={side}" if isinstance(side, int) else "cut them to squares"
        raise ValueError(
            f"images are of {px(images.resolution)}, data={data.name} of {px(data.resolution)}: "
            f"{way}"
        )
    channels = data.images.shape[1]
    if channels != images.shape[2]:
        words = {1: "greyscale", 3: "colour"}
        raise ValueError(
            f"images are in {words[images.shape[2]]}, data={data.name} in {words[channels]}: "
            f"convert them, or give data.channels={images.shape[2]} where it has that option"
        )


def conditions_of(
    kind: Literal["unknown", "test", "own"], images: External, data: ImageData | None
) -> Conditions | None:
    """Under what the images were made, None where it is not known.

    Raises:
        ValueError: where the conditions are of data that is not given, or the images have none.
    """
    if kind == "unknown":
        return None
    if kind == "test":
        if data is None:
            raise ValueError("conditions=test are those of the data's test part: give data=NAME")
        return EvaluationConditions(data.part("test"))
    if not images.captions and not images.labels:
        raise ValueError(
            "conditions=own: no caption or class is beside the images: put 0.txt or 0.cls beside "
            "0.png, or lines of metadata.jsonl, or captions or arr_1 into the .npz"
        )
    own = OwnConditions(images.labels, images.captions, data)
    if own.law is not None and own.says_nothing:
        log.warning("no caption or class beside the images is one of the data: none has its parts")
    return own


def settled_metrics(
    settings: ExternalSettings, conditions: Conditions | None, sides: Sequence[Resolution]
) -> list[str]:
    """The metrics with `auto` made definite.

    Raises:
        ValueError: for one that needs the conditions of the images where they are not known.
    """
    names = list(settings.measure.metrics)
    if conditions is None:
        for name in (ATTRIBUTES, CAPTIONED):
            if name in names:
                raise ValueError(
                    f"metric {name!r} needs the conditions that images were made under: give "
                    f"conditions=test if they are those of the test part, conditions=own if they "
                    f"are beside the images, or leave it out"
                )
        return [name for name in names if name != AUTO]
    if CAPTIONED in names and not conditions.captions(range(1)):
        raise ValueError(f"metric {CAPTIONED!r}: there are no captions, leave it out")
    if CAPTIONED in names and isinstance(conditions, OwnConditions) and conditions.without_caption:
        raise ValueError(
            f"metric {CAPTIONED!r}: {conditions.without_caption} images have no caption: give each "
            f"one, or leave it out"
        )
    return settle_metrics(names, conditions.law, sides)


def finished(job: Job) -> Record | None:
    """The record in the folder, None where there is none; one of other images or options raises
    `Unlike`."""
    path = job.settings.place / FILE
    if not path.exists():
        return None
    record = Record.read(path)
    check_same_options(record, job.config, job.settings.place)
    check_same_inputs(record, job.config, job.settings.place, lambda: job.inputs)
    return record


def evaluate(settings: ExternalSettings) -> Record:
    """The record of external images, read or made; errors are those of `ready_to_evaluate`."""
    started, job = now(), ready_to_evaluate(settings)
    record = finished(job)
    if record is not None:
        log.info("%s is there: remove it to measure again", settings.place / FILE)
        return record
    extractor, processes = job.extractor.to(device_for(None)), Processes.joined()
    folder = statistics_folder(settings.data or {})
    references = real_references(
        job.data,
        extractor,
        job.resolutions,
        folder,
        given=job.files,
        split=settings.split,
        metrics=job.metrics,
        processes=processes,
    )
    gauge = Gauge(extractor, references, processes)
    scale: Mapping[str, Rows] = {}
    if job.data is not None and settings.split == "train":  # else no held-out images are left
        seed = settings.measure.seed
        scale = scale_rows(
            job.data, gauge, job.set_size, seed=seed, folder=folder, metrics=job.metrics
        )
    quality, kept = measure_images(job, gauge)
    stated = Sets(
        job.metrics,
        job.set_size,
        range(len(job.images) // job.set_size),
        str(settings.stated.labels),
    )
    evaluation = evaluation_of(settings.protocol, stated, job.images.resolution, gauge)
    name = settings.dataset
    if name is None:
        name = Path(job.files[job.resolutions[0]]).stem if job.data is None else job.data.name
    record = Record(
        name=str(settings.label),
        method=EXTERNAL,
        data=name,
        budget=UNKNOWN,
        resolutions=(plain_of(job.images.resolution),),
        quality=tuple(quality),
        scale=scale,
        config=job.config,
        provenance={**provenance_of(job, started), **evaluation},
    )
    if processes.first:
        picture(job)
        record.write(settings.place)
    kept.remove()
    return record


def measure_images(job: Job, gauge: Gauge) -> tuple[Rows, Kept]:
    """The rows of the images over all sets, going on after a kill, and what was kept for that.

    A collective call.
    """
    n, batch = job.set_size, job.settings.measure.batch
    hashes = [reference.hash for reference in gauge.references.values()]
    key = measuring_key(
        *(PROTOCOL, SCHEMA, job.config["measure"], job.settings.conditions, job.inputs),
        *(gauge.extractor.key, hashes, device_for(None).type),
    )
    kept = Kept(job.settings.place / MEASURING, key, gauge.processes)
    features = CachedFeatures(cache_folder() / "features")
    gauge = replace(gauge, features=features.batches)

    def measure_set(number: int) -> Rows:
        def read(numbers: range) -> PixelImages:
            first = number * n
            images = job.images.images(first + numbers.start, first + numbers.stop)
            return {job.images.resolution: images}

        source = Source(f"set {number + 1} of images", n, read, batch)
        conditions = None if job.conditions is None else Following(job.conditions, number * n)
        return gauge.rows(source, job.metrics, conditions, kept)

    rows = measure_seeds(measure_set, range(len(job.images) // n), kept)
    log.info("features of %d images computed, of %d kept", features.computed, features.read)
    return rows, kept


def picture(job: Job) -> None:
    """Writes sheets of the first images, and of real ones."""
    first = job.images.images(0, min(SHOWN, len(job.images)))
    write_sheet(job.settings.place / "samples.png", [first])
    if job.data is not None and job.settings.split == "train":
        real = real_images(job.data.part("test"), SHOWN)
    elif job.data is not None:
        real = ImageBatches(job.data, SHOWN)[0]
    else:
        return
    write_sheet(job.settings.place / "real.png", [real])


def provenance_of(job: Job, started: str) -> dict[str, Any]:
    """What is needed to make the row again."""
    height, width, channels = job.images.shape
    left_over = len(job.images) % job.set_size
    return {
        "protocol": PROTOCOL,
        "images": {
            "sha256": job.sha256,
            "n": len(job.images) - left_over,
            **({"left over": left_over} if left_over else {}),
            **{"height": height, "width": width, "channels": channels},
            **({} if job.images.classes is None else {"classes": job.images.classes}),
            **({"captions": captions} if (captions := sum(map(bool, job.images.captions))) else {}),
            **job.images.origin,
            **({"skipped": len(job.images.skipped)} if job.images.skipped else {}),
            **({"copies": job.images.copies} if job.images.copies else {}),
        },
        "inputs": job.inputs,
        **provenance(started=started, seeds={}, config=job.config),
    }


def evaluate_one(config: dict[str, Any]) -> None:
    """What the command does with its options: measures, or reads the record, and prints its row."""
    settings = external_settings(config)
    check_folder(settings.place)
    with worked_in(settings.place):
        record = evaluate(settings)
    show(record, settings.place)
