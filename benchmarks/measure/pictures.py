"""Pictures of a run that are more than a sheet: trajectories, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from benchmarks.device import autocast
from benchmarks.measure.samples import Draw
from hierdiff.data import ImageData
from hierdiff.images import sheet, strip, to_uint8
from hierdiff.levels import Levels
from hierdiff.methods import Generator
from hierdiff.metrics.reference import pooled
from hierdiff.resolution import Name

T = TypeVar("T")
FRAMES = 10  # of a film strip
SHOWN = 3  # trajectories of a film strip


def film(stage: Generator, draw: Draw) -> Image.Image | None:
    """Decoded states of the first samples, from noise (left) to image (right).

    A row for each level of each stage that a sample passes, finest first, then the same for the
    next sample; the noise is that of the samples. None where there is no trajectory.
    """
    rows = range(SHOWN)
    states_by_shapes: dict[tuple[tuple[int, ...], ...], list[Levels]] = {}

    def watch(step: int, time: float, x: Levels) -> None:
        states_by_shapes.setdefault(tuple(tuple(level.shape[1:]) for level in x), []).append(x)

    replace(draw, method=stage).floats(rows, watch)
    strips_by_level: dict[Name, list[Tensor]] = {}
    for shapes, states in states_by_shapes.items():
        maker = maker_of(stage, shapes)
        with torch.no_grad(), autocast(stage.device, draw.precision):
            decoded = [maker.decode(x) for x in evenly_spaced(states)]
        for images in decoded:
            for name, level in images.items():
                strips_by_level.setdefault(name, []).append(strip(to_uint8(level).cpu()))
    if not strips_by_level:
        return None
    strips = sorted(
        (torch.stack(level, 1) for level in strips_by_level.values()), key=lambda x: -x[0].numel()
    )
    widest = strips[0].shape[-2:]
    frames = []
    for row in rows:
        for level in strips:
            enlarged = torch.nn.functional.interpolate(level[row].float(), size=widest)
            frames.append(enlarged.to(torch.uint8))
    return sheet([torch.cat(frames)], columns=len(frames[0]))


def maker_of(stage: Generator, shapes: Sequence[tuple[int, ...]]) -> Generator:
    """The stage in the chain whose states have these shapes, with or without levels beside them."""
    fitting = [part for part in stage.chain if tuple(part.shapes()) == shapes[: len(part.shapes())]]
    return max(fitting, key=lambda part: len(part.shapes()))


def evenly_spaced(states: Sequence[T], count: int = FRAMES) -> list[T]:
    """As many of the states at equal distances, with the last one."""
    last = len(states) - 1
    places = torch.linspace(0, last, count).round().long().tolist()
    return [states[place] for place in places]


def neighbour_sheet(
    samples: UInt8[Tensor, "n c h w"],
    nearest: Int[Tensor, "n k"],
    train: ImageData,
) -> Image.Image:
    """Each row: a sample, then the training images that are nearest to it in the features."""
    side = samples.shape[-1]
    images = torch.from_numpy(train.images[nearest.flatten().numpy()])
    images = pooled(images, side).unflatten(0, nearest.shape)
    rows = torch.cat([samples[:, None], images], 1)
    return sheet([rows.flatten(0, 1)], columns=rows.shape[1])
