"""What the training of a stage takes on so many GPUs: memory of each, time, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hierdiff.methods import Method, Stage
from hierdiff.options import NonNegative, Positive, check_fields
from hierdiff.plan.memory import Peak, Shapes
from hierdiff.registry import single
from hierdiff.training.recipe import Recipe
from hierdiff.training.run import stage_steps
from hierdiff.training.sharding import can_shard, networks_of, shards_of
from hierdiff.training.step import optimizer_for, parameters_of, trained_by
from hierdiff.training.untrained import noise_batch

PREFETCHED = 2  # shards that are whole at one time: the one at work and the next


@single("gpu")
@dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    memory: in GB (10^9 bytes). bf16, float32: dense peaks in TFLOP/s. watts: of the board at full
    load. source: of these numbers.
    """

    model: str
    memory: Positive
    bf16: Positive
    float32: Positive
    watts: NonNegative
    source: str

    def __post_init__(self) -> None:
        check_fields(self, "gpu")

    def peak(self, precision: str) -> float:
        """Operations per second at most in a precision of `Recipe`.

        Raises:
            ValueError: for a precision whose peak is not known.
        """
        rates = {"bf16-mixed": self.bf16, "32-true": self.float32}
        if precision not in rates:
            raise ValueError(
                f"trainer.precision={precision} has no known peak on {self.model}: plan with "
                f"{' or '.join(rates)}"
            )
        return rates[precision] * 1e12


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step; averages: copies of the weights (EMA)."""

    weights: float
    gradients: float
    optimizer: float
    averages: float
    activations: float

    @property
    def total(self) -> float:
        """All of them together."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Layout:
    """One way to lay a stage out over the GPUs; flops: operations of a step, on all of them."""

    strategy: str
    recompute: bool
    memory: Memory
    flops: float


@dataclass(frozen=True)
class StageEstimate:
    """What the training of a stage takes.

    steps: of the budget. images: of a step; micro: of a micro batch on a GPU. parameters: of the
    stage, trained: those that have gradients. flops: of a step without recomputation.
    """

    name: str
    steps: int
    images: int
    micro: int
    parameters: int
    trained: int
    flops: float
    layouts: tuple[Layout, ...]

    def seconds(self, layout: Layout, gpus: int, rate: float) -> float:
        """Seconds of a step; rate: operations that a GPU does in a second."""
        return layout.flops / (gpus * rate)


