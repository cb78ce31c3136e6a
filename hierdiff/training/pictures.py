"""Pictures of a run: the sheet of samples with the levels side by side, and the loss curves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hierdiff.batch import Cond
from hierdiff.files import write
from hierdiff.images import sheet, to_uint8
from hierdiff.method import Stage
from hierdiff.noise import per_example, seed_of
from hierdiff.training.log import read


def sheet_cond(data: Any, real: Cond) -> Cond:
    """Conditions of a sheet: real captions where there are any, else the classes in turn."""
    if real.tokens is not None or real.labels is None:
        return real
    classes = max(1, int(data.facts.get("classes", 1)))
    return Cond(labels=torch.arange(len(real.labels)) % classes, scalars=real.scalars)


def sample_sheet(
    stage: Stage, data: Any, n: int, seed: int, device: torch.device, dtype: torch.dtype
) -> Image.Image:
    """n samples from the same noise at every call."""

    def placed(part: torch.Tensor) -> torch.Tensor:
        return part.to(device, dtype if part.is_floating_point() else part.dtype)

    noise = per_example([seed_of(seed, "sheet", i) for i in range(n)], device, dtype)
    real = data.batch(torch.arange(n) % len(data))
    cond = sheet_cond(data, real.cond).map(placed)
    images = stage.preview(cond, real.map(placed), noise)
    return sheet([to_uint8(images[side]).cpu() for side in sorted(images, reverse=True)])


def write_curves(path: Path, log: Path) -> None:
    """Loss of each level over images, raw and smoothed, on a log scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read(log)
    names = [name for name in dict.fromkeys(key for line in lines for key in line)]
    names = [name for name in names if name.startswith("loss")]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        points = [(line["images"], line[name]) for line in lines if name in line]
        images, values = np.array(points, dtype=float).T
        (raw,) = axes.plot(images, values, linewidth=0.8, alpha=0.3)
        label = "all levels" if name == "loss" else name.removeprefix("loss/")
        axes.plot(images, smoothed(values), color=raw.get_color(), label=label)
    axes.set(xlabel="images", ylabel="loss", yscale="log")
    if names:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write(path, buffer.getvalue())


def smoothed(values: np.ndarray, half: int = 4) -> np.ndarray:
    """Geometric mean over up to `half` points on either side, so that it does not lag."""
    logs = np.log(np.maximum(values, 1e-12))
    widths = [min(half, i, len(logs) - 1 - i) for i in range(len(logs))]
    return np.exp([logs[i - w : i + w + 1].mean() for i, w in enumerate(widths)])
