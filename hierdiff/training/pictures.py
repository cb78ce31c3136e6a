"""Pictures of a run: the sheet of samples with the levels side by side, and the loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hierdiff.batch import Cond
from hierdiff.data.order import evaluation_rows
from hierdiff.files.atomic import write_figure
from hierdiff.files.log import loss_label, losses, read_log
from hierdiff.images import sheet, to_uint8
from hierdiff.methods import Stage
from hierdiff.noise import per_example, seed_of


def sheet_cond(data: Any, real: Cond) -> Cond:
    """Conditions of a sheet: real captions if there are any, else the classes in turn."""
    if real.tokens is not None or real.labels is None:
        return real
    classes = max(1, int(data.facts.get("classes", 1)))
    labels = torch.arange(len(real.labels)) % classes
    return Cond(labels=labels, vectors=real.vectors, scalars=real.scalars)


def sample_sheet(
    stage: Stage, data: Any, n: int, seed: int, device: torch.device, dtype: torch.dtype
) -> Image.Image | None:
    """A sheet of n samples, from the same noise at every call; None where the stage shows none."""

    def placed(part: torch.Tensor) -> torch.Tensor:
        return part.to(device, dtype if part.is_floating_point() else part.dtype)

    noise = per_example([seed_of(seed, "sheet", i) for i in range(n)], device, dtype)
    real = data.batch(evaluation_rows(len(data), range(n)))
    cond = sheet_cond(data, real.cond).map(placed)
    images = stage.preview(cond, real.map(placed), noise)
    if not images:
        return None
    return sheet([to_uint8(level).cpu() for level in images.values()])


def write_curves(path: Path, log: Path) -> None:
    """Draws the loss curves of the file `log` into the PNG file `path`."""
    write_figure(path, curves(read_log(log)))


def curves(lines: Sequence[Mapping[str, Any]]) -> Any:
    """A figure of the losses over images, raw (thin) and smoothed; a stage ends at a dotted line.

    Losses above zero share a panel with a log scale; each other one has a linear panel of its own.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    series = losses(lines)
    signed = [name for name, pieces in series.items() if min(p[:, 1].min() for p in pieces) <= 0]
    positive = [name for name in series if name not in signed]
    panels = [[name] for name in signed] + ([positive] if positive else [])
    figure = Figure(figsize=(7, 1.5 + 2.5 * len(panels)), layout="constrained")
    ends = [a["images"] for a, b in pairwise(lines) if a["stage"] != b["stage"]]
    for place, names in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, place)
        axes.set(xlabel="training images", ylabel="training loss, bold: smoothed")
        if names is positive:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0, 1.02 * lines[-1]["images"])
        for name in names:
            draw_curve(axes, name, series[name], log=names is positive)
        for end in ends:
            axes.axvline(end, color="0.5", linewidth=0.8, linestyle=":")
        axes.legend(frameon=False)
    return figure


def draw_curve(axes: Any, name: str, pieces: Sequence[np.ndarray], *, log: bool) -> None:
    """Draws the pieces of a loss, each (points, 2) of images and value, raw and smoothed.

    log: smooth the logarithm of the values.
    """
    label = loss_label(name)
    color = None
    for images, values in (piece.T for piece in pieces):
        (raw,) = axes.plot(images, values, color=color, linewidth=0.8, alpha=0.3)
        color = raw.get_color()
        smooth = np.exp(smoothed(np.log(values))) if log else smoothed(values)
        axes.plot(images, smooth, color=color, label=label)
        label = ""  # once in the legend


def smoothed(values: np.ndarray, half: int = 4) -> np.ndarray:
    """Mean over up to `half` points on either side, fewer near an end, so that it does not lag."""
    widths = [min(half, i, len(values) - 1 - i) for i in range(len(values))]
    return np.array([values[i - w : i + w + 1].mean() for i, w in enumerate(widths)])
