"""Exposure bias of a cascade: the loss of an upsampler whose input is generated.

Each upsampler makes its images twice, from real low-resolution images and from those that the
stages before it generate, over a range of augmentation levels. CDM (arXiv 2106.15282) reports the
signature: on generated input the distance is U-shaped in the augmentation, on real input it only
grows with the noise; the gap between the curves is the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.device import autocast
from benchmarks.measure.samples import PACK, Draw, PixelImages
from benchmarks.measure.stream import Gauge, Source
from hierdiff.batch import Batch
from hierdiff.data.order import evaluation_rows
from hierdiff.files.atomic import write_figure
from hierdiff.images import to_uint8
from hierdiff.levels import Levels
from hierdiff.methods import Bridge, Generator, Method, Request
from hierdiff.methods.bridge import CLEAN
from hierdiff.metrics.quality import NATIVE
from hierdiff.noise import per_example, seed_of
from hierdiff.resolution import resolution_of, text_of

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
    """Refuses an analysis that cannot be made.

    Raises:
        ValueError: for a method without upsamplers, a bridge without noise, and log-SNRs outside of
            its training.
    """
    for stage, previous, bridge in upsamplers(method):
        if bridge.output_log_snr == CLEAN:
            raise ValueError(
                f"exposure bias is drawn over the noise of a bridge, and that of stage "
                f"{stage.name} adds none: leave the analysis out"
            )
        shapes = [(1, *shape) for shape in previous.handed_over()]
        for log_snr in log_snrs:
            bridge.draw_at(shapes, lambda shape: torch.zeros(tuple(shape)), log_snr)


def exposure_bias(
    method: Method, draw: Draw, gauge: Gauge, n: int, log_snrs: Sequence[float]
) -> list[dict[str, Any]]:
    """A row with a distance for each stage, source and log_snr, the bridge's own among them.

    draw: under whose conditions, of which the images give the real input. Both sources and all
    log-SNRs share the noise of each image, and the generated input is made once. A collective call
    of the processes; all of them get the rows.
    """
    rows = []
    for one in upsamplers(method):
        side = resolution_of(one.stage.resolutions[0])
        upsampling = Upsampling(one, draw)
        own = replace(gauge, references={side: gauge.references[side]})
        for log_snr in sorted({*log_snrs, one.bridge.output_log_snr}, reverse=True):
            for kind in SOURCES:
                make = partial(upsampling.images, kind, log_snr)
                source = Source(f"{one.stage.name} {kind} {log_snr:g}", n, make)
                found = own.rows(source, conditions=draw.conditions)
                about = {"stage": one.stage.name, "source": kind, "level": log_snr}
                rows += [{**about, **row.plain()} for row in found if row.view == NATIVE]
    return gauge.processes.agree(lambda: rows)


class Upsampling:
    """The images of an upsampler from either source; a process makes the input of its images once.

    draw: under whose conditions; real input goes by them as well.
    """

    def __init__(self, one: UpsamplingStage, draw: Draw):
        self.stage, self.previous, self.draw = one.stage, one.previous, draw
        self._inputs: dict[tuple[str, int], Levels] = {}

    def images(self, kind: str, log_snr: float, numbers: range) -> PixelImages:
        """Images with these numbers at the stage's own resolution, uint8 on the CPU."""
        packs = [
            self._pack(kind, log_snr, numbers[first : first + PACK])
            for first in range(0, len(numbers), PACK)
        ]
        return {resolution_of(self.stage.resolutions[0]): torch.cat(packs)}

    def _pack(self, kind: str, log_snr: float, numbers: range) -> Tensor:
        stage = self.stage
        if (kind, numbers.start) not in self._inputs:
            self._inputs[kind, numbers.start] = self._input(kind, numbers)
        seeds = [seed_of(self.draw.seed, stage.name, number) for number in numbers]
        cond = self.draw.conditions.cond(numbers)
        request = Request(len(numbers), cond, noise=per_example(seeds, stage.device))
        with autocast(stage.device, self.draw.precision):
            images = stage.follow(request, self._inputs[kind, numbers.start], log_snr)
        return to_uint8(images[stage.resolutions[0]]).cpu()

    def _input(self, kind: str, numbers: range) -> Levels:
        """The clean state of the stage before, of real or of generated images."""
        if kind == "real":
            data = self.draw.conditions.data
            images = data.batch(evaluation_rows(len(data), numbers)).images
            return self.previous.state(Batch(images.to(self.previous.device)))
        request = replace(self.draw, method=self.previous).request(numbers)
        with autocast(self.previous.device, self.draw.precision):
            return self.previous.hand_over(replace(request, resolutions=()))[0]


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


def write_exposure_picture(
    path: Path, rows: Sequence[Mapping[str, Any]], own: Mapping[str, float]
) -> None:
    """Draws both curves of each stage over the log-SNR of the augmentation, noisier to the right.

    own: the log-SNR at which each stage samples.
    """
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
                label=f"{source} coarse images",
            )
        axes.axhline(curve[0]["floor"], color="grey", linestyle=":", label="noise floor")
        axes.axvline(own[name], color="grey", linewidth=0.8, label="used in sampling")
        axes.invert_xaxis()
        axes.set(
            title=f"stage {name}",
            xlabel="log-SNR of the augmentation (noisier to the right)",
            ylabel=f"{curve[0]['metric']} at {text_of(curve[0]['resolution'])} px",
        )
        axes.legend(frameon=False)
    write_figure(path, figure)
