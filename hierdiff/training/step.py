"""One step of training a stage: what the trainer repeats, and what costs of training time.

Every turn in order: the gradients of all its micro batches, clipped; its learning rate; its
optimizer. Then the averages of the weights.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from hierdiff.batch import Batch
from hierdiff.denoisers.recompute import recompute
from hierdiff.methods import Stage, Turn
from hierdiff.noise import Noise, from_generator, generator_of, seed_of
from hierdiff.training.compiled import compile_blocks
from hierdiff.training.ema import EMA
from hierdiff.training.fabric import all_reduce
from hierdiff.training.optimizer import States, laid_out, moments_of, optimizer_of, set_lr
from hierdiff.training.recipe import Recipe
from hierdiff.training.sharding import ShardedStage, whole

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)
TOTALS = ("loss", "grad_norm")  # keys that get the turn's name when a stage has several turns


@dataclass
class Player:
    """A turn with its optimizer, its wrapped stage and the parameters that it trains.

    clip: of the norm of its gradients, 0 for none.
    """

    turn: Turn
    module: Any
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]
    clip: float


def parameters_of(turn: Turn) -> list[nn.Parameter]:
    """The parameters that a turn trains."""
    return [p for p in turn.module.parameters() if p.requires_grad]


def trained_by(stage: Stage, named: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The named parameters that some turn of the stage trains."""
    ids = {id(p) for turn in stage.turns for p in parameters_of(turn)}
    return {name: parameter for name, parameter in named.items() if id(parameter) in ids}


