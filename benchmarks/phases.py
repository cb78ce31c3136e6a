"""What a run does, one phase after another: it trains, draws samples, measures, pictures, records.

A `Bench` is what all of them work on. Whatever a phase has done is kept in the run folder, so that
the same command goes on after a kill.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import EvaluationConditions, example_caption
from benchmarks.cost.cases import by_resolution, cases_of, trajectories
from benchmarks.cost.worker import costs
from benchmarks.device import device_of
from benchmarks.measure.analyses import ANALYSES
from benchmarks.measure.curves import learning_curves
from benchmarks.measure.kept import FILE as MEASURING
from benchmarks.measure.kept import Kept, measuring_key, weights_hash
from benchmarks.measure.pictures import film, neighbour_sheet
from benchmarks.measure.protocol import evaluation_of
from benchmarks.measure.quality import Rows
from benchmarks.measure.reconstruction import reconstructions
from benchmarks.measure.samples import (
    Draw,
    PixelImages,
    real_images,
    sample_facts,
    stored_form,
)
from benchmarks.measure.scale import (
    files_of,
    real_references,
    scale_rows,
    statistics_folder,
)
from benchmarks.measure.selection import (
    Choice,
    choices,
    select_choice,
    selection_of,
    with_choice,
)
from benchmarks.measure.stream import Gauge, Source, measure_seeds
from benchmarks.plan.plan import Plan
from benchmarks.progress import track
from benchmarks.ready import Ready, resolutions_of
from benchmarks.settings import Analysis, Settings
from benchmarks.sweep.finished import inputs_of
from benchmarks.sweep.retry import tries_of
from hierdiff import training
from hierdiff.config import one_line
from hierdiff.data import ImageData
from hierdiff.data.order import RULE
from hierdiff.files.atomic import write, write_png
from hierdiff.files.samples import Samples
from hierdiff.images import write_sheet
from hierdiff.methods import Generator, Method, methods
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.neighbours import nearest_images
from hierdiff.metrics.perceptual import perceptuals
from hierdiff.metrics.quality import Candidate, CurvePoint
from hierdiff.prepared import Prepared, with_weights
from hierdiff.processes import Processes
from hierdiff.resolution import plain_of, resolution_of
from hierdiff.results.cost import Cost
from hierdiff.results.provenance import now, provenance
from hierdiff.results.record import FILE, SCHEMA, Record
from hierdiff.training import Summary

log = logging.getLogger(__name__)

SAMPLING = torch.float32  # weights in sampling, whatever they were trained in
SHOWN, NEAREST = 32, 12  # images on the sheet, and on that of nearest neighbours


@dataclass(frozen=True)
class Bench:
    """A trained method and all that is needed to measure it.

    started: when the run began. run: its method has the averaged weights, in float32 on its device.
    test: the held-out images. gauge: on the same device, with statistics of the training images, or
    those of the files that are given instead.
    """

    settings: Settings
    started: str
    run: Prepared
    plan: Plan
    summary: Summary
    test: ImageData
    gauge: Gauge

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.settings.place

    @property
    def method(self) -> Method:
        """The trained method."""
        return self.run.method

    @property
    def finest(self) -> Generator:
        """The stage that makes the finest images."""
        return self.method.at(self.method.resolutions[0])

    @property
    def precision(self) -> str:
        """Precision of training and sampling, such as "32-true"."""
        return self.run.recipe.precision

    @property
    def seed(self) -> int:
        """The first seed of the samples."""
        return self.settings.measure.seeds[0]

    @property
    def draw(self) -> Draw:
        """Samples of the first seed, whose classes and captions are those of the test images."""
        conditions = EvaluationConditions(self.test)
        return Draw(self.method, conditions, self.seed, self.precision, self.settings.measure.pack)

    def conditions(self, seed: int) -> EvaluationConditions:
        """Under what the images of a sampling seed are made."""
        return EvaluationConditions(self.test, self.settings.measure.labels, seed)


def train_method(job: Ready) -> Bench:
    """The bench of a run, after its training if that is not complete."""
    settings, started, run = job.settings, now(), with_weights(job.run)
    summary = training.train(
        run.method, run.part, settings.place, run.recipe, seed=run.seed, config=run.config
    )
    device = device_of(run)
    run = replace(run, method=run.method.to(device, SAMPLING))
    extractor, processes = job.extractor.to(device), Processes.joined()
    references = real_references(
        run.data,
        extractor,
        resolutions_of(settings.measure, run),
        statistics_folder(settings.data),
        given=files_of(settings.measure.references),
        metrics=[*settings.measure.metrics, *settings.measure.curve.metrics],
        processes=processes,
    )
    gauge = Gauge(extractor, references, processes)
    return Bench(settings, started, run, job.plan, summary, run.data.part("test"), gauge)


def measure(bench: Bench) -> Record:
    """The record of a run, written last, after its pictures."""
    digests = inputs_of(bench.settings.to_config(), bench.run.data.sha256)
    wanted, processes = bench.settings.measure, bench.gauge.processes
    n, on_hand = wanted.samples, len(bench.test)
    if n > on_hand:
        log.info("%d samples under the conditions of %d test images, in turn", n, on_hand)
    scale: Mapping[str, Rows] = {}
    if wanted.scale:
        folder = statistics_folder(bench.settings.data)
        scale = scale_rows(
            bench.run.data, bench.gauge, n, seed=bench.seed, folder=folder, metrics=wanted.metrics
        )
    kept = resumed_measuring(bench)
    bench, selection = select_options(bench, kept)

    def measure_seed(seed: int) -> Rows:
        source = samples_of(bench, kept, seed)
        return bench.gauge.rows(source, wanted.metrics, bench.conditions(seed), kept)

    quality = measure_seeds(measure_seed, wanted.seeds, kept)
    if processes.first:
        picture(bench, kept.shown)
    quality += processes.agree(lambda: measure_codecs(bench))
    curves = measure_curves(bench, kept)
    record = Record(
        name=str(bench.settings.label),
        method=bench.run.config["method"]["name"],
        data=bench.run.data.name,
        budget=str(bench.settings.budget_name),
        resolutions=tuple(map(plain_of, bench.method.resolutions)),
        quality=tuple(quality),
        cost=tuple(measure_cost(bench)),
        scale=scale,
        curves=tuple(curves),
        selection=tuple(selection),
        training=training_of(bench),
        config=bench.settings.to_config(),
        provenance=provenance_of(bench, digests),
    )
    if processes.first:
        record.write(bench.folder)
    kept.remove()
    return record


def resumed_measuring(bench: Bench) -> Kept:
    """What the same measuring had done before it was killed; empty if it was not."""
    config = bench.settings.to_config()
    options = config["measure"], config["select"]
    hashes = [reference.hash for reference in bench.gauge.references.values()]
    device, sha256 = device_of(bench.run).type, bench.run.data.sha256
    key = measuring_key(
        *(PROTOCOL, SCHEMA, bench.run.config["method"], options, bench.precision, device, sha256),
        *(bench.gauge.extractor.key, hashes, weights_hash(bench.method)),
        *([bench.settings.samples] if bench.settings.samples else []),  # which go on from it too
    )
    return Kept(bench.folder / MEASURING, key, bench.gauge.processes)


def select_options(bench: Bench, kept: Kept) -> tuple[Bench, list[Candidate]]:
    """The bench with the options that were selected, and all candidates, [] for none."""
    selection = selection_of(bench.run, bench.settings.select)
    if selection != bench.settings.select:
        log.info("no sampler: select.guidance and select.steps are not for this method")
    if not selection.options:
        return bench, []
    train_part = EvaluationConditions(bench.run.data.part("train"))

    def draw(choice: Choice) -> Rows:
        method = choose(bench, choice).method
        pack, batch = bench.settings.measure.pack, bench.settings.measure.batch
        images = Draw(method, train_part, selection.seed, bench.precision, pack)
        source = Source(f"candidate {choice}", selection.samples, images, batch, pack)
        gauge = replace(bench.gauge, silent=True)
        rows = gauge.rows(source, [selection.metric], train_part, kept)
        return [row for row in rows if row.level == method.resolutions[0]]

    choice, candidates = select_choice(draw, choices(selection), kept, bench.gauge.track)
    log.info("selected %s by %s", choice, candidates[0].metric)
    return choose(bench, choice), candidates


def choose(bench: Bench, choice: Choice) -> Bench:
    """The bench with the options of a choice."""
    run = with_choice(bench.run, choice, bench.folder)
    run = replace(run, method=run.method.to(device_of(run), SAMPLING))
    return replace(bench, run=run, settings=bench.settings.sampled_by(choice.sampling()))


def samples_of(bench: Bench, kept: Kept, seed: int) -> Source:
    """The samples of a seed. The first `SHOWN` are kept to be shown, and all of them go into the
    folder if that is wanted."""
    options, kind = bench.settings.measure, bench.settings.samples
    conditions = bench.conditions(seed)
    stored = None
    if kind is not None:
        stored = Samples(bench.folder / "samples" / f"seed{seed}", kind, options.samples)

    def look(numbers: range, images: PixelImages) -> None:
        kept.show({name: x[:SHOWN] for name, x in images.items()})
        if stored is not None:
            stored.add(numbers.start, stored_form(images))

    def close() -> None:
        if stored is not None:
            stored.close(sample_facts(conditions, seed, range(options.samples)))

    return Source(
        f"samples of seed {seed}",
        options.samples,
        Draw(bench.method, conditions, seed, bench.precision, options.pack),
        options.batch,
        options.pack,
        look,
        seen=SHOWN if stored is None else options.samples,
        close=close,
    )


def picture(bench: Bench, shown: PixelImages) -> None:
    """Writes sheets of samples, real images, nearest neighbours and trajectories."""
    folder, looked_at = bench.folder, next(iter(shown.values()))[:NEAREST]
    finest = resolution_of(looked_at.shape[2:])
    write_sheet(folder / "samples.png", list(shown.values()))
    count = len(next(iter(shown.values())))
    facts = sample_facts(bench.conditions(bench.seed), bench.seed, range(count))
    write(folder / "shown.json", json.dumps(facts, indent=1).encode())
    write_sheet(folder / "real.png", [real_images(bench.test, SHOWN)])
    alone = finest in files_of(bench.settings.measure.references)
    # moments alone know no neighbours, and features of frames none of clips
    if not alone and looked_at.ndim == 4:
        reference = bench.gauge.references[finest]
        k = int(min(3, reference.statistics.n))
        _, rows = nearest_images(looked_at, bench.gauge.extractor, reference, k=k)
        picture = neighbour_sheet(looked_at, rows, bench.run.data.part("train"))
        write_png(folder / "neighbours.png", picture)
    strip = film(bench.finest, replace(bench.draw, conditions=bench.conditions(bench.seed)))
    if strip is not None:
        write_png(folder / "film.png", strip)


def measure_codecs(bench: Bench) -> Rows:
    """Rows of the reconstructions of a lossy codec, and a sheet of them; none of another codec."""
    if not bench.finest.lossy:
        return []
    perceptual = perceptuals.build(bench.settings.measure.perceptual)
    rows, made = reconstructions(
        bench.finest,
        real_images(bench.test, bench.settings.measure.samples),
        bench.gauge.extractor,
        next(iter(bench.gauge.references.values())),
        perceptual.to(device_of(bench.run)),
        precision=bench.precision,
        conditions=bench.test,
    )
    shown = made[:SHOWN]
    real = real_images(bench.test, len(shown))
    write_sheet(bench.folder / "reconstructions.png", [real, shown])
    return rows


def measure_curves(bench: Bench, kept: Kept) -> list[CurvePoint]:
    """Rows of the snapshots; their weights go into a method of its own."""
    method = methods.build(bench.run.config["method"], offered=bench.run.data.facts)
    return learning_curves(
        bench.folder,
        method.to(device_of(bench.run)),
        bench.draw,
        bench.gauge,
        plan=bench.plan,
        wanted=bench.settings.measure.curve,
        kept=kept,
    )


def measure_cost(bench: Bench) -> list[Cost]:
    """Rows of the costs, untrained, each case in a fresh process.

    The first process times them and the others wait, since they would disturb each other.
    """
    log.info("measuring costs, each in a fresh process")
    cases = cases_of(
        bench.run.config,
        trajectories(bench.method),
        bench.settings.cost,
        device_of(bench.run).type,
        caption=example_caption(bench.test),
    )
    return bench.gauge.processes.agree(lambda: by_resolution(costs(cases, track)))


def training_of(bench: Bench) -> dict[str, Any]:
    """The training of a record: planned and spent, and notes of the stages."""
    told = [(*stage.notes, stage.origin) for stage in bench.method.stages]
    notes = [note for one in told for note in one if note is not None]
    before = trained_before(bench.method)
    more = {"before": before} if before else {}
    notes += [
        f"before, {one['weights']}: training of {one['spent']['flops']:.3g} FLOPs, not counted here"
        for one in before
        if one["spent"].get("flops")
    ]
    return {**bench.plan.training(bench.summary), **more, "notes": notes}


def trained_before(method: Method) -> list[dict[str, Any]]:
    """What the runs have spent whose weights stages of a method have, where their records are
    beside them: {weights, spent}."""
    found = []
    for weights in dict.fromkeys(stage.weights for stage in method.stages if stage.weights):
        path = Path(weights).parent / FILE
        try:
            spent = Record.read(path).training.get("spent") if path.exists() else None
        except (OSError, ValueError) as error:
            log.warning("the training behind %s is not told: %s", weights, one_line(str(error)))
            continue
        if spent:
            found.append({"weights": weights, "spent": dict(spent)})
    return found


def provenance_of(bench: Bench, digests: Mapping[str, str]) -> dict[str, Any]:
    """What is needed to reproduce the row; digests: see `inputs_of`."""
    settings = bench.settings
    seeds: dict[str, Any] = {"training": bench.run.seed, "samples": list(settings.measure.seeds)}
    if settings.select.options:
        seeds["selection"] = settings.select.seed
    finest = resolution_of(bench.method.resolutions[0])
    return {
        "protocol": PROTOCOL,
        **evaluation_of(settings.protocol, settings.measure, finest, bench.gauge),
        "rows": {"rule": RULE, "n": len(bench.test)},
        "inputs": dict(digests),
        "tries": tries_of(bench.folder),
        **provenance(started=bench.started, seeds=seeds, config=settings.to_config()),
    }


def analyse(bench: Bench, record: Record, analysis: Analysis) -> Record:
    """The record with an analysis; writes it again, and a picture."""
    best = next((one for one in record.selection if one.chosen), None)
    if best is not None:
        bench = choose(bench, Choice(best.guidance, best.steps, best.half_life))
    kind, gauge = ANALYSES[analysis.name], bench.gauge
    if kind.distances:
        sides = [resolution_of(name) for name in bench.method.resolutions]
        folder, processes = statistics_folder(bench.settings.data), gauge.processes
        own = real_references(bench.run.data, gauge.extractor, sides, folder, processes=processes)
        gauge = replace(gauge, references=own)
    result, write_picture = kind.look(bench.method, bench.draw, gauge, analysis)
    record = replace(record, analysis={**record.analysis, analysis.name: result})
    if gauge.processes.first:
        write_picture(bench.folder / f"{analysis.name}.png")
        record.write(bench.folder)
    return record
