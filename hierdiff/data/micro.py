"""Micro-conditions: how large an image was, and where its square was cut out of it, as scalars.

In pixels: `original_height` and `original_width` before any change, `scale` the smaller of the two;
`crop_top` and `crop_left` of the square in the image whose shorter side was brought to the square's
(or to what a random crop draws); `target_height` and `target_width` of the square, or of the bucket
of its aspect (`hierdiff.data.buckets`). A network that
is told them need not show small and cut images as such (SDXL, arXiv 2307.01952, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SCALARS = (
    *("scale", "original_height", "original_width", "crop_top", "crop_left"),
    *("target_height", "target_width"),
)


def check_names(name: str, wanted: Sequence[str]) -> None:
    """Checks that scalars of the data `name` are known.

    Raises:
        ValueError: for one that is not.
    """
    if unknown := sorted(set(wanted) - set(SCALARS)):
        raise ValueError(f"{name} has no scalar {unknown}: it knows {list(SCALARS)}")


def scalars_of(
    wanted: Sequence[str],
    sizes: Int[np.ndarray, "n two"],
    side: int | tuple[int, int],
    corners: Int[np.ndarray, "n two"] | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """The wanted scalars of each image by name.

    sizes: height and width of the originals. side: of the squares, or height and width of what is
    shown. corners: top and left of the crops, None for the middle.
    """
    target = np.array((side, side) if isinstance(side, int) else side)
    if corners is None:
        scale = (target / sizes).max(1, keepdims=True)  # brings one side to the target's
        corners = (np.round(sizes * scale).astype(np.int64) - target) // 2
    columns = (sizes.min(1), *sizes.T, *corners.T, *np.broadcast_to(target, sizes.shape).T)
    known = dict(zip(SCALARS, columns, strict=True))
    return {scalar: known[scalar].astype(np.float32) for scalar in wanted}
