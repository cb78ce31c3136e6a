"""Exposure bias of a cascade: the loss of an upsampler whose input is generated.

Each upsampler makes its images twice, from real low-resolution images and from those that the
stages before it generate, over a range of augmentation levels. CDM (arXiv 2106.15282) reports the
signature: on generated input the distance is U-shaped in the augmentation, on real input it only
grows with the noise; the gap between the curves is the bias.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.device import autocast
from benchmarks.measure.samples import BATCH, request_of
from benchmarks.progress import Track
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows, evaluation_rule
from hierdiff.files.atomic import write
from hierdiff.images import to_uint8
from hierdiff.levels import Levels, Resolution, resolution_of, text_of
from hierdiff.methods import Bridge, Generator, Method, Request
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.reference import Reference
from hierdiff.noise import per_example, seed_of

SOURCES = ("real", "generated")


class UpsamplingStage(NamedTuple):
    """A stage, the one before it, and the bridge between them."""

    stage: Generator
    previous: Generator
    bridge: Bridge


def upsamplers(method: Method) -> list[UpsamplingStage]:
    """The stages of a method behind a bridge.

    Raises:
        ValueError: where there is none.
    """
    stages = [
        UpsamplingStage(stage, stage.previous, stage.bridge)
        for stage in method.stages
        if isinstance(stage, Generator) and stage.previous is not None and stage.bridge is not None
    ]
    if not stages:
        raise ValueError(
            f"exposure bias is that of a stage behind a bridge, and none of the stages "
            f"{', '.join(stage.name for stage in method.stages)} is one: take a cascade"
        )
    return stages


def check_exposure(method: Method, log_snrs: Sequence[float]) -> None:
    """Refuses a method without upsamplers, or log-SNRs outside of their training; ValueError is
    raised for it."""
    for _, previous, bridge in upsamplers(method):
        shapes = [(1, *shape) for shape in previous.shapes()]
        for log_snr in log_snrs:
            bridge.draw_at(shapes, lambda shape: torch.zeros(tuple(shape)), log_snr)


def exposure_bias(
    method: Method,
    data: ImageData,
    extractor: Extractor,
    references: Mapping[Resolution, Reference],
    *,
    n: int,
    log_snrs: Sequence[float],
    seed: int,
    precision: str,
    track: Track,
) -> list[dict[str, Any]]:
    """A row with a distance for each stage, source and log_snr, the bridge's own among them.

    data: the test images, whose conditions and low-resolution versions are used. Both sources and
    all log-SNRs share the noise of each image, and the generated input is made once.
    """
    rows = []
    for stage, previous, bridge in upsamplers(method):
        side = resolution_of(stage.resolutions[0])
        generated = generated_inputs(previous, data, n, seed, precision)
        inputs = {
            "real": list(real_inputs(previous, data, n)),
            "generated": list(track(generated, "input", -(-n // BATCH))),
        }
        for log_snr in sorted({*log_snrs, bridge.output_log_snr}, reverse=True):
            for source in SOURCES:
                meter = FidelityMeter(
                    extractor, {side: references[side]}, rows=evaluation_rule(len(data))
                )
                images = outputs(stage, data, inputs[source], log_snr, seed, precision)
                what = f"{stage.name} {source} {log_snr:g}"
                for batch in track(images, what, len(inputs[source])):
                    meter.add({side: batch})
                (quality,) = (row for row in meter.qualities() if row.view == "native")
                rows.append(
                    {"stage": stage.name, "source": source, "level": log_snr, **quality.plain()}
                )
    return rows


def rows_of(n: int) -> Iterator[range]:
    """The numbers 0 to n - 1 in batches."""
    for first in range(0, n, BATCH):
        yield range(first, min(first + BATCH, n))


def real_inputs(previous: Generator, data: ImageData, n: int) -> Iterator[Levels]:
    """Batches of n real images as states of the stage before."""
    for rows in rows_of(n):
        images = data.batch(evaluation_rows(len(data), rows)).images
        yield previous.encode(images.to(previous.device))


def generated_inputs(
    previous: Generator, data: ImageData, n: int, seed: int, precision: str
) -> Iterator[Levels]:
    """Batches of n generated states of the stage before."""
    for rows in rows_of(n):
        with autocast(previous.device, precision):
            yield previous.run(request_of(previous, data, rows, seed=seed))


def outputs(
    stage: Generator,
    data: ImageData,
    inputs: Sequence[Levels],
    log_snr: float,
    seed: int,
    precision: str,
) -> Iterator[Tensor]:
    """Images of the stage at its own resolution, uint8 on the CPU."""
    first = 0
    for x in inputs:
        rows = range(first, first + len(x[-1]))
        first = rows.stop
        noise = per_example([seed_of(seed, stage.name, row) for row in rows], stage.device)
        cond = data.batch(evaluation_rows(len(data), rows)).cond
        with autocast(stage.device, precision):
            images = stage.follow(Request(len(rows), cond, noise=noise), x, log_snr)
        yield to_uint8(images[stage.resolutions[0]]).cpu()


def gaps(rows: Sequence[Mapping[str, Any]], method: Method) -> dict[str, float]:
    """By stage, the distance on generated input minus that on real input, at the log-SNR of the
    bridge."""
    own = {one.stage.name: one.bridge.output_log_snr for one in upsamplers(method)}
    values = {
        (row["stage"], row["source"]): row["value"]
        for row in rows
        if row["level"] == own[row["stage"]]
    }
    return {name: values[name, "generated"] - values[name, "real"] for name in own}


def write_picture(path: Path, rows: Sequence[Mapping[str, Any]], own: Mapping[str, float]) -> None:
    """Draws both curves of each stage over the log-SNR of the augmentation, noisier to the right.

    own: the log-SNR at which each stage samples.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["stage"] for row in rows))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for source in SOURCES:
            curve = [row for row in rows if (row["stage"], row["source"]) == (name, source)]
            axes.plot(
                [row["level"] for row in curve],
                [row["value"] for row in curve],
                marker="o",
                label=f"{source} input",
            )
        axes.axhline(curve[0]["floor"], color="grey", linestyle=":", label="noise floor")
        axes.axvline(own[name], color="grey", linewidth=0.8, label="level in sampling")
        axes.invert_xaxis()
        axes.set(
            title=name,
            xlabel="log-SNR of the augmentation (noisier to the right)",
            ylabel=f"{curve[0]['metric']} at {text_of(curve[0]['resolution'])} px",
        )
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write(path, buffer.getvalue())
