"""All checks of a run, before compute is spent: on shapes alone, in seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.conditions import EvaluationConditions
from benchmarks.cost.cases import cases_of, trajectories
from benchmarks.measure.analyses import ANALYSES
from benchmarks.measure.protocol import check_files
from benchmarks.measure.quality import settle_metrics
from benchmarks.measure.scale import check_foreign, files_of
from benchmarks.measure.selection import check_selection
from benchmarks.plan.budget import SAMPLING, make_plan, with_plan
from benchmarks.plan.plan import Plan
from benchmarks.settings import Analysis, Measure, Selection, Settings, freeze
from benchmarks.sweep.finished import record_in
from hierdiff import training
from hierdiff.methods import Generator, Method
from hierdiff.metrics.attributes import ATTRIBUTES, check_attributes
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.perceptual import perceptuals
from hierdiff.metrics.table import CAPTIONED, check_metrics, join_extractors
from hierdiff.prepared import Prepared, prepare
from hierdiff.resolution import Resolution, check_resolutions, finest_first, resolution_of, sides_of
from hierdiff.results.record import FILE, Record

DECISIVE = (
    *("fd", "kd", "fd_squeezenet", "kd_squeezenet", "fd_infinity", "is", "sfid", "cmmd"),
    *("clip_score", "mind"),
)
TIME = "time"  # of `dry_run`: some steps are timed


@dataclass(frozen=True)
class Ready:
    """A run that has passed all checks.

    settings: settled. run: on shapes alone, see `prepare`. record: that of a finished run, None
    where it has to be made.
    """

    settings: Settings
    run: Prepared
    plan: Plan
    extractor: Extractor
    record: Record | None


def ready(settings: Settings) -> Ready:
    """Checks a run; nothing is trained, sampled or written.

    Raises:
        ImportError: where a package is absent.
        OSError: where a file is absent.
        ValueError: for settings that a run cannot have.
    """
    check_folder(settings.place)
    if settings.dry_run not in (False, True, TIME):
        raise ValueError(
            f"dry_run={settings.dry_run}: take true for the plan, or {TIME} to expect seconds"
        )
    record = record_of(settings)
    run = prepare(settings.to_config(), shapes_alone=True)
    check_method(run.method, settings.analysis)
    measure, sides = settings.measure, resolutions_of(settings.measure, run)
    if settings.samples is not None and len(sides_of(sides[0])) != 2:
        raise ValueError(f"samples={settings.samples}: clips are not stored, leave it out")
    if settings.protocol is not None:
        check_files(settings.protocol, measure.extractor, measure.references)
    metrics = settle_metrics(measure.metrics, run.data.law, sides)
    settings = replace(settings, measure=replace(measure, metrics=tuple(metrics)))
    extractor = check_measure(settings.measure, run)
    if settings.select.options:
        check_select(settings.select, settings, run, extractor)
    cases_of(run.config, trajectories(run.method), settings.cost, "cpu")
    plan = make_plan(
        run,
        settings.match,
        settings.place,
        dry=bool(settings.dry_run),
        timed=settings.dry_run == TIME,
    )
    run = with_plan(run, plan)
    training.check_run(run.method, settings.place, run.recipe, run.config)
    settings = replace(settings, trainer=freeze(run.config["trainer"]))
    if plan.match and plan.sampler_steps:
        settings = settings.sampled_by({"steps": plan.sampler_steps})
    return Ready(settings, run, plan, extractor, record)


def record_of(settings: Settings) -> Record | None:
    """The record of a finished run in the folder; None where there is none, or it has failed.

    A record of other settings raises `Unlike`.

    Raises:
        ValueError: where the settings have an analysis and the record was edited by hand.
    """
    record = record_in(settings.to_config(), settings.place)
    if record is not None and record.edited and settings.analysis is not None:
        raise ValueError(
            f"{settings.place / FILE} was changed by hand, and an analysis would make it look "
            f"whole: remove it and run again"
        )
    return record


def check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be written to.

    Raises:
        ValueError: where it cannot.
    """
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(
            f"folder={folder}: {place} is no folder that can be written to: give another folder=..."
        )


