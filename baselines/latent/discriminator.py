"""The adversary of an autoencoder: a discriminator of patches, its losses, and their weight.

Isola et al., arXiv 1611.07004 (PatchGAN); Esser et al., arXiv 2012.09841, equations 6 and 7, and
their code.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from typing_extensions import override

from hierdiff.options import Count
from hierdiff.registry import single

DELTA = 1e-4  # of the released code; 1e-6 in the paper
LARGEST = 1e4


@single("discriminator")
class PatchGAN(nn.Module):
    """Images to one logit a patch: high for real ones.

    `layers` convolutions that halve the side, then two that do not, all 4x4; widths double from
    `width` to at most 8 times that. With 3 layers a logit sees 70 x 70 pixels and 256 px give
    30 x 30 logits; with 2 it sees 34 x 34. Batch norm, as released, so examples are not independent
    while it trains. channels: of the images.
    """

    def __init__(self, *, width: Count = 64, layers: Count = 3, channels: Count = 3):
        super().__init__()
        self.smallest = 3 * 2**layers
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [_conv(channels, width, stride=2), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            parts.append(_conv(widths[i - 1], widths[i], stride=stride, bias=False))
            parts += [nn.BatchNorm2d(widths[i]), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*parts, _conv(widths[-1], 1, stride=1))
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def check(self, side: int) -> None:
        """Checks that images of this side leave a logit.

        Raises:
            ValueError: where none is left.
        """
        if side < self.smallest:
            raise ValueError(
                f"image side {side} is too small for this discriminator, which needs "
                f"{self.smallest}: give it fewer `layers`"
            )

    @override
    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 _h _w"]:
        self.check(min(images.shape[2:]))
        return self.main(images)


def _conv(inputs: int, outputs: int, *, stride: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=bias)


def hinge(real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Of the discriminator: half of relu(1 - real) + relu(1 + fake), means over all logits."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Of the autoencoder: minus the mean of the discriminator's logits for its images."""
    return -fake.mean()


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Without autocast, on devices that have it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def adaptive_weight(
    nll: Float[Tensor, ""],
    g_loss: Float[Tensor, ""],
    images: Float[Tensor, "b c h w"],
    last_input: Float[Tensor, "b k h w"],
    last_layer: nn.Conv2d,
) -> Float[Tensor, ""]:
    """|grad nll| / (|grad g_loss| + 1e-4), at most 1e4, without gradient.

    Gradients with respect to the weight of `last_layer`, which made `images` of `last_input`. They
    are had from the gradients at the images, and not from the parameter, so that it may be sharded:
    the gradient of a convolution's weight correlates its input with the gradient at its output.
    Both losses keep their graphs.
    """
    size = [last_layer.out_channels, last_input.shape[1], *last_layer.kernel_size]

    def length(loss: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(loss, images, retain_graph=True)
        dtype = torch.promote_types(grad.dtype, torch.float32)
        with full_precision(grad.device):
            read, grad = last_input.detach().to(dtype), grad.to(dtype)
            weight = conv2d_weight(read, size, grad, last_layer.stride, last_layer.padding)
        return weight.norm()

    return (length(nll) / (length(g_loss) + DELTA)).clamp(0, LARGEST).detach()
