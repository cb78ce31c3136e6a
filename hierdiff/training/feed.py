"""The batches of a stage: which images each device sees in each step, read ahead of it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierdiff.batch import Batch
from hierdiff.data import order
from hierdiff.methods import Method
from hierdiff.noise import generator_of, seed_of
from hierdiff.training.layout import FORMATS
from hierdiff.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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


class Feed:
    """The chunks of each step that are this process's, on its device.

    Beside an accelerator the next step is read by a thread meanwhile; what it reads is a function
    of the step, so that a thread changes nothing.

    images: of one step, over all devices and micro batches. place: what order and flips are a
    function of, beside the step: the seed of the run and the number of the stage.
    """

    def __init__(
        self, data: Any, fabric: Fabric, recipe: Recipe, *, images: int, place: tuple[int, int]
    ):
        self.data, self.fabric, self.recipe = data, fabric, recipe
        self.images, self.place = images, place
        beside = fabric.device.type != "cpu"
        self._pool = ThreadPoolExecutor(1, "hierdiff-feed") if beside else None
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def chunks(self, step: int) -> list[tuple[int, Batch]]:
        """The micro batches of this process as (number, batch); images in the dtype of the run."""
        ahead, self._next = self._next, None
        batches = ahead[1].result() if ahead and ahead[0] == step else self._read(step)
        if self._pool is not None:
            self._next = (step + 1, self._pool.submit(self._read, step + 1))
        return list(zip(self._numbers, [batch.map(self._placed) for batch in batches], strict=True))

    @property
    def _numbers(self) -> range:
        count = self.recipe.accumulate
        first = self.fabric.global_rank * count
        return range(first, first + count)

    def _read(self, step: int) -> list[Batch]:
        count = self.fabric.world_size * self.recipe.accumulate
        flips = None
        if getattr(self.data, "flip", False):
            generator = generator_of("flip", *self.place, step)
            flips = (torch.rand(self.images, generator=generator) < 0.5).chunk(count)
        batches = []
        for chunk in self._numbers:
            rows = order.indices(
                step,
                n=len(self.data),
                batch=self.images,
                seed=seed_of("order", *self.place),
                rank=chunk,
                ranks=count,
            )
            read = self.data.batch(rows, None if flips is None else flips[chunk])
            pinned = self.fabric.device.type == "cuda"
            batches.append(read.map(Tensor.pin_memory) if pinned else read)
        return batches

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.recipe.dtype if tensor.is_floating_point() else tensor.dtype
        layouts = FORMATS if self.recipe.channels_last else {}
        layout = layouts.get(tensor.ndim, torch.preserve_format)
        return tensor.to(self.fabric.device, dtype, non_blocking=True, memory_format=layout)

    def close(self) -> None:
        """Ends the thread that reads ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
