"""Quality of a method at every resolution, and the two rows that give the scale.

A method's images are measured twice: its own level at a resolution ("native"), and its finest image
pooled to it ("pooled"). References are the training images pooled by the same operator. Conditions
(class, caption) are those of the test images, one after another. Uncertainty is that of independent
sampling seeds: a value is their mean, and stands beside each of them and their deviation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from hierdiff.codec import Codec
from hierdiff.data import ImageData
from hierdiff.files import write
from hierdiff.images import to_float, to_uint8
from hierdiff.method import Method, Stage
from hierdiff.metrics.attributes import ATTRIBUTES, AttributeMeter, hindrance
from hierdiff.metrics.classifier import classifier_of
from hierdiff.metrics.extra import psnr, ssim
from hierdiff.metrics.features import Extractor
from hierdiff.metrics.fidelity import PROTOCOL, FidelityMeter
from hierdiff.metrics.perceptual import Perceptual
from hierdiff.metrics.reference import Reference, foreign, levels_of, references
from hierdiff.metrics.scale import PixelGaussian
from hierdiff.noise import from_generator, generator_of, per_example, seed_of
from hierdiff.samplers.integrate import Watch

log = logging.getLogger(__name__)

Images = dict[int, UInt8[Tensor, "n c _h _w"]]
Rows = list[dict[str, Any]]
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]

BATCH = 64
AUTO = "auto"  # in a list of metrics: those of the data's parts, where its law is known


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which a method of this precision computes."""
    if not torch.amp.is_autocast_available(device.type):  # meta
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16"))


def samples(
    method: Method | Stage,
    data: ImageData,
    n: int,
    *,
    seed: int,
    precision: str,
    batch: int = BATCH,
) -> Iterator[Images]:
    """n images in batches, uint8 on the CPU; image i has a seed of its own, whatever the batch."""
    for first in range(0, n, batch):
        rows = range(first, min(first + batch, n))
        images = sampled(method, data, rows, seed=seed, precision=precision)
        yield {side: to_uint8(x).cpu() for side, x in images.items()}


def sampled(
    method: Method | Stage,
    data: ImageData,
    rows: Sequence[int],
    *,
    seed: int,
    precision: str,
    watch: Watch | None = None,
) -> dict[int, Float[Tensor, "n c _h _w"]]:
    """Images number `rows`, each from noise of its own and under the conditions of an example."""
    device = next(method.parameters()).device
    cond = data.batch(torch.tensor([row % len(data) for row in rows])).cond
    noise = per_example([seed_of(seed, "sample", row) for row in rows], device)
    with autocast(device, precision):
        return method.sample(len(rows), cond, noise=noise, watch=watch)


def real_references(
    data: ImageData,
    extractor: Extractor,
    resolutions: Sequence[int],
    folder: Path,
    *,
    given: Mapping[int, str | Path] | None = None,
) -> dict[int, Reference]:
    """Of the training images, kept in `folder`; `given`: files of foreign moments by resolution."""
    train, given = data.part("train"), given or {}
    check_sides(given, resolutions)
    foreigners = {side: foreign(path, extractor, side) for side, path in given.items()}
    own = references(
        batches(train),
        extractor,
        [side for side in resolutions if side not in foreigners],
        data=train.sha256,
        split="train",
        folder=folder,
    )
    return {side: (own | foreigners)[side] for side in resolutions}


def check_sides(given: Iterable[int], resolutions: Sequence[int]) -> None:
    """Refuses reference files for a resolution at which nothing is measured."""
    unknown = sorted(set(given) - set(resolutions))
    if unknown:
        raise ValueError(
            f"reference files for {unknown} px, where nothing is measured: give them for some of "
            f"{list(resolutions)}"
        )


def batches(data: ImageData, size: int = BATCH) -> Iterator[UInt8[Tensor, "_b c h w"]]:
    for first in range(0, len(data), size):
        yield torch.from_numpy(data.images[first : first + size].copy())


def quality(
    streams: Iterable[Iterable[Mapping[int, UInt8[Tensor, "_b c _h _w"]]]],
    extractor: Extractor,
    references: Mapping[int, Reference],
    metrics: Sequence[str] = ("fd",),
    *,
    captions: Sequence[str] | None = None,
    conditions: ImageData | None = None,
) -> Rows:
    """One row for each resolution, view and metric, from one stream for each sampling seed.

    Streams are measured one after another. captions: of the images of a stream, again from the
    first one when they are used up; conditions: the data of which the images of a stream have the
    conditions, in the same order, for the metric `attributes`.
    """
    found = []
    others = [name for name in metrics if name != ATTRIBUTES]
    for stream in streams:
        meter, first = FidelityMeter(extractor, references, others), 0
        parts = _part_meter(conditions, extractor, references) if ATTRIBUTES in metrics else None
        for levels in stream:
            count = len(next(iter(levels.values())))
            rows = range(first, first + count)
            meter.add(levels, captions and [captions[row % len(captions)] for row in rows])
            if parts is not None and conditions is not None:
                parts.add(levels, wanted_of(conditions, rows))
            first += count
        made = [*meter.qualities(), *(parts.qualities() if parts is not None else [])]
        made.sort(key=lambda row: (-row.resolution, row.view))
        found.append([asdict(row) for row in made])
    return [over_seeds(same) for same in zip(*found, strict=True)]


def _part_meter(
    data: ImageData | None, extractor: Extractor, references: Mapping[int, Reference]
) -> AttributeMeter:
    """On the extractor's device. ValueError where the data is not given, or has no law."""
    if data is None or data.law is None:
        raise ValueError(f"metric {ATTRIBUTES!r} needs data with a law: leave the metric out")
    device = next(extractor.parameters()).device
    return AttributeMeter(data.law, list(references), classifier_of(data.law).to(device))


