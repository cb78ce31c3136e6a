"""The power spectrum of samples beside that of real images.

Power is the mean squared coefficient of the orthonormal Fourier transform, over images, channels
and directions, at each whole number of cycles an image: 1 everywhere for white noise of unit
variance, and falling as a power of the frequency for photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.measure.samples import BATCH, Draw, blocks
from benchmarks.measure.stream import Gauge
from hierdiff.data.order import evaluation_rows
from hierdiff.files.atomic import write_figure
from hierdiff.images import to_float, to_uint8
from hierdiff.levels import down
from hierdiff.methods import Method
from hierdiff.resolution import place_of, px, resolution_of, sides_of, text_of

GENERATED, REAL = "generated", "real"


def check_spectrum(method: Method) -> None:
    """Refuses a method of anything but images.

    Raises:
        ValueError: for clips.
    """
    finest = method.resolutions[0]
    if len(sides_of(finest)) != 2:
        raise ValueError(
            f"analysis=spectrum at {text_of(finest)}: it is for images alone, leave it out"
        )


def radial_power(images: Float[Tensor, "n c h w"]) -> Float[Tensor, " k"]:
    """Power at 1, 2, ... cycles an image, up to half of the shorter side; in float64."""
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean((0, 1))
    rows, columns = (torch.fft.fftfreq(side, 1 / side, device=power.device) for side in power.shape)
    cycles = torch.hypot(rows[:, None], columns).round().long()
    bands = range(1, min(power.shape) // 2 + 1)
    return torch.stack([power[cycles == band].mean() for band in bands])


def spectra(draw: Draw, gauge: Gauge, n: int) -> list[dict[str, Any]]:
    """A row for each source and frequency, of n finest images, and of those whose conditions they
    have. A collective call of the processes; all of them get the rows."""
    data, finest = draw.conditions.data, draw.method.resolutions[0]

    def real(numbers: range) -> Tensor:
        images = data.batch(evaluation_rows(len(data), numbers)).images
        return to_uint8(down(images, resolution_of(finest)))

    sources: dict[str, Callable[[range], Tensor]] = {
        GENERATED: lambda numbers: draw(numbers)[finest],
        REAL: real,
    }
    rows = []
    for name, images_of in sources.items():
        todo = blocks(n, BATCH, draw.pack)
        made = gauge.processes.deal(todo, partial(_power, images_of))
        shown = gauge.track(made, f"spectrum of {name} images", len(todo))
        power = sum(len(numbers) / n * one for numbers, one in shown)
        about = {"source": name, "metric": "power", **place_of(finest), "n": n}
        values = power.tolist() if isinstance(power, Tensor) else ()
        rows += [{**about, "frequency": k, "value": value} for k, value in enumerate(values, 1)]
    return gauge.processes.agree(lambda: rows)


def _power(images_of: Callable[[range], Tensor], numbers: range) -> Tensor:
    return radial_power(to_float(images_of(numbers)))


def write_spectrum_picture(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the power over the frequency, a line for each source."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, look in ((GENERATED, "-"), (REAL, "k:")):
        curve = [row for row in rows if row["source"] == name]
        axes.plot(
            [row["frequency"] for row in curve],
            [row["value"] for row in curve],
            look,
            label=f"{name} images",
        )
    most = max(row["frequency"] for row in rows)
    marks = [2**i for i in range(most.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(marks, list(map(str, marks)))
    axes.set(xlabel="cycles per image", ylabel=f"power at {px(rows[0]['resolution'])}")
    axes.legend(frameon=False)
    write_figure(path, figure)
