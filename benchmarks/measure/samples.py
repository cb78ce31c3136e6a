"""The images that are measured: generated under the conditions of test images, and real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.conditions import evaluation_captions
from benchmarks.device import autocast
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows
from hierdiff.images import to_uint8
from hierdiff.levels import Name, text_of
from hierdiff.methods import Generator, Method, Request
from hierdiff.noise import per_example, seed_of
from hierdiff.samplers.integrate import Watch

PixelImages = dict[Name, UInt8[Tensor, "n c *_sides"]]  # by name of a level
BATCH = 64


def samples(
    method: Method | Generator,
    data: ImageData,
    n: int,
    *,
    seed: int,
    precision: str,
    batch: int = BATCH,
    start: int = 0,
) -> Iterator[PixelImages]:
    """Images number `start` to n - 1 in batches, uint8 on the CPU.

    Image i has noise of its own, so that it does not depend on the batch.

    Raises:
        ValueError: for less than one image, or a batch of none.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"{n} samples in batches of {batch}: take at least 1 of both")
    for first in range(start, n, batch):
        rows = range(first, min(first + batch, n))
        images = draw_rows(method, data, rows, seed=seed, precision=precision)
        yield {name: to_uint8(x).cpu() for name, x in images.items()}


def draw_rows(
    method: Method | Generator,
    data: ImageData,
    rows: Sequence[int],
    *,
    seed: int,
    precision: str,
    watch: Watch | None = None,
) -> dict[Name, Float[Tensor, "n c *_sides"]]:
    """Images number `rows`, float, each from its own noise and the conditions of a test image."""
    request = request_of(method, data, rows, seed=seed, watch=watch)
    with autocast(next(method.parameters()).device, precision):
        return method.sample(request)


def request_of(
    method: Method | Generator,
    data: ImageData,
    rows: Sequence[int],
    *,
    seed: int,
    watch: Watch | None = None,
) -> Request:
    """The request for images number `rows`."""
    cond = data.batch(evaluation_rows(len(data), rows)).cond
    device = next(method.parameters()).device
    noise = per_example([seed_of(seed, "sample", row) for row in rows], device)
    return Request(len(rows), cond, noise=noise, watch=watch)


def sample_facts(data: ImageData, seed: int, places: Sequence[int]) -> list[dict[str, Any]]:
    """What images number `places` are made from: number, seed, and the class and caption of a test
    image."""
    rows = evaluation_rows(len(data), places).numpy()
    labels = [-1] * len(rows) if data.labels is None else data.labels[rows].tolist()
    captions = evaluation_captions(data, places)
    return [
        {
            "image": place,
            "seed": seed,
            "class": None if label < 0 else data.class_names[label],
            "class_index": None if label < 0 else label,
            "caption": caption,
        }
        for place, label, caption in zip(
            places, labels, [None] * len(rows) if captions is None else captions, strict=True
        )
    ]


def stored_form(images: PixelImages) -> dict[str, UInt8[np.ndarray, "n h w c"]]:
    """Images by level as `hierdiff.files.samples` takes them."""
    return {
        text_of(level): rearrange(batch.numpy(), "n c h w -> n h w c")
        for level, batch in images.items()
    }


def image_batches(data: ImageData, size: int = BATCH) -> Iterator[UInt8[Tensor, "_b c *sides"]]:
    """All images of the data in order, in batches."""
    for first in range(0, len(data), size):
        yield torch.from_numpy(data.images[first : first + size].copy())


def real_images(data: ImageData, n: int) -> UInt8[Tensor, "n c *sides"]:
    """The test images whose conditions images number 0 to n - 1 have; no image twice, so that they
    may be fewer than n."""
    rows = evaluation_rows(len(data), range(min(n, len(data))))
    return torch.from_numpy(data.images[rows.numpy()])
