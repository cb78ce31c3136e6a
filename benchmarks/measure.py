"""Quality of a method at every resolution, and the two rows that give the scale.

A method's images are measured twice: its own level at a resolution ("native"), and its finest image
pooled to it ("pooled"). References are the training images pooled by the same operator. Conditions
(class, caption) are those of the test images, one after another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from hierdiff.codec import Codec
from hierdiff.data import ImageData
from hierdiff.files import write
from hierdiff.images import to_float, to_uint8
from hierdiff.method import Method
from hierdiff.metrics.extra import psnr, ssim
from hierdiff.metrics.features import Extractor
from hierdiff.metrics.fidelity import FidelityMeter, Reference, levels_of, references
from hierdiff.metrics.scale import PixelGaussian
from hierdiff.noise import from_generator, generator_of, per_example, seed_of

Images = dict[int, UInt8[Tensor, "n c _h _w"]]
Rows = list[dict[str, Any]]
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]

BATCH = 64


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a method of this precision samples."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16"))


def samples(
    method: Method, data: ImageData, n: int, *, seed: int, precision: str, batch: int = BATCH
) -> Iterator[Images]:
    """n images in batches, uint8 on the CPU; image i has a seed of its own, whatever the batch."""
    device = next(method.parameters()).device
    for first in range(0, n, batch):
        rows = range(first, min(first + batch, n))
        cond = data.batch(torch.tensor([row % len(data) for row in rows])).cond
        noise = per_example([seed_of(seed, "sample", row) for row in rows], device)
        with autocast(device, precision):
            images = method.sample(len(rows), cond, noise=noise)
        yield {side: to_uint8(x).cpu() for side, x in images.items()}


def real_references(
    data: ImageData, extractor: Extractor, resolutions: Sequence[int], folder: Path
) -> dict[int, Reference]:
    """Of the training images, kept in `folder`."""
    train = data.part("train")
    return references(
        batches(train),
        extractor,
        resolutions,
        data=train.sha256,
        split="train",
        folder=folder,
    )


def batches(data: ImageData, size: int = BATCH) -> Iterator[UInt8[Tensor, "_b c h w"]]:
    for first in range(0, len(data), size):
        yield torch.from_numpy(data.images[first : first + size].copy())


def quality(
    images: Iterable[Mapping[int, UInt8[Tensor, "_b c _h _w"]]],
    extractor: Extractor,
    references: Mapping[int, Reference],
) -> Rows:
    """One row for each resolution and view of a stream of images."""
    meter = FidelityMeter(extractor, references)
    for levels in images:
        meter.add(levels)
    return [asdict(row) for row in meter.qualities()]


@torch.no_grad()
def reconstructions(
    codec: Codec, images: UInt8[np.ndarray, "n c h w"], extractor: Extractor, reference: Reference
) -> tuple[Rows, Tensor]:
    """What a lossy codec makes of real images: its distance (the floor of what diffuses in it),
    PSNR in dB and SSIM, and the images, uint8."""
    made = torch.cat(
        [
            to_uint8(codec.decode(codec.encode(to_float(chunk)))[reference.resolution])
            for chunk in torch.from_numpy(images).split(BATCH)
        ]
    )
    (row,) = (
        row
        for row in quality(
            [{reference.resolution: made}], extractor, {reference.resolution: reference}
        )
        if row["view"] == "native"
    )
    real = torch.from_numpy(images)
    pairs = {"PSNR": psnr(made, real), "SSIM": ssim(made, real)}
    same = {**row, "floor": None, "n_reference": len(real), "route": "pairs"}
    identity = f"torchmetrics : uint8-round : N={len(real)} : ref={reference.hash}"
    rows = [{**row, "metric": f"r{row['metric']}"}]
    rows += [
        {**same, "metric": name, "value": value, "identity": identity}
        for name, value in pairs.items()
    ]
    return rows, made


def scale_rows(
    data: ImageData,
    extractor: Extractor,
    references: Mapping[int, Reference],
    n: int,
    *,
    seed: int,
    folder: Path,
    track: Track,
) -> dict[str, Rows]:
    """Real test images, and a Gaussian with the training pixels' mean and covariance.

    They depend on data and metric alone, so they are kept in `folder`.
    """
    sides = list(references)
    parts = [extractor.identity, *(references[side].hash for side in sides), n, seed, data.sha256]
    kept = folder / f"scale-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
    if kept.exists():
        try:
            return json.loads(kept.read_text(encoding="utf-8"))
        except ValueError:
            kept.unlink()  # half a file: measured again
    test = data.part("test")
    real = [
        levels_of(images, sides) for images in batches(test.taken(np.arange(min(n, len(test)))))
    ]
    gaussian = PixelGaussian.fit(torch.from_numpy(data.part("train").images[:].copy()))
    drawn = to_uint8(gaussian.sample(n, from_generator(generator_of(seed, "gaussian"))))
    fake = [levels_of(chunk, sides) for chunk in drawn.split(BATCH)]
    rows = {
        "real": quality(track(real, "real images", len(real)), extractor, references),
        "gaussian": quality(track(fake, "Gaussian", len(fake)), extractor, references),
    }
    rows = {kind: [row for row in found if row["view"] == "pooled"] for kind, found in rows.items()}
    write(kept, json.dumps(rows).encode())
    return rows