def check_method(method: Method, analysis: Analysis | None) -> None:
    """Refuses a method that cannot be sampled or analysed.

    Raises:
        ValueError: for such a method.
    """
    method.check_ready()
    if analysis is not None:
        ANALYSES[analysis.name].check(method, analysis)


def check_measure(measure: Measure, run: Prepared) -> Extractor:
    """The extractor, after a check that everything in `measure` can be computed.

    Raises:
        ImportError: where a package is absent.
        OSError: where a file is absent.
        ValueError: for seeds, metrics, resolutions or references that the run cannot have.
    """
    seeds, metrics = list(measure.seeds), {*measure.metrics}
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"measure.seeds={seeds}: name one or more, each once")
    extractor = extractors.build(measure.extractor)
    join_extractors(extractor, measure.metrics)
    test, train_part = run.data.part("test"), run.data.part("train")
    n = min(measure.samples, len(test), len(train_part))
    sides = resolutions_of(measure, run)
    known: dict[str, Any] = {"others": [ATTRIBUTES], "resolutions": sides}
    check_metrics(measure.metrics, extractor, **known)
    try:
        check_metrics(measure.metrics, extractor, n=n, **known)
    except ValueError as error:
        if n == measure.samples:
            raise
        raise ValueError(
            f"{error}; real images are measured too, and of {run.data.name} there are "
            f"{len(train_part)} for training and {len(test)} for the test"
        ) from error
    if measure.curve.samples:
        join_extractors(extractor, measure.curve.metrics)
        few = min(measure.curve.samples, len(train_part))
        check_metrics(measure.curve.metrics, extractor, n=few, **known)
        metrics |= {*measure.curve.metrics}
    if CAPTIONED in metrics and test.captions is None:
        raise ValueError(
            f"metric {CAPTIONED!r} needs captions, which {run.data.name} has none of: take data "
            f"with captions, or leave the metric out"
        )
    conditions = EvaluationConditions(test, measure.labels)
    if CAPTIONED in metrics and conditions.captions(range(1)) is None:
        raise ValueError(
            f"metric {CAPTIONED!r} with measure.labels={measure.labels}: images are made under no "
            f"captions then, take measure.labels=test or leave the metric out"
        )
    if ATTRIBUTES in metrics:
        check_attributes(run.data.law, sides)
    check_foreign(files_of(measure.references), sides, extractor, metrics)
    if any(isinstance(stage, Generator) and stage.lossy for stage in run.method.stages):
        perceptuals.build(measure.perceptual)
    return extractor


def check_select(
    selection: Selection, settings: Settings, run: Prepared, extractor: Extractor
) -> None:
    """Refuses a selection that the run cannot make.

    Raises:
        ValueError: as in `check_selection`, for a metric that cannot decide, and for a budget of
            sampling, which would have decided already.
    """
    check_selection(selection, settings.measure, run)
    n = min(selection.samples, len(run.data.part("train")))
    if selection.metric not in DECISIVE:
        raise ValueError(
            f"select.metric={selection.metric}: take a metric of one value of which an end is "
            f"better, {', '.join(DECISIVE)}"
        )
    join_extractors(extractor, [selection.metric])
    check_metrics(
        [selection.metric], extractor, n=n, resolutions=resolutions_of(settings.measure, run)
    )
    budgets = [name for name in SAMPLING if getattr(settings.match, name) is not None]
    if budgets and (selection.guidance or selection.steps):
        raise ValueError(
            f"match.{budgets[0]} decides the cost of sampling, and select would change it: leave "
            f"out select.guidance and select.steps, or the budget"
        )


def resolutions_of(measure: Measure, run: Prepared) -> tuple[Resolution, ...]:
    """The resolutions at which a run is measured: those of `measure` and of the method, finest
    first.

    Raises:
        ValueError: where one does not divide the finest.
    """
    own = [resolution_of(name) for name in run.method.resolutions]
    resolutions = finest_first([*(resolution_of(one) for one in measure.resolutions), *own])
    for one in resolutions[1:]:
        check_resolutions([resolutions[0], one])
    return tuple(resolutions)
