"""Quality of a method at every resolution, and the two rows that give the scale.

A method's images are measured twice: its own level at a resolution ("native"), and its finest image
pooled to it ("pooled"). References are the training images pooled by the same operator. Conditions
(class, caption) are those of the test images in the order of `evaluation_rows`, which goes round
where more images are asked for. Uncertainty is that of independent sampling seeds: a value is their
mean, and stands beside each of them and their deviation.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from benchmarks.kept import Kept
from hierdiff.codec import Codec
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows, evaluation_rule
from hierdiff.files import Damaged, read_json, write_json
from hierdiff.images import to_float, to_uint8
from hierdiff.methods import Method, Stage
from hierdiff.metrics.attributes import ATTRIBUTES, AttributeMeter, hindrance
from hierdiff.metrics.classifier import classifier_of
from hierdiff.metrics.extra import psnr, ssim
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.fidelity import PROTOCOL, FidelityMeter, finite
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
    start: int = 0,
) -> Iterator[Images]:
    """Images number `start` to n - 1 in batches, uint8 on the CPU; image i has a seed of its own,
    whatever the batch."""
    if n < 1 or batch < 1:
        raise ValueError(f"{n} samples in batches of {batch}: take at least 1 of both")
    for first in range(start, n, batch):
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
    cond = data.batch(evaluation_rows(len(data), rows)).cond
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


def real_images(data: ImageData, n: int) -> UInt8[Tensor, "n c h w"]:
    """The held-out images under whose conditions images number 0 to n - 1 are made; no more than
    there are, so that none comes twice."""
    rows = evaluation_rows(len(data), range(min(n, len(data))))
    return torch.from_numpy(data.images[rows.numpy()])


class Meter:
    """All metrics of one stream of images, of which it has seen `count`.

    conditions: the data under whose `evaluation_rows` the images were made, from number 0 on:
    captions and wanted parts are theirs. ValueError where a metric needs what it lacks.
    """

    def __init__(
        self,
        extractor: Extractor,
        references: Mapping[int, Reference],
        metrics: Sequence[str] = ("fd",),
        conditions: ImageData | None = None,
    ):
        others = [name for name in metrics if name != ATTRIBUTES]
        rule = "" if conditions is None else evaluation_rule(len(conditions))
        self.conditions, self.count = conditions, 0
        self.fidelity = FidelityMeter(extractor, references, others, rule)
        self.parts: AttributeMeter | None = None
        if ATTRIBUTES in metrics:
            self.parts = _part_meter(conditions, extractor, references)

    def add(self, levels: Mapping[int, UInt8[Tensor, "_b c _h _w"]]) -> None:
        """The next images of the stream."""
        places = range(self.count, self.count + len(next(iter(levels.values()))))
        data = self.conditions
        self.fidelity.add(levels, None if data is None else captions_of(data, places))
        if self.parts is not None and data is not None:
            self.parts.add(levels, wanted_of(data, places))
        self.count = places.stop

    def rows(self) -> Rows:
        """One row for each resolution, view and metric."""
        parts = [] if self.parts is None else self.parts.qualities()
        found = [*self.fidelity.qualities(), *parts]
        found.sort(key=lambda row: (-row.resolution, row.view))
        return [asdict(row) for row in found]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that the images so far have given, to go on from by `restore`."""
        arrays = {f"fidelity/{k}": array for k, array in self.fidelity.to_arrays().items()}
        if self.parts is not None:
            arrays |= {f"parts/{k}": array for k, array in self.parts.to_arrays().items()}
        return {"count": np.asarray(self.count), **arrays}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        def below(name: str) -> dict[str, np.ndarray]:
            front = f"{name}/"
            return {k.removeprefix(front): v for k, v in arrays.items() if k.startswith(front)}

        self.fidelity.restore(below("fidelity"))
        if self.parts is not None:
            self.parts.restore(below("parts"))
        self.count = int(arrays["count"])


def quality(
    streams: Iterable[Iterable[Mapping[int, UInt8[Tensor, "_b c _h _w"]]]],
    extractor: Extractor,
    references: Mapping[int, Reference],
    metrics: Sequence[str] = ("fd",),
    *,
    conditions: ImageData | None = None,
) -> Rows:
    """One row for each resolution, view and metric, from one stream for each sampling seed.

    Streams are measured one after another; conditions: as in `Meter`.
    """
    found = []
    for stream in streams:
        meter = Meter(extractor, references, metrics, conditions)
        for levels in stream:
            meter.add(levels)
        found.append(meter.rows())
    return merged(found)