def optimizer_for(turn: Turn, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a turn with the options of a stage's recipe and its own; errors as in
    `optimizer_of` and `Recipe.of`."""
    recipe = recipe.of(turn)
    return optimizer_of(
        parameters_of(turn),
        name=recipe.optimizer,
        lr=recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        options=dict(recipe.optimizer_options),
    )


class TrainingStep:
    """The step of one stage, with its optimizers and averages.

    recipe: of the run, of which the stage may have options otherwise. named: parameters by name, of
    which those that a turn trains are averaged. images: of one step, in all its micro batches on
    all devices. place: what the randomness is a function of, beside turn, step and micro batch: the
    seed of the run and the number of the stage. sharded: a copy of the stage, cut over processes,
    which is trained in its place.
    """

    def __init__(
        self,
        fabric: Fabric,
        stage: Stage,
        recipe: Recipe,
        *,
        named: Mapping[str, nn.Parameter],
        images: int,
        place: tuple[int, int],
        sharded: ShardedStage | None = None,
    ):
        recipe = recipe.of(stage)
        self.sharded = sharded
        if sharded is not None:
            cut = sharded.tensors()
            named = {name: cast("nn.Parameter", cut[p]) for name, p in named.items() if p in cut}
            stage = sharded.stage
        self.fabric, self.stage, self.recipe = fabric, stage, recipe
        self.images, self.place = images, place
        self.device = stage.device
        if recipe.compile == "blocks" or (recipe.compile and sharded is not None):
            count = compile_blocks(stage)
            if count and fabric.is_global_zero:
                log.info(
                    "%d blocks are compiled at their first call, which takes minutes, once on a "
                    "machine (kept in %s)", count, os.environ["TORCHINDUCTOR_CACHE_DIR"],
                )  # fmt: skip
        if recipe.recompute:
            recompute(stage)
        self.players = [self._player(turn) for turn in stage.turns]
        self.ema = EMA(trained_by(stage, named), recipe.ema, recipe.ema_ramp)

    def _player(self, turn: Turn) -> Player:
        parameters, recipe = parameters_of(turn), self.recipe
        optimizer = optimizer_for(turn, recipe)
        if self.sharded is not None:
            module = in_precision(self.fabric, Wrapped(self.stage, compiled=False))
            return Player(turn, module, optimizer, parameters, recipe.of(turn).clip)
        wrapped = Wrapped(self.stage, recipe.compile is True and self.stage.compiles)
        with only(self.stage, parameters):
            module = self.fabric.setup_module(wrapped, move_to_device=self.device.type != "meta")
        return Player(turn, module, optimizer, parameters, recipe.of(turn).clip)

    def __call__(
        self, step: int, chunks: Sequence[tuple[int, Batch]], lr: float
    ) -> dict[str, float]:
        """Loss, its parts and the gradient norm over all devices; no numbers on the meta device.

        step: inside the stage. chunks: this device's micro batches with their numbers. lr: of this
        step.

        Raises:
            FloatingPointError: with the numbers, where one is not finite.
        """
        numbers: dict[str, float] = {}
        for player in self.players:
            name = "" if len(self.players) == 1 else f"/{player.turn.name}"
            frozen = only(self.stage, player.parameters) if name else nullcontext()
            with frozen, products(self.recipe.matmul):
                values = self._gradients(player, step, chunks)
            set_lr(player.optimizer, lr * player.turn.lr)
            player.optimizer.step()
            numbers |= {f"{key}{name}" if key in TOTALS else key: v for key, v in values.items()}
        self.ema.update(step * self.images, self.images)
        return numbers

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the weights are their first average; those of the whole stage too, on the device
        of the first process alone."""
        main = self.fabric.is_global_zero
        with self.ema.applied():
            if self.sharded is not None:
                self.sharded.gather(keep=main)
                if main:
                    self.sharded.release()
            yield
            if self.sharded is not None:
                self.sharded.whole.to("cpu")

    def hand_back(self) -> None:
        """The whole stage gets the weights as they stand, for good."""
        if self.sharded is not None:
            self.sharded.gather()
            self.sharded.release()

    def moments(self) -> States:
        """The states of the optimizers, whole, by the parameters of the whole stage."""
        states = moments_of([player.optimizer for player in self.players])
        if self.sharded is None:
            return states
        return {
            parameter: {key: whole(value) if isinstance(value, Tensor) else value
                        for key, value in states[cut].items()}
            for parameter, cut in self.sharded.tensors().items()
            if cut in states
        }  # fmt: skip

    def moments_from(self, moments: States) -> States:
        """`moments` of a stage before, by the parameters that this one trains and cut as they
        are."""
        if self.sharded is None:
            return moments
        return {
            cut: {key: laid_out(value, cut) if isinstance(value, Tensor) else value
                  for key, value in moments[parameter].items()}
            for parameter, cut in self.sharded.tensors().items()
            if parameter in moments
        }  # fmt: skip

    def _gradients(
        self, player: Player, step: int, chunks: Sequence[tuple[int, Batch]]
    ) -> dict[str, float]:
        """Of one turn, summed over its micro batches and clipped."""
        (seed, index), name, count = self.place, player.turn.name, len(chunks)
        player.optimizer.zero_grad(set_to_none=True)
        sums, names = torch.zeros((), device=self.device), ()
        for i, (chunk, batch) in enumerate(chunks):
            place = (seed, name, index, step, chunk)
            draws = self.stage.draw_parts(batch, self._noise(batch, *place))
            torch.manual_seed(seed_of("dropout", *place))
            call = partial(loss_of, batch, draws, name, step)
            with self._accumulating(player, i + 1 < count):
                column, names = player.module(call)
                self.fabric.backward(column[0] / count)
            sums = sums + column.detach() / count
        return self._checked(player, ("loss", *names, "grad_norm"), sums)

    @contextmanager
    def _accumulating(self, player: Player, enabled: bool) -> Iterator[None]:
        """Inside, if enabled, processes do not exchange gradients yet."""
        if self.sharded is None:
            with self.fabric.no_backward_sync(player.module, enabled=enabled):
                yield
        else:
            with self.sharded.accumulating(enabled):
                yield

    def _noise(self, batch: Batch, *place: int | str) -> Noise:
        dtype = batch.images.dtype
        if self.device.type == "meta":
            return lambda shape: torch.empty(tuple(shape), device=self.device, dtype=dtype)
        generator = generator_of("draws", *place, device=self.device)
        return from_generator(generator, self.device, dtype)

    def _checked(self, player: Player, names: Sequence[str], sums: Tensor) -> dict[str, float]:
        """The numbers after clipping, if all are finite; one transfer from the device.

        Raises:
            FloatingPointError: with the numbers, where one is not finite.
        """
        norm = nn.utils.get_total_norm([p.grad for p in player.parameters if p.grad is not None])
        if self.sharded is not None:
            norm = whole(norm)
        column = torch.cat([sums, norm[None].to(sums.dtype)])
        if self.fabric.world_size > 1:
            column = all_reduce(self.fabric, column, "mean")
        if player.clip:
            nn.utils.clip_grads_with_norm_(player.parameters, player.clip, norm)
        if column.is_meta:
            return {}
        values = dict(zip(names, column.tolist(), strict=True))
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(", ".join(f"{k} {value:.4g}" for k, value in values.items()))
        return values


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Inside, products of float32 numbers have this precision: `Recipe.matmul`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def in_precision(fabric: Fabric, module: nn.Module) -> Callable[..., Any]:
    """A module whose forward pass has the precision of the run, as Fabric's own wrapper has it."""

    def call(*args: Any) -> Any:
        with fabric.autocast():
            return module(*args)

    return call


class Wrapped(nn.Module):
    """A stage behind one forward that takes a function of it.

    Fabric and its wrappers look into arguments; a function is left alone, and `Batch` and `Draws`
    reach the stage as they are.
    """

    def __init__(self, stage: Stage, compiled: bool):
        super().__init__()
        self.stage = stage
        self._column = torch.compile(column_of, fullgraph=True) if compiled else column_of

    def forward(self, call: Callable[..., Any]) -> tuple[Tensor, tuple[str, ...]]:
        """Total and logs of the loss in one column, and the names of the logs."""
        return call(self._column, self.stage)


def column_of(
    stage: Stage, batch: Batch, draws: Any, turn: str, step: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Total and logs of the loss in one tensor (1 + logs,), and the names of the logs.

    One tensor, because a compiler may return equal ones as the same: with one level the total is
    the detached log of that level, and would lose its gradient.
    """
    loss = stage.loss_of_parts(batch, draws, turn, step)
    logs = [value.detach().to(loss.total.dtype) for value in loss.logs.values()]
    return torch.stack([loss.total, *logs]), tuple(loss.logs)


def loss_of(
    batch: Batch, draws: Any, turn: str, step: int, column: Callable[..., Any], stage: Stage
) -> Any:
    """`column` of a stage with the arguments that Fabric must not look into."""
    return column(stage, batch, draws, turn, step)


@contextmanager
def only(stage: Stage, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, the other parameters of the stage are frozen."""
    own = {id(parameter) for parameter in parameters}
    others = [p for p in stage.parameters() if p.requires_grad and id(p) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
