"""How clips move, which distances between frames do not show."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor

from hierdiff.metrics.frechet import Statistics

LEAST = 3  # frames of a clip, for a second difference
BLOCK, REACH = 8, 3  # pixels of a block that moves as one, and how far it may


def clip_statistics(stream: Statistics, frames: int) -> Statistics:
    """Statistics of the clips all of whose frames are among the features that a stream keeps.

    Those of a clip are the mean over its frames, and the root mean square, over neighbouring
    frames, of the difference of each feature: twice the width. The second half is zero for a clip
    that stands still, and is another one where frames change places.
    """
    of_clip = stream.rows // frames
    whole = torch.bincount(of_clip)[of_clip] == frames
    clips = rearrange(stream.kept[whole], "(n f) d -> n f d", f=frames)
    steps = clips.diff(dim=1).square().mean(1).sqrt()
    return Statistics.of(torch.cat([clips.mean(1), steps], dim=1))


def flicker(clips: UInt8[Tensor, "b c f h w"]) -> Float[Tensor, " b"]:
    """RMS of the second difference over frames, in 0..255: 0 where brightness changes evenly."""
    return clips.float().diff(n=2, dim=2).square().flatten(1).mean(1).sqrt()


def warping_error(clips: UInt8[Tensor, "b c f h w"]) -> Float[Tensor, " b"]:
    """RMS, in 0..255, of what remains of each frame where every block of it is taken from the best
    place in the frame before, at most `REACH` pixels away along each side."""
    frames = rearrange(clips.float(), "b c f h w -> b f c h w")
    before, after = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    height, width = after.shape[-2:]
    padded = F.pad(before, (REACH,) * 4, mode="replicate")
    block = min(BLOCK, height, width)
    least: Tensor | None = None
    for top in range(2 * REACH + 1):
        for left in range(2 * REACH + 1):
            moved = padded[..., top : top + height, left : left + width]
            error = reduce((after - moved).square(), "n c h w -> n 1 h w", "mean")
            error = F.avg_pool2d(error, block, ceil_mode=True)
            least = error if least is None else torch.minimum(least, error)
    assert least is not None
    return least.flatten(1).mean(1).unflatten(0, (len(clips), -1)).mean(1).sqrt()
