"""A U-Net of clips: the U-Net of images on every frame, and what mixes the frames of a clip.

Space and time are apart, as in Imagen Video (arXiv 2210.02303) and Make-A-Video (arXiv 2209.14792):
after the convolutions of each block comes one over three frames, pixel by pixel, and after its
spatial attention one over all frames. Both end in a layer of zeros, so that a new network draws
each frame as the network of images with its weights does, and may start from these (`weights`). One
frame has nothing to be mixed with: it is drawn by the network of images at all times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.denoisers.attention import attended
from hierdiff.denoisers.layers import heads_of, sinusoid, zeroed
from hierdiff.denoisers.norms import GroupNorm, GroupNormSiLU
from hierdiff.denoisers.protocol import denoisers
from hierdiff.denoisers.unet import UNet


class FrameConvolution(nn.Module):
    """Norm, SiLU, a convolution over three neighbouring frames that starts at zero; plus x."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = GroupNormSiLU(groups, width)
        self.conv = zeroed(nn.Conv2d(width, width, (3, 1), padding=(1, 0)))

    @override
    def forward(self, x: Float[Tensor, "b c f n"]) -> Float[Tensor, "b c f n"]:
        return x + self.conv(self.norm(x))


class FrameAttention(nn.Module):
    """Attention of each pixel to itself in all frames, whose place is added as sines; plus x."""

    def __init__(self, width: int, heads: int, groups: int):
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(groups, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))

    @override
    def forward(self, x: Float[Tensor, "b c f n"]) -> Float[Tensor, "b c f n"]:
        frames, pixels = x.shape[-2:]
        tokens = rearrange(self.norm(x), "b c f n -> (b n) f c")
        place = sinusoid(torch.arange(frames, device=x.device).float(), tokens.shape[-1])
        q, k, v = heads_of(self.qkv(tokens + place.to(tokens.dtype)), 3, self.heads)
        h = self.out(rearrange(attended(q, k, v), "b m f d -> b f (m d)"))
        return x + rearrange(h, "(b n) f c -> b c f n", n=pixels)


class Mixing(nn.Sequential):
    """Layers over the frames of clips, of b c f n, whose frames come one after another."""

    @override
    def forward(self, x: Float[Tensor, "n c h w"], frames: int) -> Tensor:  # type: ignore[override]
        clips = super().forward(rearrange(x, "(b f) c h w -> b c f (h w)", f=frames))
        return rearrange(clips, "b c f (h w) -> (b f) c h w", w=x.shape[-1])


@denoisers.register("space_time_unet")
class SpaceTimeUNet(UNet):
    """`UNet` over frames, whose options it takes, with layers that mix them; images are one frame.

    An `inner` network is one of clips as well; where it has fewer frames it is given means over
    neighbouring ones, and what it gives is repeated. Its state is that of `UNet` and more, so
    `weights` may be those of a network of images, which was told no `scalars` either.
    """

    rank = (2, 3)
    fresh = (".mixing.", "scalars.")  # which change nothing at first

    @override
    def mixing(self, width: int, heads: int, groups: int) -> nn.Module:
        attention = [FrameAttention(width, heads, groups)] if heads else []
        return Mixing(FrameConvolution(width, groups), *attention)

    @override
    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """As in `UNet`, of images as well; the frames of a level are a multiple of the next one's.

        Raises:
            ValueError: as there, and for other frames.
        """
        super().check(shapes)
        for (_, *fine), (_, *coarse) in zip(shapes, shapes[1:], strict=False):
            if len(fine) == len(coarse) == 3 and fine[0] % coarse[0]:
                raise ValueError(
                    f"{fine[0]} frames around {coarse[0]}: features of a level are means over its "
                    f"neighbouring frames, choose numbers of frames of which one divides the other"
                )
