"""What configs may compute from other options: `${half:${data.resolution}}`. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from omegaconf import OmegaConf

from hierdiff.files.weights import weights_of
from hierdiff.options import Count, Length, check, literal

Plane = Annotated[Sequence[Count], Length(2, more=True)]  # sides, height and width the last of them


def half(resolution: Any) -> int | list[int]:
    """Half the height and width; frames stay."""
    check(resolution, Count | Plane, "data.resolution", 32)
    if isinstance(resolution, Sequence):
        return [*resolution[:-2], *(side // 2 for side in resolution[-2:])]
    return int(resolution) // 2


def coarser(resolution: Any) -> int | list[int]:
    """Half of every side: of frames too, where there are two or more."""
    check(resolution, Count | Plane, "data.resolution", 32)
    if isinstance(resolution, Sequence):
        return [max(1, side // 2) for side in resolution]
    return int(resolution) // 2


CHEN_SCALES = {32: 1.0, 64: 1.0}  # b of the released configs of Chen, arXiv 2301.10972, by side


def chen_scale(resolution: Any) -> float:
    """Chen's b at a resolution.

    Raises:
        ValueError: where no released config has one.
    """
    scale = CHEN_SCALES.get(resolution) if isinstance(resolution, int) else None
    if scale is None:
        raise ValueError(
            f"data.resolution={literal(resolution)}: the released configs of Chen have an input "
            f"scale b for {', '.join(map(str, CHEN_SCALES))} px alone: set method.schedule.scale, "
            f"the smaller the larger the images (1 for none)"
        )
    return scale


def clipping(codec: str | None) -> str:
    """The threshold of a state: images (no codec, or the identity) are clipped, latents are not."""
    return "static" if codec in (None, "identity") else "none"


OmegaConf.register_new_resolver("half", half, replace=True)
OmegaConf.register_new_resolver("coarser", coarser, replace=True)
OmegaConf.register_new_resolver("chen_scale", chen_scale, replace=True)
OmegaConf.register_new_resolver("clipping", clipping, replace=True)
OmegaConf.register_new_resolver("weights_of", weights_of, replace=True)
