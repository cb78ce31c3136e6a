"""Autoencoders: what all of them give, and the convolutional one of VQGAN and latent diffusion.

The convolutional one has the released layout. Images b c h w in [-1, 1]; every width but the last
is followed by a halving of the side. A 1x1 convolution stands on either side of the latents. Esser
et al., arXiv 2012.09841; Rombach et al., arXiv 2112.10752, appendix G, and their code.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from baselines.latent.regularisers import Regulariser, regularisers
from hierdiff.denoisers.layers import Multiples, Rate, Upsample
from hierdiff.denoisers.norms import GroupNorm, GroupNormSiLU
from hierdiff.options import Count
from hierdiff.registry import Later, Registry
from hierdiff.resolution import Resolution, sides_of

EPSILON = 1e-6  # of the released group norms


def norm_silu(width: int, groups: int) -> GroupNormSiLU:
    """The group norm of all layers, with the epsilon of the released code (`EPSILON`), and SiLU."""
    return GroupNormSiLU(groups, width, eps=EPSILON)


def chain(**parts: nn.Module | None) -> nn.Sequential:
    """One after another by name; None is left out."""
    return nn.Sequential(OrderedDict((k, part) for k, part in parts.items() if part is not None))


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, dropout, conv; plus x."""

    def __init__(self, inputs: int, outputs: int, groups: int, dropout: float):
        super().__init__()
        self.norm1 = norm_silu(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm_silu(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    @override
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.dropout(self.norm2(h)))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """Every position sees every other through one head; plus x."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=EPSILON)
        self.q, self.k, self.v, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    @override
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h = self.norm(x)
        q, k, v = (
            rearrange(part(h), "b c h w -> b 1 (h w) c") for part in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(h, "b 1 (h w) c -> b c h w", w=x.shape[-1]))


class Shrink(nn.Module):
    """A 3x3 convolution at every second pixel; zeros to the right and below only."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    @override
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Reconstruction(NamedTuple):
    """One training pass.

    images: reconstructed, not clipped. last_input: what the last convolution read. moments: of the
    encoder. loss, logs: of the regulariser.
    """

    images: Tensor
    last_input: Tensor
    moments: Tensor
    loss: Tensor
    logs: dict[str, Tensor]


class Autoencoder(nn.Module, ABC):
    """Images b c h w in [-1, 1] to latents of 1/`factor` the side, and back.

    factor: side of the images over that of the latents. latent_channels: of the state that
    diffuses. regulariser: it turns what `encode` gives into that state. last_layer: the convolution
    that gives the images, whose gradients weigh an adversary. layout: the options that its weights
    belong to, by name; the same options have the same layout.
    """

    factor: int
    latent_channels: int
    regulariser: Regulariser
    last_layer: nn.Conv2d
    layout: Mapping[str, Any]

    @abstractmethod
    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m _h _w"]:
        """Moments, which `regulariser.sample` turns into the state that diffuses."""

    @abstractmethod
    def last_input(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k _h _w"]:
        """What `last_layer` reads, for a state as the decoder sees it."""

    def output(self, last_input: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Images of what `last_layer` reads, not clipped."""
        return self.last_layer(last_input)

    def decode(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c _h _w"]:
        """Images of a state, not clipped; a VQ autoencoder quantises it first."""
        return self.output(self.last_input(self.regulariser.quantised(z)))

    @override
    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        eps: Float[Tensor, "b d _h _w"] | None = None,
        reduction: str = "sum",
    ) -> Reconstruction:
        """One training pass; eps: unit noise of the posterior, without it the mode."""
        moments = self.encode(images)
        z, loss, logs = self.regulariser(moments, eps, reduction)
        last_input = self.last_input(z)
        return Reconstruction(self.output(last_input), last_input, moments, loss, logs)

    def fingerprint(self) -> bytes:
        """SHA-256 of layout and weights, these as float32, so that another dtype changes nothing.

        Zeros on the meta device.
        """
        state = self.state_dict()
        digest = hashlib.sha256(repr(self.layout).encode())
        if any(tensor.is_meta for tensor in state.values()):
            return bytes(digest.digest_size)
        for name, tensor in state.items():
            digest.update(name.encode())
            digest.update(tensor.cpu().float().contiguous().flatten().numpy())
        return digest.digest()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Inside, without gradients and in eval mode, whatever mode its training left it in."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)

    def latent_shape(self, resolution: Resolution) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the latents of images, without the batch.

        Raises:
            ValueError: where a side is not a multiple of `factor`.
        """
        height, width = sides_of(resolution)
        for side in (height, width):
            if side % self.factor:
                raise ValueError(
                    f"image side {side} is not a multiple of {self.factor}, by which this "
                    f"autoencoder divides it: choose a side that is, or fewer `multiples`"
                )
        return (self.latent_channels, height // self.factor, width // self.factor)


autoencoders: Registry[Autoencoder] = Registry("autoencoder", Autoencoder, default="autoencoder")


@autoencoders.register("autoencoder")
class ConvolutionalAutoencoder(Autoencoder):
    """Images to latents of 1/`factor` the side, and back. The defaults are the KL f8 autoencoder.

    width, multiples: channels are width * multiple at the side, its half, its quarter ...
    blocks: residual blocks of each on the way down; one more on the way up. attention_at: sides at
    which attention follows every block; resolution: the side of the training images, from which
    these are counted. middle_attention: one between the two blocks at the bottom. latent_channels:
    of the state that diffuses. regulariser: a regulariser or its node, `{name: kl}` without one.
    channels: of the images. groups: of the group norms. dropout: in the residual blocks.
    """

    def __init__(
        self,
        *,
        width: Count = 128,
        multiples: Multiples = (1, 2, 4, 4),
        blocks: Count = 2,
        attention_at: Sequence[Count] = (),
        middle_attention: bool = True,
        resolution: Count = 256,
        latent_channels: Count = 4,
        regulariser: Later[Regulariser] | None = None,
        channels: Count = 3,
        groups: Count = 32,
        dropout: Rate = 0.0,
    ):
        super().__init__()
        widths = [int(width * multiple) for multiple in multiples]
        for w in (width, *widths):
            if w % groups:
                raise ValueError(
                    f"{groups} groups do not divide a width of {w}: choose `groups` that divides "
                    f"all of {[width, *widths]}"
                )
        self.factor = 2 ** (len(widths) - 1)
        self.latent_channels = latent_channels
        self.latent_shape(resolution)
        sides = [resolution // 2**i for i in range(len(widths))]
        if never := set(attention_at) - set(sides):
            raise ValueError(
                f"attention_at {sorted(never)} is no side of this autoencoder: "
                f"images of {resolution} pass {sides}"
            )

        def residual(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, groups, dropout)

        def level(inputs: int, outputs: int, count: int, side: int) -> nn.Sequential:
            attend = side in attention_at
            return nn.Sequential(
                *(
                    chain(
                        residual=residual(outputs if j else inputs, outputs),
                        attention=Attention(outputs, groups) if attend else None,
                    )
                    for j in range(count)
                )
            )

        def middle(width: int) -> nn.Sequential:
            return chain(
                before=residual(width, width),
                attention=Attention(width, groups) if middle_attention else None,
                after=residual(width, width),
            )

        facts = {"channels": latent_channels}
        self.regulariser = regularisers.build(regulariser or {"name": "kl"}, offered=facts)
        moments = self.regulariser.expansion * latent_channels
        bottom, last = widths[-1], len(widths) - 1
        self.encoder = chain(
            first=nn.Conv2d(channels, width, 3, padding=1),
            down=nn.Sequential(
                *(
                    chain(
                        blocks=level(widths[i - 1] if i else width, widths[i], blocks, sides[i]),
                        shrink=Shrink(widths[i]) if i < last else None,
                    )
                    for i in range(len(widths))
                )
            ),
            middle=middle(bottom),
            norm=norm_silu(bottom, groups),
            last=nn.Conv2d(bottom, moments, 3, padding=1),
        )
        self.to_moments = nn.Conv2d(moments, moments, 1)
        self.from_latents = nn.Conv2d(latent_channels, latent_channels, 1)
        self.decoder = chain(
            first=nn.Conv2d(latent_channels, bottom, 3, padding=1),
            middle=middle(bottom),
            up=nn.Sequential(
                *(
                    chain(
                        blocks=level(widths[min(i + 1, last)], widths[i], blocks + 1, sides[i]),
                        grow=Upsample(widths[i]) if i else None,
                    )
                    for i in reversed(range(len(widths)))
                )
            ),
            norm=norm_silu(widths[0], groups),
        )
        self.last_layer = nn.Conv2d(widths[0], channels, 3, padding=1)
        kept = [tuple(p.shape) for p in self.regulariser.parameters()]
        self.layout = {
            "channels": channels,
            "widths": [width, *widths],
            "blocks": blocks,
            "levels with attention": [i for i, side in enumerate(sides) if side in attention_at],
            "attention in the middle": middle_attention,
            "groups": groups,
            "latent channels": latent_channels,
            "regulariser": [type(self.regulariser).__name__, *kept],
        }

    @override
    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m _h _w"]:
        for side in images.shape[2:]:
            self.latent_shape(side)
        return self.to_moments(self.encoder(images))

    @override
    def last_input(self, z: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k _h _w"]:
        return self.decoder(self.from_latents(z))