def wanted_of(data: ImageData, rows: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
    """What the conditions of images number `rows` say of their parts, as `sampled` gives them."""
    at = np.array([row % len(data) for row in rows], dtype=np.int64)
    return {name: torch.from_numpy(codes[at]) for name, codes in data.told.items()}


def settled_metrics(names: Sequence[str], data: ImageData, resolutions: Sequence[int]) -> list[str]:
    """The metrics with `auto` made definite, as a record keeps it: `attributes` where they can be
    measured, and where not the log says why."""
    if AUTO not in names:
        return list(names)
    reason = hindrance(data.law, resolutions)
    if reason is not None:
        log.info("measure.metrics: %s", reason)
    able = [ATTRIBUTES] if reason is None else []
    return [one for name in names for one in (able if name == AUTO else [name])]


def over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the same measurement under several seeds: mean, all values, their deviation."""
    keys = ("resolution", "view", "metric", "identity")
    if len({tuple(row[key] for key in keys) for row in rows}) > 1:
        raise ValueError(
            f"seeds disagree on what was measured, {rows[0]['identity']} and "
            f"{rows[-1]['identity']}: draw as many images under each"
        )
    values = [row["value"] for row in rows]
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {**rows[0], "value": statistics.fmean(values), "values": values, "spread": spread}


@torch.no_grad()
def reconstructions(
    codec: Codec,
    images: UInt8[np.ndarray, "n c h w"],
    extractor: Extractor,
    reference: Reference,
    perceptual: Perceptual | None = None,
    *,
    precision: str = "32-true",
) -> tuple[Rows, Tensor]:
    """What a lossy codec makes of real images on the extractor's device, at the precision of the
    samples: its distance (the floor of what diffuses in it), PSNR in dB, SSIM and the mean
    perceptual distance of pairs, and the images, uint8 on the CPU."""
    side, real = reference.resolution, torch.from_numpy(images.copy())
    device = next(extractor.parameters()).device

    def again(chunk: Tensor) -> Tensor:
        with autocast(device, precision):
            return to_uint8(codec.decode(codec.encode(to_float(chunk.to(device))))[side]).cpu()

    made = torch.cat([again(chunk) for chunk in real.split(BATCH)])
    distance, *_ = quality([[{side: made}]], extractor, {side: reference})
    n = f"uint8-round : N={len(real)} : ref={reference.hash}"
    pairs = [
        ("PSNR", psnr(made, real), f"torchmetrics : {n}", "high"),
        ("SSIM", ssim(made, real), f"torchmetrics : {n}", "high"),
    ]
    if perceptual is not None and perceptual.identity != "none":
        value = _mean_distance(perceptual, made, real, device)
        pairs.append(("perceptual", value, f"{perceptual.identity} : {n}", "low"))
    same = {**distance, "floor": None, "n_reference": len(real), "route": "pairs"}
    rows = [{**distance, "metric": f"r{distance['metric']}"}]
    rows += [
        {
            **same,
            "metric": metric,
            "value": value,
            "values": [value],
            "identity": identity,
            "better": better,
        }
        for metric, value, identity, better in pairs
    ]
    return rows, made


def _mean_distance(
    perceptual: Perceptual,
    made: UInt8[Tensor, "n c h w"],
    real: UInt8[Tensor, "n c h w"],
    device: torch.device,
) -> float:
    found = [
        perceptual(to_float(a.to(device)), to_float(b.to(device))).double()
        for a, b in zip(made.split(BATCH), real.split(BATCH), strict=True)
    ]
    return float(torch.cat(found).mean())


def scale_rows(
    data: ImageData,
    extractor: Extractor,
    references: Mapping[int, Reference],
    n: int,
    *,
    seed: int,
    folder: Path,
    track: Track,
    metrics: Sequence[str] = ("fd",),
) -> dict[str, Rows]:
    """Real test images, and a Gaussian with the training pixels' mean and covariance.

    They depend on data and metrics alone, so they are kept in `folder`. Of metrics that compare
    levels of one method there is none.
    """
    sides, metrics, test = list(references), list(metrics), data.part("test")
    asked = [extractor.identity, [references[side].hash for side in sides], metrics, PROTOCOL]
    if ATTRIBUTES in metrics:
        asked += [_part_meter(test, extractor, references).identity, sorted(test.told)]
    parts = [*asked, n, seed, data.sha256]
    kept = folder / f"scale-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
    if kept.exists():
        try:
            return json.loads(kept.read_text(encoding="utf-8"))
        except ValueError:
            kept.unlink()  # half a file: measured again
    real = [
        levels_of(images, sides) for images in batches(test.taken(np.arange(min(n, len(test)))))
    ]
    gaussian = PixelGaussian.fit(torch.from_numpy(data.part("train").images[:].copy()))
    drawn = to_uint8(gaussian.sample(n, from_generator(generator_of(seed, "gaussian"))))
    fake = [levels_of(chunk, sides) for chunk in drawn.split(BATCH)]

    def measured(levels: list[Any], what: str) -> Rows:
        stream = track(levels, what, len(levels))
        return quality(
            [stream], extractor, references, metrics, captions=test.captions, conditions=test
        )

    rows = {"real": measured(real, "real images"), "gaussian": measured(fake, "Gaussian")}
    rows = {kind: [row for row in found if row["view"] == "pooled"] for kind, found in rows.items()}
    write(kept, json.dumps(rows).encode())
    return rows
