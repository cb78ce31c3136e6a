"""Learning curves: what the snapshots of a run were worth, over images, operations and seconds.

Every snapshot holds all weights with those of its stage averaged over one half-life. Two curves are
made of it: the validation loss of each level, on held-out images with the same noise and times at
every snapshot, and metrics of a few samples, where the stage makes images. A stage that makes the
lower resolutions alone is measured there alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.device import autocast
from benchmarks.measure.kept import Kept
from benchmarks.measure.quality import merge_seeds
from benchmarks.measure.samples import Draw
from benchmarks.measure.stream import Gauge, Source
from benchmarks.plan.plan import Plan
from benchmarks.settings import Curve
from hierdiff.config import one_line
from hierdiff.data import ImageData
from hierdiff.data.classes import natural
from hierdiff.data.order import evaluation_rows, evaluation_rule
from hierdiff.methods import Generator, Method, Stage
from hierdiff.metrics.identity import PROTOCOL, Identity
from hierdiff.metrics.quality import NATIVE, CurvePoint, Quality, Spent, finite
from hierdiff.noise import from_generator, generator_of
from hierdiff.processes import ALONE, Processes
from hierdiff.resolution import size_of, text_of
from hierdiff.training.format import unpacked
from hierdiff.training.load import load_tensors
from hierdiff.training.run import SNAPSHOTS

log = logging.getLogger(__name__)
CHUNK = 64  # images of one loss


def learning_curves(
    folder: Path, method: Method, draw: Draw, gauge: Gauge, *, plan: Plan, wanted: Curve, kept: Kept
) -> list[CurvePoint]:
    """One row for each snapshot of the run in `folder`, half-life, resolution and metric.

    method: takes the weights of the snapshots, and keeps the last. draw: how its images are drawn,
    under conditions of held-out data. wanted: `samples` and `metrics` of them, 0 for none, and
    `loss`, the number of held-out images. kept: what was measured before the process was killed. A
    damaged snapshot is left out with a warning. A collective call of the processes.
    """
    data, processes = draw.conditions.data, gauge.processes

    def measure_at(path: Path) -> list[CurvePoint]:
        try:
            stage, spent = snapshot(path, method, plan)
        except (OSError, ValueError) as error:
            log.warning("the learning curve leaves out %s: %s", path, one_line(str(error)))
            return []
        n = min(wanted.loss, len(data))
        if n and stage.lacks_teacher:
            log.warning("no validation loss of %s: its teacher is not kept with it", stage.name)
            n = 0
        made = list(validation_loss(stage, data, n, draw.precision, processes)) if n else []
        if wanted.samples and isinstance(stage, Generator) and stage.makes_images:
            whole = stage.resolutions[0] == method.resolutions[0]
            made += measure_samples_of(stage, draw, gauge, wanted, whole)
        return [CurvePoint(**vars(row), **vars(spent)) for row in made]

    snapshots = (folder / SNAPSHOTS).glob("*.safetensors")
    found = processes.agree(lambda: sorted(snapshots, key=lambda p: natural(p.name)))
    rows: list[CurvePoint] = []
    for path in gauge.track(found, "learning curve", len(found)):
        rows += kept.once(f"curve {path.name}", CurvePoint, partial(measure_at, path))
    return rows


def snapshot(path: Path, method: Method, plan: Plan) -> tuple[Stage, Spent]:
    """Loads the weights of a snapshot; the stage that was trained, and its spending so far.

    Raises:
        OSError: where the file cannot be read.
        ValueError: for a damaged file, or one of another method.
    """
    tensors, facts = unpacked(path)
    try:
        taken = facts["taken"]
        stage = method.stages[taken["stage"]]
        spent = Spent(
            stage=stage.name,
            step=taken["total_step"],
            images=taken["images"],
            flops=plan.flops(taken["stage"], taken["step"]),
            seconds=sum(taken["seconds"]),
            half_life=taken["half_life"],
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"it does not say where in training it was taken ({error})") from error
    load_tensors(method, tensors, path)
    return stage, spent


def validation_loss(
    stage: Stage, data: ImageData, n: int, precision: str, processes: Processes = ALONE
) -> Iterator[Quality]:
    """The loss of each level on n images (`evaluation_rows`), each with its own noise and time.
    None on other processes than the first.

    It is the loss that is trained, so that two stages share a curve only where process, prediction
    and loss are the same.
    """
    images = {text_of(name): name for name in stage.resolutions}
    makes_images = isinstance(stage, Generator) and stage.makes_images
    if makes_images and len(stage.level_names) == len(images) == 1:  # as latents do for their image
        images = {stage.level_names[0]: stage.resolutions[0]}
    for name, value in mean_losses(stage, data, n, precision, processes).items():
        yield Quality(
            level=images.get(name, stage.resolutions[0]),
            view=NATIVE,
            metric="validation loss" if name in images else f"validation {name}",
            value=finite(value, f"the validation loss {name} of stage {stage.name}"),
            n=n,
            identity=loss_identity(stage, n, len(data)),
        )


@torch.no_grad()
def mean_losses(
    stage: Stage, data: ImageData, n: int, precision: str, processes: Processes = ALONE
) -> dict[str, float]:
    """Means of what a stage logs as a loss, by the name behind `loss/`."""
    device = stage.device

    def losses(first: int) -> dict[str, float]:
        """Sums over a chunk, over n."""
        rows = evaluation_rows(len(data), range(first, min(first + CHUNK, n)))
        batch = stage.prepare_batch(data.batch(rows).map(lambda tensor: tensor.to(device)))
        noise = from_generator(generator_of("validation", first), device)
        draws = stage.draw(batch, noise)
        with autocast(device, precision):
            loss = stage(batch, draws, stage.turns[0].name, 0)
        return {name: float(value) * len(batch) / n for name, value in loss.logs.items()}

    sums: dict[str, float] = {}
    training = stage.training
    stage.eval()
    try:
        for _, parts in processes.deal(range(0, n, CHUNK), losses):
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + part
    finally:
        stage.train(training)
    return {name.removeprefix("loss/"): v for name, v in sums.items() if name.startswith("loss/")}


def loss_identity(stage: Stage, n: int, size: int) -> Identity:
    """Equal where the losses of two stages are the same quantity; of n of `size` images."""
    digest = hashlib.sha256(repr([*stage.loss_identity]).encode()).hexdigest()
    rule = evaluation_rule(size)
    return Identity(
        f"loss@{digest[:8]}", n=n, rows=rule, protocol=PROTOCOL, estimator="fixed noise"
    )


def measure_samples_of(
    stage: Generator, draw: Draw, gauge: Gauge, wanted: Curve, whole: bool
) -> list[Quality]:
    """Metrics of samples of a stage; whole: whether it makes the method's finest images, which
    alone are pooled. A collective call, which gives rows on the first process."""
    finest = size_of(stage.resolutions[0])
    below = {one: found for one, found in gauge.references.items() if size_of(one) <= finest}
    make = replace(draw, method=stage)
    source = Source("samples of a snapshot", wanted.samples, make, pack=draw.pack)
    inner = replace(gauge, references=below, silent=True)
    rows = inner.rows(source, wanted.metrics, draw.conditions)
    return [
        row
        for row in merge_seeds([rows])
        if row.view == NATIVE or (whole and size_of(row.resolution) < finest)
    ]
