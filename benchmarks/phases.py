"""What a run does, one phase after another: it trains, draws samples, measures, pictures, records.

A `Bench` is what all of them work on. Whatever a phase has done is kept in the run folder, so that
the same command goes on after a kill.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import EvaluationConditions, example_caption
from benchmarks.cost.cases import by_resolution, cases_of, trajectories
from benchmarks.cost.worker import costs
from benchmarks.device import device_of
from benchmarks.measure import exposure
from benchmarks.measure.curves import learning_curves
from benchmarks.measure.experts import watch_experts, write_experts_picture
from benchmarks.measure.kept import FILE as MEASURING
from benchmarks.measure.kept import Kept, measuring_key, weights_hash
from benchmarks.measure.pictures import film, neighbour_sheet
from benchmarks.measure.protocol import departures
from benchmarks.measure.quality import Meter, Rows
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
from benchmarks.measure.spectrum import spectra, write_spectrum_picture
from benchmarks.measure.steps import quality_by_steps, write_steps_picture
from benchmarks.measure.stream import Source, measure_seeds, measure_source
from benchmarks.plan.plan import Plan
from benchmarks.progress import Track, quiet, track
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
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.neighbours import nearest_images
from hierdiff.metrics.perceptual import perceptuals
from hierdiff.metrics.quality import Candidate, CurvePoint
from hierdiff.metrics.reference import Reference
from hierdiff.prepared import Prepared, with_weights
from hierdiff.processes import Processes
from hierdiff.resolution import Resolution, plain_of, resolution_of
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
    extractor: on the same device. test: the held-out images. references: statistics of the
    training images by resolution, or those of the files that are given instead. processes: which
    measure together.
    """

    settings: Settings
    started: str
    run: Prepared
    plan: Plan
    summary: Summary
    extractor: Extractor
    test: ImageData
    references: Mapping[Resolution, Reference]
    processes: Processes

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
    def track(self) -> Track:
        """Progress, of the first process."""
        return track if self.processes.first else quiet

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
    test = run.data.part("test")
    return Bench(settings, started, run, job.plan, summary, extractor, test, references, processes)


def measure(bench: Bench) -> Record:
    """The record of a run, written last, after its pictures."""
    digests = inputs_of(bench.settings.to_config(), bench.run.data.sha256)
    n, on_hand = bench.settings.measure.samples, len(bench.test)
    if n > on_hand:
        log.info("%d samples under the conditions of %d test images, in turn", n, on_hand)
    scale = measure_scale(bench)
    kept = resumed_measuring(bench)
    bench, selection = select_options(bench, kept)
    quality = measure_samples(bench, kept)
    if bench.processes.first:
        picture(bench, kept.shown)
    quality += bench.processes.agree(lambda: measure_codecs(bench))
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
    if bench.processes.first:
        record.write(bench.folder)
    kept.remove()
    return record


def measure_scale(bench: Bench) -> dict[str, Rows]:
    """Rows of real images and of a Gaussian under the metrics of the samples, if wanted."""
    if not bench.settings.measure.scale:
        return {}
    return scale_rows(
        bench.run.data,
        bench.extractor,
        bench.references,
        bench.settings.measure.samples,
        seed=bench.seed,
        folder=statistics_folder(bench.settings.data),
        track=bench.track,
        metrics=bench.settings.measure.metrics,
        processes=bench.processes,
    )


def resumed_measuring(bench: Bench) -> Kept:
    """What the same measuring had done before it was killed; empty if it was not."""
    config = bench.settings.to_config()
    options = config["measure"], config["select"]
    hashes = [reference.hash for reference in bench.references.values()]
    device, sha256 = device_of(bench.run).type, bench.run.data.sha256
    key = measuring_key(
        *(PROTOCOL, SCHEMA, bench.run.config["method"], options, bench.precision, device, sha256),
        *(bench.extractor.key, hashes, weights_hash(bench.method)),
        *([bench.settings.samples] if bench.settings.samples else []),  # which go on from it too
    )
    return Kept(bench.folder / MEASURING, key, bench.processes)


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
        meter = Meter(bench.extractor, bench.references, [selection.metric], train_part)
        rows = measure_source(source, meter, kept, quiet)
        return [row for row in rows if row.level == method.resolutions[0]]

    choice, candidates = select_choice(draw, choices(selection), kept, bench.track)
    log.info("selected %s by %s", choice, candidates[0].metric)
    return choose(bench, choice), candidates


def choose(bench: Bench, choice: Choice) -> Bench:
    """The bench with the options of a choice."""
    run = with_choice(bench.run, choice, bench.folder)
    run = replace(run, method=run.method.to(device_of(run), SAMPLING))
    return replace(bench, run=run, settings=bench.settings.settle(sampler=choice.sampling()))


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


