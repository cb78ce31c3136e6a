"""What a lossy codec makes of real images."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import inf

import torch
from jaxtyping import UInt8
from torch import Tensor

from benchmarks.conditions import EvaluationConditions
from benchmarks.device import autocast
from benchmarks.measure.quality import Rows, merge_seeds
from benchmarks.measure.samples import BATCH
from benchmarks.measure.stream import Gauge, Source
from hierdiff.codec import Codec
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rule
from hierdiff.images import to_float, to_uint8
from hierdiff.levels import framewise
from hierdiff.methods import Generator
from hierdiff.metrics.extra import psnr, ssim
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.identity import PROTOCOL, Identity
from hierdiff.metrics.perceptual import Perceptual
from hierdiff.metrics.quality import HIGH, LOW, finite
from hierdiff.metrics.reference import Reference
from hierdiff.resolution import text_of

log = logging.getLogger(__name__)


@torch.no_grad()
def reconstructions(
    codec: Codec | Generator,
    real: UInt8[Tensor, "n c *sides"],
    extractor: Extractor,
    reference: Reference,
    perceptual: Perceptual | None = None,
    *,
    precision: str = "32-true",
    conditions: ImageData | None = None,
) -> tuple[Rows, Tensor]:
    """What a lossy codec makes of real images on the extractor's device, at the precision of the
    samples: its distance (the floor of what diffuses in it), PSNR in dB, SSIM and the mean
    perceptual distance of pairs, and the images, uint8 on the CPU. conditions: the data that has
    `real` as its `real_images`."""
    side, where = reference.resolution, f"{text_of(reference.resolution)} px"
    device = next(extractor.parameters()).device

    def again(chunk: Tensor) -> Tensor:
        with autocast(device, precision):
            return to_uint8(codec.decode(codec.encode(to_float(chunk.to(device))))[side]).cpu()

    made = torch.cat([again(chunk) for chunk in real.split(BATCH)])
    frames = framewise(made), framewise(real)
    source = Source("reconstructions", len(made), lambda n: {side: made[n.start : n.stop]})
    known = None if conditions is None else EvaluationConditions(conditions)
    gauge = Gauge(extractor, {side: reference}, silent=True)
    distance, *_ = merge_seeds([gauge.rows(source, conditions=known)])
    identity = Identity(
        "torchmetrics",
        quantisation="uint8-round",
        n=len(real),
        rows=None if conditions is None else evaluation_rule(len(conditions)),
        reference=reference.hash,
        protocol=PROTOCOL,
    )
    pairs = [
        ("PSNR", psnr(*frames), identity, HIGH),
        ("SSIM", ssim(*frames), identity, HIGH),
    ]
    if pairs[0][1] == inf:
        log.warning("no PSNR: it is infinite, because some images come back exactly")
        del pairs[0]
    if perceptual is not None and perceptual.identity != "none":
        value = _mean_distance(perceptual, *frames, device)
        own = replace(identity, maker=perceptual.identity)
        pairs.append(("perceptual", value, own, LOW))
    rows = [replace(distance, metric=f"r{distance.metric}")]
    for metric, value, own, better in pairs:
        row = replace(
            distance,
            metric=metric,
            value=finite(value, f"{metric} of {len(real)} reconstructions at {where}"),
            values=(value,),
            identity=own,
            better=better,
            floor=None,
            n_reference=len(real),
            route="pairs",
        )
        rows.append(row)
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
