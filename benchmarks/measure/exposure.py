"""Exposure bias of a cascade: what an upsampler loses because it is given generated images.

Each upsampler makes its images twice, from real low-resolution images and from those that the
stages before it generate, over a range of augmentation levels. CDM (arXiv 2106.15282) reports the
signature: on generated input the distance is U-shaped in the level, on real input it only grows
with the noise; the gap between the curves is the bias.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.samples import BATCH, autocast, sampled
from benchmarks.progress import Track
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows, evaluation_rule
from hierdiff.files import write
from hierdiff.images import to_uint8
from hierdiff.levels import Resolution, down, resolution_of, text_of
from hierdiff.methods import Images, Method
from hierdiff.methods.bridge import Bridged
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.fidelity import FidelityMeter, Reference
from hierdiff.noise import per_example, seed_of

SOURCES = ("real", "generated")


def upsamplers(method: Method) -> list[Bridged]:
    """The stages to look at; ValueError where there is none."""
    found = [stage for stage in method.stages if isinstance(stage, Bridged)]
    if not found:
        raise ValueError(
            f"exposure bias is that of a stage behind a bridge, and none of the stages "
            f"{', '.join(stage.name for stage in method.stages)} is one: take a cascade"
        )
    return found


def check(method: Method, options: Mapping[str, Any]) -> None:
    """Refuses a method without upsamplers, and levels that they were not trained on."""
    for stage in upsamplers(method):
        for level in options["levels"]:
            stage.bridge.fixed((1, 1, 1, 1), lambda shape: torch.zeros(tuple(shape)), level)


def exposure_bias(
    method: Method,
    data: ImageData,
    extractor: Extractor,
    references: Mapping[Resolution, Reference],
    *,
    n: int,
    levels: Sequence[float],
    seed: int,
    precision: str,
    track: Track,
) -> list[dict[str, Any]]:
    """One row for each stage, source and level (log_snr, also the bridge's own): its distance.

    data: the test images, whose conditions and low-resolution versions are used. Both sources and
    all levels share the noise of each image, and the generated input is made once.
    """
    rows = []
    for stage in upsamplers(method):
        side = resolution_of(stage.resolutions[0])
        chosen = sorted({*levels, stage.bridge.level}, reverse=True)
        inputs = {
            "real": list(real_inputs(stage, data, n)),
            "generated": list(
                track(generated_inputs(stage, data, n, seed, precision), "input", -(-n // BATCH))
            ),
        }
        for level in chosen:
            for source in SOURCES:
                meter = FidelityMeter(
                    extractor, {side: references[side]}, rows=evaluation_rule(len(data))
                )
                made = outputs(stage, data, inputs[source], level, seed, precision)
                what = f"{stage.name} {source} {level:g}"
                for images in track(made, what, len(inputs[source])):
                    meter.add({side: images})
                (quality,) = (row for row in meter.qualities() if row.view == "native")
                rows.append(
                    {"stage": stage.name, "source": source, "level": level, **quality.plain()}
                )
    return rows


def rows_of(n: int) -> Iterator[range]:
    for first in range(0, n, BATCH):
        yield range(first, min(first + BATCH, n))


def real_inputs(stage: Bridged, data: ImageData, n: int) -> Iterator[Images]:
    low = stage.bridge.low
    for rows in rows_of(n):
        images = data.batch(evaluation_rows(len(data), rows)).images
        yield {low: down(images, low)}


def generated_inputs(
    stage: Bridged, data: ImageData, n: int, seed: int, precision: str
) -> Iterator[Images]:
    for rows in rows_of(n):
        yield sampled(stage.previous, data, rows, seed=seed, precision=precision)


def outputs(
    stage: Bridged,
    data: ImageData,
    inputs: Sequence[Images],
    level: float,
    seed: int,
    precision: str,
) -> Iterator[Tensor]:
    """Images of the stage at its own resolution, uint8 on the CPU."""
    first = 0
    for low in inputs:
        rows = range(first, first + len(low[stage.bridge.low]))
        first = rows.stop
        noise = per_example([seed_of(seed, stage.name, row) for row in rows], stage.device)
        cond = data.batch(evaluation_rows(len(data), rows)).cond
        with autocast(stage.device, precision):
            images = stage.sample(len(rows), cond, noise=noise, low=low, level=level)
        yield to_uint8(images[stage.resolutions[0]]).cpu()


def gaps(rows: Sequence[Mapping[str, Any]], method: Method) -> dict[str, float]:
    """By stage: distance on generated input minus that on real input, at the bridge's own level."""
    own = {stage.name: stage.bridge.level for stage in upsamplers(method)}
    values = {
        (row["stage"], row["source"]): row["value"]
        for row in rows
        if row["level"] == own[row["stage"]]
    }
    return {name: values[name, "generated"] - values[name, "real"] for name in own}


def write_picture(path: Path, rows: Sequence[Mapping[str, Any]], own: Mapping[str, float]) -> None:
    """Both curves of each stage over the noise standard deviation's log_snr, noisier to the right;
    own: the level that each stage samples at."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["stage"] for row in rows))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for source in SOURCES:
            found = [row for row in rows if (row["stage"], row["source"]) == (name, source)]
            axes.plot(
                [row["level"] for row in found],
                [row["value"] for row in found],
                marker="o",
                label=f"{source} input",
            )
        axes.axhline(found[0]["floor"], color="grey", linestyle=":", label="noise floor")
        axes.axvline(own[name], color="grey", linewidth=0.8, label="level in sampling")
        axes.invert_xaxis()
        axes.set(
            title=name,
            xlabel="log-SNR of the augmentation (noisier to the right)",
            ylabel=f"{found[0]['metric']} at {text_of(found[0]['resolution'])} px",
        )
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write(path, buffer.getvalue())
