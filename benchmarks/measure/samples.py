"""The images that are measured: generated under the conditions of their numbers, and real ones.

Image i has noise and conditions of its own. Float kernels round by the number of images in a call,
so images are made in packs whose borders are multiples of `pack`: neither the number of processes
nor that of images changes a bit of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.conditions import EvaluationConditions
from benchmarks.device import autocast
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows
from hierdiff.images import to_uint8
from hierdiff.methods import Generator, Method, Request
from hierdiff.metrics.reference import BATCH as FEATURES
from hierdiff.noise import per_example, seed_of
from hierdiff.resolution import Name, text_of
from hierdiff.samplers.integrate import Watch

PixelImages = dict[Name, UInt8[Tensor, "n c *_sides"]]  # by name of a level
BATCH = 64
PACK = 16


def blocks(n: int, batch: int, pack: int = PACK, start: int = 0) -> list[range]:
    """Numbers `start` to n - 1 in blocks of `batch` images, rounded up to whole packs and to whole
    batches of features, so that a block is the same work whoever does it.

    Raises:
        ValueError: for less than one image, batch or pack.
    """
    if min(n, batch, pack) < 1:
        raise ValueError(f"{n} images in blocks of {batch}, packs of {pack}: take at least 1 each")
    whole = math.lcm(pack, FEATURES)
    size = -(-batch // whole) * whole
    return [range(first, min(first + size, n)) for first in range(start, n, size)]


@dataclass(frozen=True)
class Draw:
    """The images of one sampling seed, by their numbers.

    pack: images in one call of the networks. steps: of the sampler, None for the method's own.
    """

    method: Method | Generator
    conditions: EvaluationConditions
    seed: int
    precision: str
    pack: int = PACK
    steps: int | None = None

    def __call__(self, numbers: range) -> PixelImages:
        """Images of these numbers, which begin at the border of a pack, uint8 on the CPU."""
        packs = [self._pack(first) for first in range(numbers.start, numbers.stop, self.pack)]
        return {
            name: torch.cat([images[name] for images in packs])[: len(numbers)] for name in packs[0]
        }

    def _pack(self, first: int) -> PixelImages:
        images = self.floats(range(first, first + self.pack))
        return {name: to_uint8(x).cpu() for name, x in images.items()}

    def floats(
        self, numbers: Sequence[int], watch: Watch | None = None
    ) -> dict[Name, Float[Tensor, "n c *_sides"]]:
        """Images of these numbers, made at once, as the method gives them."""
        request = self.request(numbers, watch)
        with autocast(next(self.method.parameters()).device, self.precision):
            return self.method.sample(request)

    def request(self, numbers: Sequence[int], watch: Watch | None = None) -> Request:
        """The request for images of these numbers, each from its own noise and conditions."""
        device = next(self.method.parameters()).device
        noise = per_example([seed_of(self.seed, "sample", number) for number in numbers], device)
        cond = self.conditions.cond(numbers)
        return Request(len(numbers), cond, noise=noise, watch=watch, steps=self.steps)


def sample_facts(
    conditions: EvaluationConditions, seed: int, places: Sequence[int]
) -> list[dict[str, Any]]:
    """What images number `places` are made from: number, seed, class and caption."""
    names, classes = conditions.data.class_names, conditions.classes(places)
    labels = [-1] * len(places) if classes is None else classes.tolist()
    captions = conditions.captions(places)
    return [
        {
            "image": place,
            "seed": seed,
            "class": None if label < 0 else names[label],
            "class_index": None if label < 0 else label,
            "caption": caption,
        }
        for place, label, caption in zip(
            places, labels, [None] * len(places) if captions is None else captions, strict=True
        )
    ]


def stored_form(images: PixelImages) -> dict[str, UInt8[np.ndarray, "n h w c"]]:
    """Images by level as `hierdiff.files.samples` takes them."""
    return {
        text_of(level): rearrange(batch.numpy(), "n c h w -> n h w c")
        for level, batch in images.items()
    }


class ImageBatches(Sequence[Tensor]):
    """All images of the data in order, uint8 (b, c, *sides), read a batch of `size` at a time."""

    def __init__(self, data: ImageData, size: int = BATCH):
        self.data, self.size = data, size

    def __len__(self) -> int:
        return -(-len(self.data) // self.size)

    def __getitem__(self, place: int) -> UInt8[Tensor, "_b c *sides"]:  # type: ignore[override]
        first = range(0, len(self.data), self.size)[place]
        return torch.from_numpy(self.data.images[first : first + self.size].copy())


def real_images(
    data: ImageData, n: int, numbers: range | None = None
) -> UInt8[Tensor, "_n c *sides"]:
    """The test images whose conditions images number 0 to n - 1 have, or those of `numbers` among
    them; no image twice, so that they may be fewer than n."""
    chosen = range(min(n, len(data))) if numbers is None else numbers
    rows = evaluation_rows(len(data), chosen)
    return torch.from_numpy(data.images[rows.numpy()])
