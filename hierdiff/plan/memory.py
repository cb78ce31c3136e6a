"""The peak of memory and the operations of one training step, on tensors without numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from hierdiff.batch import Batch
from hierdiff.methods import Stage
from hierdiff.metrics.cost import flops
from hierdiff.training.sharding import units_of
from hierdiff.training.step import only, parameters_of


@dataclass(frozen=True)
class Peak:
    """Bytes beside weights, optimizer and averages, at most at one time.

    total: gradients among them. activations: without gradients.
    """

    total: int
    activations: int


@dataclass(frozen=True)
class Work:
    """One micro batch on one process, forward and backward.

    flops: operations; forward: those of the forward pass alone. plain: its memory. recomputed: that
    where each block keeps its input alone, and is computed once more for its gradients.
    """

    flops: int
    forward: int
    plain: Peak
    recomputed: Peak


class Shapes:
    """Stages whose tensors have shapes and no numbers; leaves the stages without their weights.

    The stages are on the meta device; a batch is that of `noise_batch`, on it too.
    """

    def __init__(self, stages: Sequence[Stage]):
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            for stage in stages:
                stage.to_empty(device="cpu")

    def work(self, stage: Stage, batch: Batch, precision: str, step: int = 0) -> Work:
        """The work of all turns of a step; of memory that of the largest.

        batch: as `Stage.prepare_batch` gives it. precision: as `Recipe` has it.
        """
        with self._mode:
            placed = batch.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
            parts = []
            for turn in stage.turns:
                own = parameters_of(turn)
                with only(stage, own):
                    parts.append(OneTurn(stage, placed, turn.name, own, precision, step).work())
        return Work(
            flops=sum(part.flops for part in parts),
            forward=sum(part.forward for part in parts),
            plain=_largest(part.plain for part in parts),
            recomputed=_largest(part.recomputed for part in parts),
        )


def _largest(peaks: Iterable[Peak]) -> Peak:
    return max(peaks, key=lambda peak: peak.total)


@dataclass
class OneTurn:
    """A turn of a step on tensors without numbers."""

    stage: Stage
    batch: Batch
    turn: str
    trained: Sequence[nn.Parameter]
    precision: str
    step: int

    def work(self) -> Work:
        """Operations and both peaks."""
        forward: list[int] = []
        peaks: list[Peak] = []
        count = flops(lambda: peaks.append(self.peak(lambda run: forward.append(flops(run)))))
        plain = peaks[0]
        units = units_of(self.stage)
        if not units:
            return Work(count, forward[0], plain, plain)
        # not counted: the counter keeps what is recomputed
        with recomputed(units, self.precision):
            return Work(count, forward[0], plain, self.peak(lambda run: run()))

    def peak(self, call: Callable[[Callable[[], None]], None]) -> Peak:
        """Memory of both passes; call: of the function that is the forward pass."""
        noise = partial(torch.empty, dtype=self.batch.images.dtype)
        draws = self.stage.draw_parts(self.batch, lambda shape: noise(tuple(shape)))
        there = [*self.stage.parameters(), *self.stage.buffers(), *tree_leaves((self.batch, draws))]
        memory = Allocations([tensor for tensor in there if isinstance(tensor, Tensor)])
        hooks = [p.register_post_accumulate_grad_hook(memory.keep_gradient) for p in self.trained]
        losses: list[Tensor] = []

        def forward() -> None:
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16-mixed"),
                norms_of(self.precision),
            ):
                loss = self.stage.loss_of_parts(self.batch, draws, self.turn, self.step)
                losses.append(loss.total)

        with memory:
            call(forward)
            losses.pop().backward()
        for parameter, hook in zip(self.trained, hooks, strict=True):
            hook.remove()
            parameter.grad = None
        return Peak(memory.peak, memory.peak_without_gradients)


class Allocations(TorchDispatchMode):
    """Bytes of the tensors that live at one time; those of `known` tensors are not counted.

    peak: the most so far. peak_without_gradients: the most without kept gradients.
    """

    def __init__(self, known: Sequence[Tensor] = ()):
        super().__init__()
        self.live = self.gradients = self.peak = self.peak_without_gradients = 0
        self._seen = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The result of an operation, whose new tensors are counted."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen:
            return
        self._seen[storage._cdata] = size = storage.nbytes()
        weakref.finalize(storage, self._forget, storage._cdata)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.peak_without_gradients = max(self.peak_without_gradients, self.live - self.gradients)

    def _forget(self, place: int) -> None:
        self.live -= self._seen.pop(place)

    def keep_gradient(self, parameter: Tensor) -> None:
        """Counts the gradient of a parameter among those that stay."""
        assert parameter.grad is not None
        self.gradients += parameter.grad.untyped_storage().nbytes()


@contextmanager
def recomputed(units: Sequence[nn.Module], precision: str) -> Iterator[None]:
    """Inside, units keep only what goes into them, and are computed once more for gradients."""
    for unit in units:
        unit.__dict__["forward"] = partial(
            checkpoint,
            unit.forward,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), norms_of(precision)),
        )
    try:
        yield
    finally:
        for unit in units:
            del unit.__dict__["forward"]


class NormsInFloat32(TorchFunctionMode):
    """Norms in float32, as autocast has them on GPUs and not on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The result of a function; the input of a norm is made float32 first."""
        if func in (F.group_norm, F.layer_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def norms_of(precision: str) -> AbstractContextManager[Any]:
    """How norms are computed in a precision on a GPU."""
    return NormsInFloat32() if precision == "bf16-mixed" else nullcontext()