@dataclass(frozen=True)
class Bytes:
    """Bytes of what stays between steps, and of the parameters that are whole at one time when
    they are sharded."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    gathered: int
    gathered_gradients: int

    def copied(self, peak: Peak, gpus: int) -> Memory:
        """On every GPU a whole copy; of several, DDP exchanges gradients in buckets, a second copy
        of them."""
        gradients = self.gradients * (1 if gpus == 1 else 2)
        extra = peak.total - self.gradients
        return Memory(self.weights, gradients, self.optimizer, self.averages, extra)

    def sharded(self, peak: Peak, n: int) -> Memory:
        """Each of n GPUs holds a part; what is gathered for a while counts as activations."""
        temporary = peak.activations + self.gathered + self.gathered_gradients
        return Memory(
            self.weights / n, self.gradients / n, self.optimizer / n, self.averages / n, temporary
        )


def estimates(
    method: Method, recipe: Recipe, facts: Mapping[str, Any], *, gpus: int, shard_over: int
) -> list[StageEstimate]:
    """Of every stage that is trained; the method is on the meta device and loses its tensors.

    facts: of the data. shard_over: GPUs that share one copy under fsdp.

    Raises:
        ValueError: where the GPUs and micro batches cannot share a batch evenly.
    """
    counts = stage_steps(method, recipe.steps)
    trained = [(s, n) for s, n in zip(method.stages, counts, strict=True) if n]
    batches, sizes = [], []
    for stage, count in trained:
        stage.steps = count
        stage.start_untrained()
        raw = noise_batch(stage.train(), micro_batch(stage, recipe, gpus), facts, recipe)
        batches.append(stage.prepare_batch(raw))
        sizes.append(bytes_of(stage, recipe))
    shapes = Shapes(list(method.stages))
    found = []
    for (stage, count), batch, size in zip(trained, batches, sizes, strict=True):
        images = stage.batch_size or recipe.batch_size
        share = images / len(batch)  # micro batches of a step on all GPUs
        work = shapes.work(stage, batch, recipe.precision, step=count - 1)
        again = work.flops + work.forward  # at most: what lies outside of blocks is not recomputed
        ways = [(False, work.plain, work.flops * share), (True, work.recomputed, again * share)]
        layouts = [Layout("ddp", way, size.copied(peak, gpus), n) for way, peak, n in ways]
        if can_shard(stage):
            layouts += [
                Layout("fsdp", way, size.sharded(peak, shard_over), n) for way, peak, n in ways
            ]
        found.append(
            StageEstimate(
                name=stage.name,
                steps=count,
                images=images,
                micro=len(batch),
                parameters=elements(stage.parameters()),
                trained=elements(p for turn in stage.turns for p in parameters_of(turn)),
                flops=work.flops * share,
                layouts=tuple(layouts),
            )
        )
    return found


def micro_batch(stage: Stage, recipe: Recipe, gpus: int) -> int:
    """Images of a micro batch on one GPU.

    Raises:
        ValueError: where they cannot share a batch evenly.
    """
    images = stage.batch_size or recipe.batch_size
    shares = gpus * recipe.accumulate
    if images % shares:
        near = shares * max(1, round(images / shares))
        raise ValueError(
            f"gpus={gpus} with trainer.accumulate={recipe.accumulate} do not share the batch of "
            f"{images} images of stage {stage.name} evenly: set trainer.batch_size={near}"
        )
    return images // shares


def bytes_of(stage: Stage, recipe: Recipe) -> Bytes:
    """Of a stage on the meta device; its optimizers take a step there, which makes their state."""
    recipe = recipe.of(stage)
    named = dict(stage.named_parameters())
    trained = trained_by(stage, named)
    states = 0
    for turn in stage.turns:
        optimizer = optimizer_for(turn, recipe)
        for parameter in parameters_of(turn):
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        states += size_of(
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
    stage.zero_grad(set_to_none=True)
    gradients = size_of(trained.values())
    copies = sum(length > 0 for length in recipe.ema)
    groups = [size_of(group) for group in groups_of(stage)]
    whole, largest = groups[-1], max(groups[:-1], default=0)
    return Bytes(
        weights=size_of([*named.values(), *stage.buffers()]),
        gradients=gradients,
        optimizer=states,
        averages=copies * gradients,
        gathered=whole + PREFETCHED * largest,
        gathered_gradients=max(whole, largest),
    )


def groups_of(stage: Stage) -> list[list[nn.Parameter]]:
    """Parameters that are gathered together under fsdp; the last group, what no shard holds, stays
    whole through a step."""
    taken: set[int] = set()
    groups = []
    for network in networks_of(stage):
        for shard in shards_of(network):
            own = [p for p in shard.parameters() if id(p) not in taken]
            taken |= {id(p) for p in own}
            groups.append(own)
    return [*groups, [p for p in stage.parameters() if id(p) not in taken]]


def size_of(tensors: Any) -> int:
    """Bytes of tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def elements(tensors: Any) -> int:
    """Numbers in tensors together."""
    return sum(tensor.numel() for tensor in tensors)


def best(layouts: Sequence[Layout], room: float) -> Layout | None:
    """The first layout that fits into `room` bytes, of those with the fewest operations."""
    fitting = [layout for layout in layouts if layout.memory.total <= room]
    return min(fitting, key=lambda layout: layout.flops, default=None)
