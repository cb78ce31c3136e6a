"""The training of a method: stages in order, each with its share of the steps.

Randomness is a function of place: what step k draws comes from a generator seeded by (purpose,
seed, stage, k, chunk). A step's batch consists of devices x accumulate chunks; chunk c is the same
whichever device works on it, so that two devices, or two micro batches on one, do the same sums. No
generator is saved, and a run that was killed ends with the weights of one that was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierdiff.config import to_yaml
from hierdiff.data import ImageData, buckets
from hierdiff.files.atomic import write, write_png
from hierdiff.files.log import read_log
from hierdiff.methods import Method, Stage
from hierdiff.noise import seed_of
from hierdiff.training.bounds import tensors_of
from hierdiff.training.checkpoint import (
    Broken,
    Checkpoint,
    check_config,
    name_at,
    newest,
    remove_older,
    save_checkpoint,
)
from hierdiff.training.ema import EMA
from hierdiff.training.fabric import all_reduce, fabric_of, is_loss_of_process, mesh_of
from hierdiff.training.feed import Feed, batches_of
from hierdiff.training.format import as_json, save_weights
from hierdiff.training.initial import start_networks
from hierdiff.training.interrupt import CLUSTER, USER, Interrupted, StopRequest
from hierdiff.training.layout import with_channels_last
from hierdiff.training.load import load_tensors, stage_in, stage_tensors
from hierdiff.training.log import Log
from hierdiff.training.optimizer import (
    States,
    hand_on,
    load_state,
    moments_of,
    state_of,
)
from hierdiff.training.pictures import sample_sheet, write_curves
from hierdiff.training.progress import Progress
from hierdiff.training.recipe import Recipe
from hierdiff.training.sharding import ShardedStage, can_shard, whole
from hierdiff.training.shards import Writing, begin
from hierdiff.training.step import TrainingStep, optimizer_for
from hierdiff.training.whole import Whole

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)
SNAPSHOTS = "snapshots"  # folder of a run


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    weights: file of the averaged weights, which the method also holds. stage_steps, stage_seconds:
    of each stage, over all processes that worked on the run; seconds are those spent in steps,
    without sheets, checkpoints and start. loss: mean over the last line of the log, by name.
    """

    folder: Path
    weights: Path
    sheet: Path
    steps: int
    images: int
    stage_steps: tuple[int, ...]
    stage_seconds: tuple[float, ...]
    loss: dict[str, float]
    resumed_at: int | None = None

    @property
    def seconds(self) -> float:
        """Seconds spent in the steps of all stages."""
        return sum(self.stage_seconds)

    @property
    def images_per_second(self) -> float:
        """Training speed; 0 where no step was taken."""
        return self.images / self.seconds if self.seconds else 0.0


