"""The batches of a stage: which images each device sees in each step, read ahead of it."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierdiff.batch import Batch
from hierdiff.data import order
from hierdiff.data.buckets import Buckets, for_training
from hierdiff.data.encoded import EncodedImages
from hierdiff.methods import Method
from hierdiff.noise import seed_of
from hierdiff.training.layout import FORMATS
from hierdiff.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AHEAD = 2  # steps that are read before they are due


def batches_of(method: Method, recipe: Recipe, devices: int) -> list[int]:
    """Images in a step of each stage.

    Raises:
        ValueError: where devices and micro batches cannot share them evenly.
    """
    batches = [stage.batch_size or recipe.batch_size for stage in method.stages]
    for batch, stage in zip(batches, method.stages, strict=True):
        if batch % (devices * recipe.accumulate):
            own = f"batch_size={batch} of stage {stage.name}"
            option = own if stage.batch_size else f"trainer.batch_size={batch}"
            raise ValueError(
                f"{option} is not a multiple of {devices} device(s) x {recipe.accumulate} micro "
                f"batch(es): choose one that is"
            )
    return batches


@dataclass
class Speed:
    """How fast images come, and whether steps wait for them.

    images, seconds: read so far, over the time that reading took; waited: seconds in which a step
    had nothing to do but wait.
    """

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Of reading alone; 0 before anything was read."""
        return self.images / self.seconds if self.seconds else 0.0

    def text(self, step_seconds: float) -> str:
        """In words, of a process whose steps took that long, waiting included."""
        need = self.images / step_seconds if step_seconds else 0.0
        share = self.waited / step_seconds if step_seconds else 0.0
        return (
            f"images came at {self.images_per_second:.0f}/s in each process, steps took "
            f"{need:.0f}/s and waited {share:.0%} of the time"
        )


class Feed:
    """The chunks of each step that are this process's, on its device.

    Beside an accelerator, or where other processes decode, the next steps are read by a thread
    meanwhile; what it reads is a function of the step, so that a thread changes nothing.

    images: of one step, over all devices and micro batches. place: what order, flips and crops are
    a function of, beside the step: the seed of the run and the number of the stage. beside: images
    that are read beside each clip (`Batch.stills`).
    """

    def __init__(
        self,
        data: Any,
        fabric: Fabric,
        recipe: Recipe,
        *,
        images: int,
        place: tuple[int, int],
        beside: float = 0.0,
    ):
        data = for_training(data)
        self.data, self.fabric, self.recipe = data, fabric, recipe
        self.images, self.place, self.beside = images, place, beside
        self.speed = Speed()
        shards = getattr(data, "shards", None)
        self._shards = None if shards is None else order.runs(shards)
        self._buckets = data.sizes if isinstance(data, Buckets) else None
        self.decodes = isinstance(getattr(data, "images", None), EncodedImages)
        beside = fabric.device.type != "cpu" or (self.decodes and data.images.workers > 0)
        self._pool = ThreadPoolExecutor(1, "hierdiff-feed") if beside else None
        self._ahead: dict[int, Future[list[Batch]]] = {}

    def chunks(self, step: int) -> list[tuple[int, Batch]]:
        """The micro batches of this process as (number, batch); images in the dtype of the run."""
        began = time.perf_counter()
        ahead = self._ahead.pop(step, None)
        batches = ahead.result() if ahead is not None else self._read(step)
        self.speed.waited += time.perf_counter() - began
        if self._pool is not None:
            for later in range(step + 1, step + 1 + AHEAD):
                if later not in self._ahead:
                    self._ahead[later] = self._pool.submit(self._read, later)
        return list(zip(self._numbers, [batch.map(self._placed) for batch in batches], strict=True))

    @property
    def _numbers(self) -> range:
        count = self.recipe.accumulate
        first = self.fabric.global_rank * count
        return range(first, first + count)

    def _read(self, step: int) -> list[Batch]:
        began = time.perf_counter()
        batches = [self._chunk(step, chunk) for chunk in self._numbers]
        self.speed.seconds += time.perf_counter() - began
        self.speed.images += sum(map(len, batches))
        return batches

    def _chunk(self, step: int, chunk: int) -> Batch:
        n, count = len(self.data), self.fabric.world_size * self.recipe.accumulate
        seed = seed_of("order", *self.place)
        share: dict[str, Any] = {"n": n, "batch": self.images, "rank": chunk, "ranks": count}
        share |= {"seed": seed, "buckets": self._buckets}
        rows = order.indices(step, shards=self._shards, **share)
        epochs = order.epochs(step, **share)
        drawn: dict[str, Tensor] = {}
        if getattr(self.data, "flip", False):
            u = order.chances(rows, epochs, "flip", *self.place, n=n, count=1)
            drawn["flip"] = u[:, 0] < 0.5
        if getattr(self.data, "crops", False):
            drawn["crop"] = order.chances(rows, epochs, "crop", *self.place, n=n, count=3)
        read: Batch = self.data.batch(rows, **drawn)
        if beside := math.ceil(self.beside * len(rows)):
            numbers = 2 * math.ceil(self.beside)
            u = order.chances(rows, epochs, "stills", *self.place, n=n, count=numbers)
            read = replace(read, stills=self.data.stills(u.reshape(-1, 2)[:beside]))
        return read.map(Tensor.pin_memory) if self.fabric.device.type == "cuda" else read

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.recipe.dtype if tensor.is_floating_point() else tensor.dtype
        layouts = FORMATS if self.recipe.channels_last else {}
        layout = layouts.get(tensor.ndim, torch.preserve_format)
        return tensor.to(self.fabric.device, dtype, non_blocking=True, memory_format=layout)

    def close(self) -> None:
        """Ends the thread that reads ahead, and the processes that decode."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self.decodes:
            self.data.images.close()