def measure_samples(bench: Bench, kept: Kept) -> Rows:
    """Rows of the samples, over all seeds."""
    metrics = bench.settings.measure.metrics

    def measure_seed(seed: int) -> Rows:
        meter = Meter(bench.extractor, bench.references, metrics, bench.conditions(seed))
        return measure_source(samples_of(bench, kept, seed), meter, kept, bench.track)

    return measure_seeds(measure_seed, bench.settings.measure.seeds, kept)


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
        reference = bench.references[finest]
        _, rows = nearest_images(
            looked_at, bench.extractor, reference, k=int(min(3, reference.statistics.n))
        )
        picture = neighbour_sheet(looked_at, rows, bench.run.data.part("train"))
        write_png(folder / "neighbours.png", picture)
    conditions = bench.conditions(bench.seed)
    strip = film(bench.finest, conditions, seed=bench.seed, precision=bench.precision)
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
        bench.extractor,
        next(iter(bench.references.values())),
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
        bench.plan,
        bench.test,
        bench.extractor,
        bench.references,
        wanted=bench.settings.measure.curve,
        seed=bench.seed,
        precision=bench.precision,
        pack=bench.settings.measure.pack,
        track=bench.track,
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
    return bench.processes.agree(lambda: by_resolution(costs(cases, track)))


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
    seeds: dict[str, Any] = {
        "training": bench.run.seed,
        "samples": list(bench.settings.measure.seeds),
    }
    if bench.settings.select.options:
        seeds["selection"] = bench.settings.select.seed
    return {
        "protocol": PROTOCOL,
        **evaluation_of(bench),
        "rows": {"rule": RULE, "n": len(bench.test)},
        "inputs": dict(digests),
        "tries": tries_of(bench.folder),
        **provenance(
            started=bench.started,
            seeds=seeds,
            config=bench.settings.to_config(),
        ),
    }


def evaluation_of(bench: Bench) -> dict[str, Any]:
    """The published protocol of a run and how it departs from it; {} without one."""
    protocol = bench.settings.protocol
    if protocol is None:
        return {}
    finest = resolution_of(bench.method.resolutions[0])
    found = departures(
        protocol, bench.settings.measure, finest, bench.extractor, bench.references[finest]
    )
    return {"evaluation": {"protocol": protocol.name, "departures": found}}


def analyse(bench: Bench, record: Record, analysis: Analysis) -> Record:
    """The record with an analysis; writes it again, and a picture."""
    best = next((one for one in record.selection if one.chosen), None)
    if best is not None:
        bench = choose(bench, Choice(best.guidance, best.steps, best.half_life))
    looks = {
        "steps": by_steps,
        "spectrum": by_spectrum,
        "exposure_bias": by_exposure,
        "experts": by_experts,
    }
    result, draw = looks[analysis.name](bench, analysis)
    record = replace(record, analysis={**record.analysis, analysis.name: result})
    if bench.processes.first:
        draw(bench.folder / f"{analysis.name}.png")
        record.write(bench.folder)
    return record


Look = tuple[dict[str, Any], Callable[[Path], None]]  # for the record, and what draws the picture


def references_of(bench: Bench) -> Mapping[Resolution, Reference]:
    """Those of the data at every resolution of the method."""
    return real_references(
        bench.run.data,
        bench.extractor,
        [resolution_of(name) for name in bench.method.resolutions],
        statistics_folder(bench.settings.data),
        processes=bench.processes,
    )


def by_exposure(bench: Bench, analysis: Analysis) -> Look:
    """The exposure bias of a cascade."""
    method = bench.method
    rows = exposure.exposure_bias(
        method,
        bench.test,
        bench.extractor,
        references_of(bench),
        n=analysis.samples,
        log_snrs=analysis.log_snrs,
        seed=bench.seed,
        precision=bench.precision,
        track=bench.track,
        processes=bench.processes,
    )
    own = {one.stage.name: one.bridge.output_log_snr for one in exposure.upsamplers(method)}
    result = {"rows": rows, "gap": exposure.gaps(rows, method), "level": own}
    return result, partial(exposure.write_picture, rows=rows, own=own)


def by_steps(bench: Bench, analysis: Analysis) -> Look:
    """The quality over the number of steps."""
    rows = quality_by_steps(
        bench.method,
        bench.test,
        bench.extractor,
        references_of(bench),
        n=analysis.samples,
        steps=analysis.steps,
        seed=bench.seed,
        precision=bench.precision,
        pack=bench.settings.measure.pack,
        track=bench.track,
        processes=bench.processes,
    )
    return {"rows": rows}, partial(write_steps_picture, rows=rows)


def by_spectrum(bench: Bench, analysis: Analysis) -> Look:
    """The power spectrum of samples and of real images."""
    rows = spectra(
        bench.method,
        bench.test,
        n=analysis.samples,
        seed=bench.seed,
        precision=bench.precision,
        pack=bench.settings.measure.pack,
        track=bench.track,
        processes=bench.processes,
    )
    return {"rows": rows}, partial(write_spectrum_picture, rows=rows)


def by_experts(bench: Bench, analysis: Analysis) -> Look:
    """What the experts of the networks do while samples are drawn."""
    watched = watch_experts(
        bench.method,
        bench.test,
        n=analysis.samples,
        seed=bench.seed,
        precision=bench.precision,
    )
    return {"rows": watched.rows()}, partial(write_experts_picture, watched=watched)
