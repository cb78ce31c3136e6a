"""Pictures of a run that are more than a sheet: trajectories, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from benchmarks.measure import autocast
from hierdiff.data import ImageData
from hierdiff.images import sheet, to_float, to_uint8
from hierdiff.levels import Levels, down
from hierdiff.method import Diffusion
from hierdiff.noise import per_example, seed_of

FRAMES = 10  # of a film strip
SHOWN = 3  # trajectories of a film strip


def film(stage: Diffusion, data: ImageData, *, seed: int, precision: str) -> Image.Image:
    """The states of the first samples from noise (left) to image (right), decoded.

    A row for each level of each stage that a sample goes through, finest first, and below it the
    same for the next sample; the noise is that of the samples.
    """
    rows = range(min(SHOWN, len(data)))
    seen: dict[int, list[Tensor]] = {}  # by side of a level in pixels

    def watch(step: int, time: float, x: Levels) -> None:
        shapes = tuple(tuple(level.shape[1:]) for level in x)
        part = next(part for part in stage.chain if part.codec.shapes() == shapes)
        for side, images in part.codec.decode(x).items():
            seen.setdefault(side, []).append(to_uint8(images).cpu())

    cond = data.batch(torch.tensor(list(rows))).cond
    noise = per_example([seed_of(seed, "sample", row) for row in rows], stage.device)
    with torch.no_grad(), autocast(stage.device, precision):
        stage.sample(len(rows), cond, noise=noise, watch=watch)
    strips = {side: torch.stack(chosen(states), 1) for side, states in seen.items()}
    widest = max(strips)
    frames = []
    for row in rows:
        for side in sorted(strips, reverse=True):
            enlarged = torch.nn.functional.interpolate(strips[side][row].float(), size=widest)
            frames.append(enlarged.to(torch.uint8))
    return sheet([torch.cat(frames)], columns=len(frames[0]))


def chosen(states: Sequence[Tensor]) -> list[Tensor]:
    """`FRAMES` of the states, evenly, the last one among them."""
    last = len(states) - 1
    places = torch.linspace(0, last, FRAMES).round().long().tolist()
    return [states[place] for place in places]


def neighbour_sheet(
    samples: UInt8[Tensor, "n c h w"],
    nearest: Int[Tensor, "n k"],
    train: ImageData,
) -> Image.Image:
    """Each row: a sample, then the training images that are nearest to it in the features."""
    side = samples.shape[-1]
    found = torch.from_numpy(train.images[nearest.flatten().numpy()].copy())
    found = to_uint8(down(to_float(found), side)) if found.shape[-1] != side else found
    found = found.unflatten(0, nearest.shape)
    rows = torch.cat([samples[:, None], found], 1)
    return sheet([rows.flatten(0, 1)], columns=rows.shape[1])
