"""TAESD, the tiny autoencoder that decodes the latents of Stable Diffusion (madebyollin/taesd).

Residual blocks of three convolutions and ReLU, one width throughout, no norm and no attention. It
is distilled from a larger autoencoder, whose latents, multiplied by their scale, are its own:
statistics are none. It works in images of [0, 1]; here they are in [-1, 1] as everywhere.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from baselines.latent.autoencoder import Autoencoder, autoencoders
from baselines.latent.regularisers import Unregularised
from hierdiff.options import Count

LARGEST = 3.0  # of a latent, as the decoder sees it


def convolution(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    """Of 3 x 3, with zeros around the image."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Block(nn.Module):
    """conv, ReLU, conv, ReLU, conv; plus x; ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            convolution(width, width),
            nn.ReLU(),
            convolution(width, width),
            nn.ReLU(),
            convolution(width, width),
        )

    @override
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.relu(self.conv(x) + x)


@autoencoders.register("tiny")
class TinyAutoencoder(Autoencoder):
    """TAESD; the defaults are its size: 1,222,532 and 1,222,531 parameters.

    width: of all layers. blocks: at each side but the finest, which has one. halvings: of the side.
    latent_channels: of the state. channels: of the images.
    """

    def __init__(
        self,
        *,
        width: Count = 64,
        blocks: Count = 3,
        halvings: Count = 3,
        latent_channels: Count = 4,
        channels: Count = 3,
    ):
        super().__init__()
        self.factor, self.latent_channels = 2**halvings, latent_channels
        self.regulariser = Unregularised()
        down = (
            [convolution(width, width, stride=2, bias=False), *map(Block, [width] * blocks)]
            for _ in range(halvings)
        )
        up = (
            [
                *map(Block, [width] * blocks),
                nn.Upsample(scale_factor=2.0),
                convolution(width, width, bias=False),
            ]
            for _ in range(halvings)
        )
        self.encoder = nn.Sequential(
            convolution(channels, width),
            Block(width),
            *chain.from_iterable(down),
            convolution(width, latent_channels),
        )
        self.decoder = nn.Sequential(
            convolution(latent_channels, width),
            nn.ReLU(),
            *chain.from_iterable(up),
            Block(width),
        )
        self.last_layer = convolution(width, channels)
        self.layout = {
            "kind": "tiny",
            "channels": channels,
            "width": width,
            "blocks": blocks,
            "halvings": halvings,
            "latent channels": latent_channels,
        }

    @override
    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m _h _w"]:
        for side in images.shape[2:]:
            self.latent_shape(side)
        return self.encoder((images + 1) / 2)

    @override
    def last_input(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k _h _w"]:
        return self.decoder(LARGEST * torch.tanh(z / LARGEST))

    @override
    def output(self, last_input: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        return 2 * self.last_layer(last_input) - 1
