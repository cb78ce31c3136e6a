"""The main job: train a method, sample it, measure it, write its record, print its row.

`python -m benchmarks.run method=mdm`; `-m method=mdm,end_to_end` runs one after another. The same
command again goes on where it stopped; a run that has its record prints it. `--dry-run` refuses
what the run would refuse, shows what each stage would be given of the budget, and does nothing, in
seconds; `--dry-run=time` also times some steps.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console

from benchmarks.cost.cases import by_resolution, cases_of, trajectories
from benchmarks.cost.worker import costs
from benchmarks.measure import exposure
from benchmarks.measure.curves import learning_curves
from benchmarks.measure.kept import FILE as MEASURING
from benchmarks.measure.kept import Kept, key_of, weights_hash
from benchmarks.measure.pictures import film, neighbour_sheet
from benchmarks.measure.quality import Meter, quality_of_seeds, settled_metrics
from benchmarks.measure.reconstruction import reconstructions
from benchmarks.measure.samples import Images, caption_of, real_images, samples
from benchmarks.measure.scale import check_sides, files_of, real_references, scale_rows
from benchmarks.plan.budget import planned
from benchmarks.plan.plan import Plan
from benchmarks.plan.prices import device_of
from benchmarks.plan.table import table
from benchmarks.progress import track
from benchmarks.settings import check_options, check_plain
from benchmarks.sweep.finished import check_same, inputs_of
from benchmarks.sweep.job import failed, looked_at, reason
from benchmarks.sweep.job import job as swept_job
from benchmarks.sweep.launch import in_sweep, launched
from benchmarks.sweep.process import BUSY, follow_sweep
from benchmarks.tables.formats.terminal import rich_table, said
from benchmarks.tables.table import frame
from hierdiff import training
from hierdiff.command import command, plain
from hierdiff.config import one_line
from hierdiff.data.cache import cache_folder
from hierdiff.data.order import RULE
from hierdiff.files import Busy, clean, worked_in, write_png
from hierdiff.images import sheet
from hierdiff.levels import (
    Resolution,
    check_resolutions,
    finest_first,
    plain_of,
    resolution_of,
)
from hierdiff.methods import Generator, Method, methods
from hierdiff.metrics.attributes import ATTRIBUTES, check_attributes
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.fidelity import (
    CAPTIONED,
    PROTOCOL,
    check_metrics,
    check_reference,
    neighbours,
)
from hierdiff.metrics.perceptual import perceptuals
from hierdiff.metrics.reference import foreign
from hierdiff.results.folders import readable
from hierdiff.results.provenance import now, provenance
from hierdiff.results.record import FILE, Record
from hierdiff.train import Prepared, prepare
from hierdiff.training import train

log = logging.getLogger(__name__)

SAMPLED = torch.float32  # weights in sampling, whatever they were trained in
TIMED = "time"  # of `dry_run`: steps are timed
SHOWN, NEAREST = 32, 12  # images on the sheet, and on that of nearest neighbours

# Overrides left out of the folder name: they do not make another run.
NAMED = ("method", "data", "budget", "analysis", "folder", "name", "label", "dry_run")
SIGNS = re.compile(r"[^A-Za-z0-9._-]+")  # what needs quotes in a shell, a URL or hydra's grammar
LONGEST = 180  # bytes; file systems allow 255


def folder_name(name: str, overrides: Sequence[str]) -> str:
    """A run's name with the options that were set by hand: `mdm-critters-smoke+trainer.steps-20`.

    It needs no quotes anywhere. Where signs had to be left out, or it would be too long, it ends in
    a hash of the whole, so that other options have another name.
    """
    words = sorted(override.lstrip("+~") for override in overrides)
    words = [one for one in words if not one.startswith((*(f"{k}=" for k in NAMED), "analysis."))]
    pairs = [one.partition("=")[::2] for one in words]
    options = ("-".join(map(unquoted, filter(None, pair))) for pair in pairs)
    found = "+".join(["/".join(map(unquoted, name.split("/"))), *options])
    changed = any(SIGNS.search(part) for part in (*name.split("/"), *chain(*pairs)))
    if not changed and len(found) <= LONGEST:
        return found
    digest = hashlib.sha256("\0".join([name, *words]).encode()).hexdigest()[:8]
    return f"{found[:LONGEST].rstrip('+-.')}+{digest}"


def unquoted(part: str) -> str:
    return SIGNS.sub("-", part).strip("-") if SIGNS.search(part) else part


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


def measured(
    options: dict[str, Any], run: Prepared, plan: Plan, folder: Path, extractor: Extractor
) -> Record:
    """Trains where that is not done, then measures; the record is written last."""
    started, made_of = now(), inputs_of(options, run.data.sha256)
    wanted, cache = options["measure"], _cache(options)
    test = run.data.part("test")
    n, batch, seeds = wanted["samples"], wanted["batch"], wanted["seeds"]
    if n > len(test):
        log.info("%d samples under the conditions of %d test images, in turn", n, len(test))
    sides = resolutions_of(wanted, run)

    metrics = wanted["metrics"]
    summary = train(run.method, run.part, folder, run.recipe, seed=run.seed, config=run.config)

    device = device_of(run)
    extractor = extractor.to(device)
    method, precision = run.method.to(device, SAMPLED), run.recipe.precision
    references = real_references(
        run.data, extractor, sides, cache, given=files_of(wanted["references"])
    )
    scale = scale_rows(
        run.data,
        extractor,
        references,
        n,
        seed=seeds[0],
        folder=cache,
        track=track,
        metrics=metrics,
    )
    key = key_of(
        *(PROTOCOL, run.config["method"], wanted, precision, device.type, run.data.sha256),
        *(extractor.key, [references[side].hash for side in sides], weights_hash(method)),
    )
    kept = Kept(folder / MEASURING, key)

    def drawn(seed: int, start: int) -> Iterable[Images]:
        options = {"seed": seed, "precision": precision, "batch": batch, "start": start}
        left = -(-(n - start) // batch)
        for images in track(samples(method, test, n, **options), f"samples of seed {seed}", left):
            if not kept.shown:  # the first images of the first seed
                kept.shown = {name: x[:SHOWN].clone() for name, x in images.items()}
            yield images

    rows = quality_of_seeds(drawn, seeds, lambda: Meter(extractor, references, metrics, test), kept)
    shown = kept.shown
    looked_at = next(iter(shown.values()))[:NEAREST]
    finest = resolution_of(looked_at.shape[2:])
    real = real_images(test, SHOWN)
    write_png(folder / "samples.png", sheet(list(shown.values())))
    write_png(folder / "real.png", sheet([real]))
    alone = finest in files_of(wanted["references"])  # moments alone know no neighbours
    if not alone and looked_at.ndim == 4:  # and features of frames none of clips
        k = min(3, references[finest].statistics.n)
        _, rows_of = neighbours(looked_at, extractor, references[finest], k=int(k))
        picture = neighbour_sheet(looked_at, rows_of, run.data.part("train"))
        write_png(folder / "neighbours.png", picture)
    last = method.at(method.resolutions[0])
    strip = film(last, test, seed=seeds[0], precision=precision)
    if strip is not None:
        write_png(folder / "film.png", strip)
    if last.lossy:
        again, made = reconstructions(
            last,
            real_images(test, n),
            extractor,
            references[sides[0]],
            perceptuals.build(wanted["perceptual"]).to(device),
            precision=precision,
            conditions=test,
        )
        rows += again
        write_png(folder / "reconstructions.png", sheet([real, made[:SHOWN]]))
    curves = learning_curves(
        folder,
        methods.build(run.config["method"], offered=run.data.facts).to(device),
        plan,
        test,
        extractor,
        references,
        wanted=wanted["curve"],
        seed=seeds[0],
        precision=precision,
        track=track,
        kept=kept,
    )

    log.info("cost, each case in a fresh process")
    made_by = trajectories(run.method)
    cases = cases_of(run.config, made_by, options["cost"], device.type, caption=caption_of(test))
    record = Record(
        name=options["label"],
        method=run.config["method"]["name"],
        data=run.data.name,
        budget=options["budget_name"],
        resolutions=tuple(map(plain_of, run.method.resolutions)),
        quality=tuple(rows),
        cost=tuple(by_resolution(costs(cases, track))),
        scale=scale,
        curves=tuple(curves),
        training={
            **plan.training(summary),
            "notes": [note for stage in method.stages for note in stage.notes],
        },
        config=options,
        provenance={
            "protocol": PROTOCOL,
            "rows": {"rule": RULE, "n": len(test)},
            "inputs": made_of,
            **provenance(
                started=started,
                seeds={"training": run.seed, "samples": wanted["seeds"]},
                config=options,
            ),
        },
    )
    record.write(folder)
    kept.remove()
    return record


def analysed(
    options: dict[str, Any], run: Prepared, folder: Path, record: Record, extractor: Extractor
) -> Record:
    """The record with the analysis that `analysis=...` asks for, and its picture."""
    wanted, cache = options["analysis"], _cache(options)
    train(run.method, run.part, folder, run.recipe, seed=run.seed, config=run.config)
    device = device_of(run)
    method, extractor = run.method.to(device, SAMPLED), extractor.to(device)
    test = run.data.part("test")
    rows = exposure.exposure_bias(
        method,
        test,
        extractor,
        real_references(
            run.data, extractor, [resolution_of(name) for name in run.method.resolutions], cache
        ),
        n=wanted["samples"],
        log_snrs=wanted["log_snrs"],
        seed=options["measure"]["seeds"][0],
        precision=run.recipe.precision,
        track=track,
    )
    own = {one.stage.name: one.bridge.log_snr for one in exposure.upsamplers(method)}
    exposure.write_picture(folder / f"{wanted['name']}.png", rows, own)
    found = {"rows": rows, "gap": exposure.gaps(rows, method), "level": own}
    record = replace(record, analysis={**record.analysis, wanted["name"]: found})
    record.write(folder)
    return record


def checked_extractor(wanted: Mapping[str, Any], run: Prepared) -> Extractor:
    """The extractor, once it is known that all that `measure` asks for can be had."""
    seeds = list(wanted["seeds"])
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"measure.seeds={seeds}: name one or more, each once")
    extractor = extractors.build(wanted["extractor"])
    test, train_part = run.data.part("test"), run.data.part("train")
    n = min(wanted["samples"], len(test), len(train_part))
    sides = resolutions_of(wanted, run)
    known: dict[str, Any] = {"others": [ATTRIBUTES], "resolutions": sides}
    try:
        check_metrics(wanted["metrics"], extractor, n=n, **known)
    except ValueError as error:
        if n == wanted["samples"]:
            raise
        raise ValueError(
            f"{error}; real images are measured too, and of {run.data.name} there are "
            f"{len(train_part)} for training and {len(test)} for the test"
        ) from error
    curve = wanted["curve"] if wanted["curve"]["samples"] else {"metrics": [], "samples": n}
    few = min(curve["samples"], len(train_part))
    check_metrics(curve["metrics"], extractor, n=few, **known)
    metrics = {*wanted["metrics"], *curve["metrics"]}
    if ATTRIBUTES in metrics:
        check_attributes(run.data.law, sides)
    if CAPTIONED in metrics and test.captions is None:
        raise ValueError(
            f"metric {CAPTIONED!r} needs captions, which {run.data.name} has none of: take data "
            f"with captions, or leave the metric out"
        )
    check_sides(files_of(wanted["references"]), sides)
    for side, path in files_of(wanted["references"]).items():
        reference = foreign(path, extractor, side)
        for name in metrics - {ATTRIBUTES}:
            check_reference(name, reference)
    if any(isinstance(stage, Generator) and stage.lossy for stage in run.method.stages):
        perceptuals.build(wanted["perceptual"])
    return extractor


def resolutions_of(wanted: Mapping[str, Any], run: Prepared) -> tuple[Resolution, ...]:
    """Where there are numbers: at the resolutions that are asked for, and at the method's own.

    Error: ValueError where one does not divide the finest.
    """
    own = [resolution_of(name) for name in run.method.resolutions]
    found = finest_first([*(resolution_of(one) for one in wanted["resolutions"]), *own])
    for one in found[1:]:
        check_resolutions([found[0], one])
    return tuple(found)


def _cache(options: dict[str, Any]) -> Path:
    """The folder that keeps reference statistics."""
    cache = cache_folder(options["data"].get("cache")) / "statistics"
    cache.mkdir(parents=True, exist_ok=True)
    clean(cache)
    return cache


@command("benchmark")
def main(cfg: Any) -> None:
    options = plain(cfg)
    check_plain(options)
    folder = Path(options["folder"])
    if options["dry_run"]:
        if in_sweep():
            looked_at(options["label"], lambda: dry(options, folder))
        else:
            dry(options, folder)
        return
    if in_sweep():
        record = swept_job(options, folder)
        if record is not None:
            shown(record, folder, preset="main")
        return
    check_folder(folder)
    try:
        with worked_in(folder):
            record = one(options, folder)
    except Busy as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(BUSY)
    shown(record, folder)
    for what, place in told(record, folder).items():
        console().print(said(f"{what:<9}{place}"), soft_wrap=True)


def dry(options: dict[str, Any], folder: Path) -> None:
    """What was found of the data, and the plan of a run that nothing speaks against."""
    job = ready(options, folder)
    log.info(job.run.data.summary())
    console().print(table({options["label"]: job.plan}))


@dataclass(frozen=True)
class Ready:
    """A run that nothing speaks against, its options as they were settled.

    run: on shapes alone, see `prepare`. record: the one that is there, None where the run has to be
    made, or made again.
    """

    run: Prepared
    plan: Plan
    extractor: Extractor
    record: Record | None


def ready(options: dict[str, Any], folder: Path) -> Ready:
    """Refuses all that a run, or a dry one, refuses, before compute is spent: nothing is trained,
    sampled or written. `options` then say what was settled.

    Errors: ValueError, OSError (an absent file), ImportError (an absent package).
    """
    check_options(options)
    check_folder(folder)
    dry_run, analysis = options["dry_run"], options.get("analysis")
    if dry_run not in (False, True, TIMED):
        raise ValueError(f"dry_run={dry_run}: take true for the plan, or {TIMED} to expect seconds")
    record = Record.read(folder) if (folder / FILE).exists() else None
    if record is not None and record.failure is not None:
        record = None
    if record is not None:
        check_same(record, options, folder)
        if record.edited and analysis is not None:
            raise ValueError(
                f"{folder / FILE} was changed by hand, and an analysis would make it look whole: "
                f"remove it and run again"
            )
    run = prepare(options, shapes_alone=True)
    check(run.method, analysis)
    measure = options["measure"]
    measure["metrics"] = settled_metrics(measure["metrics"], run.data, resolutions_of(measure, run))
    extractor = checked_extractor(measure, run)
    cases_of(run.config, trajectories(run.method), options["cost"], "cpu")  # refuses what is none
    plan = planned(run, options["match"], folder, dry=bool(dry_run), timed=dry_run == TIMED)
    if plan.match:
        options["trainer"]["steps"], options["sampler"]["steps"] = plan.steps, plan.sampler_steps
        run = prepare(options, data=run.data, shapes_alone=True)
    training.check(run.method, folder, run.recipe, run.config)
    options["trainer"] = run.config["trainer"]
    return Ready(run, plan, extractor, record)


def check_folder(folder: Path) -> None:
    """ValueError where a run could not write."""
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(
            f"folder={folder}: {place} is no folder that can be written to: give another folder=..."
        )


def one(options: dict[str, Any], folder: Path) -> Record:
    """The record of one run: as it is there, or made; a failure becomes a record and is raised."""
    job, analysis = ready(options, folder), options.get("analysis")
    record, data = job.record, job.run.data
    if record is None and (folder / FILE).exists():
        log.info("tried again, it had failed: %s", Record.read(folder).failure)
        (folder / FILE).unlink()
    try:
        if record is not None:
            log.info("%s is there: remove it to measure again", folder / FILE)
            (folder / MEASURING).unlink(missing_ok=True)  # of a process that was killed just then
        else:
            console(stderr=True).print(table({options["label"]: job.plan}))
            record = measured(options, prepare(options, data=data), job.plan, folder, job.extractor)
        if analysis is not None and analysis["name"] not in record.analysis:
            record = analysed(options, prepare(options, data=data), folder, record, job.extractor)
    except Exception as error:
        if not (folder / FILE).exists():
            failed(options, reason(error)).write(folder)
        raise
    return record


def shown(record: Record, folder: Path, preset: str = "all") -> None:
    """The table of the record and of those beside it."""
    console().print(rich_table(frame(beside(record, folder), preset)))


def console(stderr: bool = False) -> Console:
    made = Console(stderr=stderr)
    made.width = made.width if made.is_terminal else 160
    return made


def check(method: Method, analysis: Mapping[str, Any] | None) -> None:
    """Refuses, before compute, what would be found out after training."""
    method.check_ready()
    if analysis is not None:
        exposure.check(method, analysis)


def beside(record: Record, folder: Path) -> list[Record]:
    """The record, and of those of the same data and budget in the folders next to it the ones whose
    numbers may share its table."""
    found = [record]
    others, left_out = readable(folder.parent, depth=1)
    for line in left_out:
        log.warning("left out: %s", line)
    for other in others:
        assert other.path is not None
        same = (other.data, other.budget) == (record.data, record.budget)
        if same and other.path != (folder / FILE).resolve():
            try:
                frame([*found, other], preset="all")
            except ValueError as error:
                log.info("%s is not in this table: %s", other.path.parent, error)
            else:
                found.append(other)
    return found


def told(record: Record, folder: Path) -> dict[str, str]:
    """Where to look."""
    lines = {
        "record": f"{folder / FILE}",
        "samples": f"{folder / 'samples.png'} (each level side by side)",
        "loss": f"{folder / 'loss.png'}",
        "table": f"python -m benchmarks.tables {shlex.quote(str(folder.parent))} --format markdown",
    }
    for name, found in record.analysis.items():
        gaps = ", ".join(f"{stage} {gap:+.3g}" for stage, gap in found["gap"].items())
        lines[name] = f"{folder / f'{name}.png'} (gap {gaps})"
    return lines


def launch() -> None:
    """The command: one run, a sweep, or what a run would do (`--dry-run`)."""
    dry_runs = {"--dry-run": "dry_run=true", f"--dry-run={TIMED}": f"dry_run={TIMED}"}
    sys.argv[1:] = [dry_runs.get(word, word) for word in sys.argv[1:]]
    follow_sweep()
    launched(main)


if __name__ == "__main__":
    launch()