def quality_of_seeds(
    draw: Callable[[int, int], Iterable[Images]],
    seeds: Sequence[int],
    meter: Callable[[], Meter],
    kept: Kept,
) -> Rows:
    """As `quality`, of images that are drawn for it, going on from what was kept.

    draw: batches of images of a seed from a number on, which is 0 or the end of a batch.
    """

    def measured(seed: int) -> Rows:
        one = meter()
        if kept.state:
            try:
                one.restore(kept.state)
                log.info("seed %d goes on after %d images", seed, one.count)
            except (KeyError, ValueError, TypeError) as error:
                log.warning("seed %d is measured from the start: %s", seed, error)
                one = meter()
        for levels in draw(seed, one.count):
            one.add(levels)
            kept.keep(one.to_arrays)
        return one.rows()

    return merged([kept.once(f"seed {seed}", lambda s=seed: measured(s)) for seed in seeds])  # type: ignore[misc]


def merged(seeds: Sequence[Rows]) -> Rows:
    """The rows of several sampling seeds as one."""
    return [over_seeds(same) for same in zip(*seeds, strict=True)]


def _part_meter(
    data: ImageData | None, extractor: Extractor, references: Mapping[int, Reference]
) -> AttributeMeter:
    """On the extractor's device. ValueError where the data is not given, or has no law."""
    if data is None or data.law is None:
        raise ValueError(f"metric {ATTRIBUTES!r} needs data with a law: leave the metric out")
    device = next(extractor.parameters()).device
    rule = evaluation_rule(len(data))
    return AttributeMeter(data.law, list(references), classifier_of(data.law).to(device), rule)


def wanted_of(data: ImageData, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
    """What the conditions of images number `places` say of their parts, as `sampled` gives them."""
    at = evaluation_rows(len(data), places).numpy()
    return {name: torch.from_numpy(codes[at]) for name, codes in data.told.items()}


def captions_of(data: ImageData, places: Sequence[int]) -> list[str] | None:
    """The captions under which images number `places` are made; None where the data has none."""
    captions = data.captions
    if captions is None:
        return None
    return [captions[row] for row in evaluation_rows(len(data), places).tolist()]


def caption_of(data: ImageData) -> str:
    """That of image number 0, for a cost that includes encoding it; "" where the data has none."""
    first = captions_of(data, range(1))
    return "" if first is None else first[0]


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
    real: UInt8[Tensor, "n c h w"],
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
    side = reference.resolution
    device = next(extractor.parameters()).device

    def again(chunk: Tensor) -> Tensor:
        with autocast(device, precision):
            return to_uint8(codec.decode(codec.encode(to_float(chunk.to(device))))[side]).cpu()

    made = torch.cat([again(chunk) for chunk in real.split(BATCH)])
    distance, *_ = quality([[{side: made}]], extractor, {side: reference}, conditions=conditions)
    rule = "" if conditions is None else f" : {evaluation_rule(len(conditions))}"
    n = f"uint8-round : N={len(real)}{rule} : ref={reference.hash}"
    pairs = [
        ("PSNR", psnr(made, real), f"torchmetrics : {n}", "high"),
        ("SSIM", ssim(made, real), f"torchmetrics : {n}", "high"),
    ]
    if pairs[0][1] == inf:
        log.warning("no PSNR: it is infinite, because some images come back exactly")
        del pairs[0]
    if perceptual is not None and perceptual.identity != "none":
        value = _mean_distance(perceptual, made, real, device)
        pairs.append(("perceptual", value, f"{perceptual.identity} : {n}", "low"))
    same = {**distance, "floor": None, "n_reference": len(real), "route": "pairs"}
    rows = [{**distance, "metric": f"r{distance['metric']}"}]
    rows += [
        {
            **same,
            "metric": metric,
            "value": finite(value, f"{metric} of {len(real)} reconstructions at {side} px"),
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
    levels of one method there is none. Of real images there are no more than the test part has: a
    row says its own number.
    """
    sides, metrics, test = list(references), list(metrics), data.part("test")
    asked = [extractor.key, [references[side].hash for side in sides], metrics, PROTOCOL]
    if ATTRIBUTES in metrics:
        asked += [_part_meter(test, extractor, references).identity, sorted(test.told)]
    parts = [*asked, n, seed, data.sha256]
    kept = folder / f"scale-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"
    try:
        return read_json(kept)
    except FileNotFoundError:
        pass
    except Damaged as error:
        log.warning("real images and the Gaussian are measured again: %s", error)
    real = [levels_of(images, sides) for images in real_images(test, n).split(BATCH)]
    gaussian = PixelGaussian.fit(torch.from_numpy(data.part("train").images[:].copy()))
    drawn = to_uint8(gaussian.sample(n, from_generator(generator_of(seed, "gaussian"))))
    fake = [levels_of(chunk, sides) for chunk in drawn.split(BATCH)]

    def measured(levels: list[Any], what: str) -> Rows:
        stream = track(levels, what, len(levels))
        return quality([stream], extractor, references, metrics, conditions=test)

    rows = {"real": measured(real, "real images"), "gaussian": measured(fake, "Gaussian")}
    rows = {kind: [row for row in found if row["view"] == "pooled"] for kind, found in rows.items()}
    write_json(kept, rows)
    return rows