def train(
    method: Method,
    data: ImageData,
    folder: Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Summary:
    """Trains every stage and leaves the method with its averaged weights.

    data: the training part. folder: of the run; it resumes from a checkpoint in it. config: what
    `load_method` rebuilds the method from (`method`, `facts`, ...), stored with all weights.

    Raises:
        ValueError: for options that do not fit, or another run's checkpoint.
        FloatingPointError: where a loss or gradient is not finite.
        OSError: where the disk is full.
        Interrupted: at Ctrl-C, SIGTERM or SIGUSR1; a checkpoint was written.
        ConnectionError: where another process of the run is gone.
        RuntimeError: of torch, for anything else.
    """
    method.check_facts(data.facts)
    method.fit(buckets.resolutions_of(data))
    fabric = fabric_of(recipe)
    fabric.launch()
    data = buckets.training_view(data)
    run = Run(fabric, method, data, Path(folder), recipe, seed, dict(config or {}))
    try:
        return run.go()
    except RuntimeError as error:
        if fabric.world_size == 1 or not is_loss_of_process(error):
            raise
        raise ConnectionError(
            f"process {fabric.global_rank} of {fabric.world_size} lost another one "
            f"({str(error).splitlines()[0][:200]}); the last checkpoint is {run.last_saved}: see "
            f"what that one said, then give the same command again"
        ) from error


def log_data(method: Method, data: ImageData) -> None:
    """Logs what the data is, and what of it no network reads."""
    log.info(data.summary())
    reads = method.reads
    if data.class_names and reads is not None and not reads.classes:
        log.warning(
            "labels are not used: the data has %d classes, and no network of the method reads any "
            "(built with offered=data.facts it does)",
            len(data.class_names),
        )


def stage_steps(method: Method, steps: int) -> list[int]:
    """Steps of each stage by its share of `steps`; a stage with a share has at least one.

    Stages that divide one budget have shares that sum to 1; those trained each on its own (a
    cascade) may have more. A method whose stages all have weights may have no steps at all.

    Raises:
        ValueError: for negative or zero shares, or too few steps.
    """
    shares = [stage.share for stage in method.stages]
    if min(shares) < 0 or (not sum(shares) and not all(s.ready for s in method.stages)):
        raise ValueError(f"shares {shares} of the stages: take 0 or more, not all 0")
    bounds = [round(steps * sum(shares[:i])) for i in range(len(shares) + 1)]
    counts = [high - low for low, high in zip(bounds, bounds[1:], strict=False)]
    if any(share > 0 and count < 1 for share, count in zip(shares, counts, strict=True)):
        raise ValueError(
            f"{steps} steps leave a stage without any (shares {shares}): take more steps"
        )
    return counts


@dataclass
class Position:
    """Where a run stands: `step` inside `stage` comes next. seconds: spent in each stage."""

    stage: int = 0
    step: int = 0
    total_step: int = 0
    images: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class Run:
    """One call of `train`."""

    fabric: Fabric
    method: Method
    data: ImageData
    folder: Path
    recipe: Recipe
    seed: int
    config: dict[str, Any]
    place: Position = field(default_factory=Position)
    stage_weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # of other runs
    teachers: dict[int, Stage] = field(default_factory=dict)  # stages of other runs
    moments: States = field(default_factory=dict)  # of the stage before, if the next keeps them
    images_here: int = 0
    last_saved: Path | None = None
    writing: Writing | None = None  # the checkpoint in parts that is not finished yet

    def __post_init__(self) -> None:
        self.main = self.fabric.is_global_zero
        self.device = self.fabric.device
        self.dtype = self.recipe.dtype
        self.checkpoints = self.folder / "checkpoints"
        self.counts = stage_steps(self.method, self.recipe.steps)
        self.place.seconds = [0.0] * len(self.counts)
        self.batches = batches_of(self.method, self.recipe, self.fabric.world_size)
        self.config = as_json(self.config)

    def go(self) -> Summary:
        """Trains what is left of the run; errors as in `train`."""
        self.method.to(self.device, self.dtype)
        if self.recipe.channels_last:
            with_channels_last(self.method)
        resumable = newest(self.checkpoints, self._check)
        if resumable is None:
            start_networks(self.method, self.config)
        reached = resumable[1].stage if resumable is not None else 0
        for place, stage in enumerate(self.method.stages):
            if stage.weights is not None and place >= reached:
                self.stage_weights[place] = stage_tensors(stage.weights, stage, self.config)
            if stage.teacher is not None and place >= reached:
                self.teachers[place] = stage_in(stage.teacher, stage, self.config)
        if self.config and self.main:
            write(self.folder / "config.yaml", to_yaml(self.config))
        resumed = self._resume(*resumable) if resumable is not None else None
        self.log = Log(
            self.folder / "log.jsonl",
            written=self.main,
            loggers=self.recipe.loggers if self.main else (),
        )
        self.log.load(resumed.log if resumed else None)
        for logger in self.log.loggers:
            logger.start(self.folder, self.config, self.place.total_step)
        self.fabric.barrier()
        if self.main:
            log_data(self.method, self.data)
        visible = self.recipe.progress and self.main
        self.progress = Progress(sum(self.counts), self.place.total_step, visible=visible)
        try:
            self._stages(resumed)
            return self._end(resumable[1].total_step if resumable else None)
        finally:
            self.log.close()

    def _stages(self, resumed: Checkpoint | None) -> None:
        """All stages that are left, the first from a checkpoint."""
        try:
            with StopRequest() as self.stop_request:
                for index in range(self.place.stage, len(self.counts)):
                    self._stage(index, resumed if resumed and resumed.started else None)
                    resumed = None
        finally:
            self.progress.close()

    # -- one stage ---------------------------------------------------------------------------------

    def _stage(self, index: int, resumed: Checkpoint | None) -> None:
        stage = self.method.stages[index]
        previous = self.method.stages[index - 1] if index else None
        torch.manual_seed(seed_of(self.seed, "start", index))
        stage.steps = self.counts[index]
        if index in self.teachers:
            teacher = self.teachers.pop(index).requires_grad_(False)
            stage.learn_from(teacher.to(self.device, self.dtype))
        given = self.stage_weights.get(index)
        if given is not None:  # by which `start` may embed the data
            stage.load_state_dict(given)
        data = stage.start(previous, self.data)
        if given is not None:  # in place of what it carried over
            stage.load_state_dict(given)
        if resumed is not None:  # what `start` carried over has moved on since
            self._load_model(resumed)
        if not self.counts[index]:
            self.place.stage, self.place.step = index + 1, 0
            return
        stage.train()
        work = self._work(stage, index)
        players, ema = work.players, work.ema
        for player in players:
            hand_on(work.moments_from(self.moments), player.optimizer)
        self.moments = {}
        if resumed is not None:
            self.restore(work, resumed)
            if self._sheet_due():  # a kill came between the checkpoint and the sheet
                with work.averaged():
                    self._pictures(stage, again=False)
        feed = Feed(
            data,
            self.fabric,
            self.recipe,
            images=self.batches[index],
            place=(self.seed, index),
            beside=stage.images_beside,
        )
        try:
            while self.place.step < self.counts[index]:
                self._step(stage, index, work, feed)
                if due(self.place.step, self.counts[index], self.recipe.snapshots):
                    self._snapshot(ema)
                if self.place.step < self.counts[index]:
                    self._between(stage, work)
        finally:
            feed.close()
            if feed.decodes and self.main and feed.speed.images:
                log.info("stage %s  %s", stage.name, feed.speed.text(self.place.seconds[index]))
        self._end_stage(stage, index, work)

    def _work(self, stage: Stage, index: int) -> TrainingStep:
        """The training step of a stage, cut over processes where that is wanted and can be."""
        sharded = None
        if self.recipe.strategy == "fsdp" and can_shard(stage):
            sharded = ShardedStage(stage, mesh_of(self.fabric, self.recipe))
        elif self.recipe.strategy == "fsdp" and self.main:
            log.warning(
                "stage %s cannot be sharded (its losses take gradients of their own): every "
                "process holds a whole copy of it (ddp)", stage.name,
            )  # fmt: skip
        return TrainingStep(
            self.fabric,
            stage,
            self.recipe,
            named=dict(self.method.named_parameters()),
            images=self.batches[index],
            place=(self.seed, index),
            sharded=sharded,
        )

    def restore(self, work: TrainingStep, checkpoint: Checkpoint) -> None:
        """Gives averages and optimizers the state of a checkpoint inside their stage."""
        work.ema.load(checkpoint.part("ema"))
        for player in work.players:
            name = player.turn.name
            state = checkpoint.part(f"optimizer/{name}")
            load_state(player.optimizer, state, checkpoint.optimizers[name])

    def _step(self, stage: Stage, index: int, work: TrainingStep, feed: Feed) -> None:
        began = time.perf_counter()
        batch, step = self.batches[index], self.place.step
        lr = work.recipe.lr_at(step, self.counts[index])
        chunks = feed.chunks(step)
        try:
            values = work(step, chunks, lr)
        except FloatingPointError as error:
            raise FloatingPointError(self._not_finite(str(error))) from error
        self.place.step += 1
        self.place.total_step += 1
        self.place.images += batch
        self.images_here += batch
        self.log.add({"lr": lr, **values})
        last = self.place.step == self.counts[index]
        if self.place.total_step % self.recipe.log_every == 0 or last:
            self._line(stage)
        seconds = time.perf_counter() - began
        self.place.seconds[index] += seconds
        first = next(value for key, value in values.items() if key.startswith("loss"))
        loader = feed.speed.images_per_second * self.fabric.world_size if feed.decodes else None
        self.progress.step(stage.name, batch, seconds, first, loader)

    def _not_finite(self, numbers: str) -> str:
        last = (
            f"the last checkpoint is {self.last_saved}" if self.last_saved else "no checkpoint yet"
        )
        return (
            f"step {self.place.total_step + 1} is not finite ({numbers}); the weights were not "
            f"touched by it and {last}: try a lower trainer.lr, a longer trainer.warmup, a lower "
            f"trainer.clip or trainer.precision=32-true, in a run of its own (name=...)"
        )

    # -- between steps -----------------------------------------------------------------------------

    def _between(self, stage: Stage, work: TrainingStep) -> None:
        stop, unwritten = self._requests()
        step, recipe = self.place.total_step, self.recipe
        if not unwritten:
            self._finish_writing()
        if stop or (recipe.checkpoint_every and step % recipe.checkpoint_every == 0):
            self._save(work, work.ema)
        if stop:
            self._finish_writing()
            raise Interrupted(
                f"stopped after step {step} of {sum(self.counts)} with {self.last_saved}: "
                f"give the same command again to go on",
                requeue=stop == CLUSTER,
            )
        if self._sheet_due():
            with work.averaged():
                self._pictures(stage)

    def _requests(self) -> tuple[int, bool]:
        """Who asks to stop, and whether a checkpoint is still being written, on any process."""
        stop = self.stop_request.by
        unwritten = self.writing is not None and not self.writing.done
        if self.fabric.world_size == 1:
            return stop, unwritten
        ours = (stop == USER, stop == CLUSTER, unwritten)
        flags = torch.tensor([float(flag) for flag in ours], device=self.device)
        user, cluster, some = (all_reduce(self.fabric, flags, "sum") > 0).tolist()
        return (CLUSTER if cluster else USER if user else 0), some

    def _sheet_due(self) -> bool:
        every = self.recipe.sheet_every
        return bool(every) and self.place.total_step % every == 0

    def _save(self, work: TrainingStep | None, ema: EMA | None) -> None:
        """The state of the run; at the border of two stages `ema` is None, and `work` is that of
        the stage before if the next one keeps its moments."""
        self._finish_writing()
        checkpoint = self._checkpoint(work, ema)
        if self.recipe.strategy == "fsdp":
            path = self.checkpoints / name_at(self.place.total_step)
            later = self.recipe.async_checkpoints
            self.writing = begin(
                self.fabric, path, checkpoint.tensors, checkpoint.facts, later=later
            )
            if not later:
                self._finish_writing()
            return
        path = self.checkpoints / f"{name_at(self.place.total_step)}.safetensors"
        if self.main:
            save_checkpoint(self.checkpoints, checkpoint, self.recipe.keep)
        self.fabric.barrier()
        self.last_saved = path

    def _checkpoint(self, work: TrainingStep | None, ema: EMA | None) -> Checkpoint:
        """The state as it stands; tensors are those that training goes on with."""
        cut = work.sharded.tensors() if ema and work and work.sharded else {}
        tensors = {f"model/{k}": cut.get(t, t) for k, t in tensors_of(self.method).items()}
        tensors |= {f"ema/{k}": t for k, t in (ema.state() if ema else {}).items()}
        rests = {}
        for player in work.players if work is not None else ():
            name = player.turn.name
            state, rests[name] = state_of(player.optimizer)
            tensors |= {f"optimizer/{name}/{k}": t for k, t in state.items()}
        return Checkpoint(
            config=self.config,
            started=ema is not None,
            log=self.log.state(),
            tensors=tensors,
            optimizers=rests,
            **vars(self.place),
        )

    def _finish_writing(self) -> None:
        """Waits for a checkpoint that is being written, which then is the last one saved."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.finish()
            self.last_saved = writing.path
            if self.main:
                remove_older(writing.path, self.recipe.keep)

    def _snapshot(self, ema: EMA) -> None:
        """Every average of the weights as a file of weights that knows where it was taken."""
        for which, half_life in enumerate(ema.half_lives):
            weights = self._with_average(ema, which)
            if self.main:
                name = f"{name_at(self.place.total_step)}_ema_{half_life:g}.safetensors"
                taken = {**vars(self.place), "half_life": half_life}
                save_weights(self.folder / SNAPSHOTS / name, weights, self.config, taken=taken)
        self.fabric.barrier()

    def _with_average(self, ema: EMA, which: int) -> dict[str, Tensor]:
        """All tensors of the method, with the weights of an average; on the first process alone."""
        found = tensors_of(self.method) if self.main else {}
        for name, tensor in ema.weights(which).items():
            gathered = whole(tensor)
            if self.main:
                found[name] = gathered.cpu() if gathered is not tensor else tensor
        return found

    def _check(self, path: Path, checkpoint: Checkpoint) -> None:
        config = checkpoint.config if isinstance(checkpoint.config, dict) else {}
        for part, value in self.config.items():
            if part in config and isinstance(config[part], dict) is not isinstance(value, dict):
                raise Broken(f"it says {part}={config[part]!r}")
        check_config(path, config, self.config)
        Whole(self.method, self.recipe, self.counts).check(path, checkpoint)

    def _resume(self, path: Path, checkpoint: Checkpoint) -> Checkpoint:
        self.place = Position(
            checkpoint.stage,
            checkpoint.step,
            checkpoint.total_step,
            checkpoint.images,
            checkpoint.seconds or self.place.seconds,
        )
        self.last_saved = path
        self._load_model(checkpoint)
        if not checkpoint.started and checkpoint.optimizers:
            self.moments = self._moments_in(checkpoint)
        if self.main:
            log.info("going on from %s", path)
        return checkpoint

    def _moments_in(self, checkpoint: Checkpoint) -> States:
        """Those of the stage before the one that a checkpoint at its border comes to."""
        optimizers = []
        for turn in self.method.stages[checkpoint.stage - 1].turns:
            optimizer, rest = optimizer_for(turn, self.recipe), checkpoint.optimizers[turn.name]
            load_state(optimizer, checkpoint.part(f"optimizer/{turn.name}"), rest)
            optimizers.append(optimizer)
        return moments_of(optimizers)

    def _load_model(self, checkpoint: Checkpoint) -> None:
        assert self.last_saved is not None
        load_tensors(self.method, checkpoint.part("model"), self.last_saved)

    def _line(self, stage: Stage) -> None:
        place = {"step": self.place.total_step, "stage": stage.name, "images": self.place.images}
        self.log.line(**place)

    @property
    def _sheet(self) -> Path:
        return self.folder / "samples" / f"step_{self.place.total_step:07d}.png"

    def _pictures(self, source: Stage, *, again: bool = True) -> None:
        """Sheet of samples and loss curves, with the weights as they stand; again: also where the
        sheet is there. The curves are always drawn, those that are there may be of an earlier step.
        """
        if self.main:
            if again or not self._sheet.exists():
                self._draw_sheet(source)
            write_curves(self.folder / "loss.png", self.log.path)
        self.fabric.barrier()

    def _draw_sheet(self, source: Stage) -> None:
        n = self.recipe.sheet_images
        try:
            with self.fabric.autocast():
                image = sample_sheet(source, self.data, n, self.seed, self.device, self.dtype)
            if image is not None:
                write_png(self._sheet, image)
                self.log.image("samples", image, self.place.total_step)
        except FloatingPointError as error:  # the weights are of more worth than a picture
            log.warning("no sheet at step %d: %s", self.place.total_step, error)

    # -- ends --------------------------------------------------------------------------------------

    def _end_stage(self, stage: Stage, index: int, work: TrainingStep) -> None:
        """The averaged weights become the weights; what comes next grows from those. Buffers become
        those of the first process: batch norms have seen the rows of their own process only. The
        optimizers end with the stage, unless the next one keeps their moments."""
        ema = work.ema
        if self.fabric.world_size > 1:
            for buffer in work.stage.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))
        if index == last_trained(self.counts):
            for which, length in list(enumerate(ema.half_lives))[1:]:
                weights = self._with_average(ema, which)
                if self.main:
                    path = self.folder / f"weights_ema_{length:g}.safetensors"
                    save_weights(path, weights, self.config)
        ema.into_weights()
        work.hand_back()
        if index != last_trained(self.counts):
            self._pictures(stage)
        self.place.stage, self.place.step = index + 1, 0
        after = self.method.stages[index + 1 : index + 2]
        kept = work if after and after[0].keeps_moments else None
        self.moments = work.moments() if kept is not None else {}
        self._save(kept, None)
        self._finish_writing()

    def _end(self, resumed_at: int | None) -> Summary:
        self.method.eval()
        weights = self.folder / "weights.safetensors"
        if self.main and not (self.images_here == 0 and weights.exists()):
            save_weights(weights, tensors_of(self.method), self.config)
        last = self.method.stages[last_trained(self.counts)]
        self._pictures(last, again=self.images_here > 0)
        lines = read_log(self.log.path)
        return Summary(
            folder=self.folder,
            weights=weights,
            sheet=self._sheet,
            steps=self.place.total_step,
            images=self.place.images,
            stage_steps=tuple(self.counts),
            stage_seconds=tuple(self.place.seconds),
            loss={k: v for k, v in lines[-1].items() if k.startswith("loss")} if lines else {},
            resumed_at=resumed_at,
        )


def due(step: int, count: int, times: int) -> bool:
    """Whether one of `times` even marks of a stage of `count` steps, the last at its end, has just
    been reached."""
    return any(step == round(count * mark / times) for mark in range(1, times + 1))


def last_trained(counts: Sequence[int]) -> int:
    """The index of the last stage that has steps; of the last where none has."""
    return max((i for i, count in enumerate(counts) if count), default=len(counts) - 1)
