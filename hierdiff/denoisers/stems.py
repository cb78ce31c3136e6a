"""Stems: transforms of the image before the first convolution of a network and after its last.

A stem makes the side smaller by `factor`, so that the network inside costs less. It is a transform
inside the network: state, noise and loss stay in pixels. Simple diffusion (arXiv 2301.11093)
compares patching convolutions with a 5/3 wavelet.

The low-resolution image of an upsampler enters with the noisy image, as further channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.options import Count, Natural
from hierdiff.registry import Registry


class Stem(nn.Module, ABC):
    """Image b c h w to b `inputs` h/factor w/factor and, from `outputs` channels, back.

    channels, low_channels: of the image and of the low-resolution image beside it; `leave` returns
    only the former. Sides are multiples of `factor`, which the network around the stem checks.
    """

    def __init__(self, factor: int, inputs: int, outputs: int):
        super().__init__()
        self.factor, self.inputs, self.outputs = factor, inputs, outputs

    @abstractmethod
    def enter(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        """The input of the network inside: `inputs` channels, sides over `factor`."""

    @abstractmethod
    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The image from `outputs` channels of the network inside: sides times `factor`."""


stems: Registry[Stem] = Registry("stem", Stem)


@stems.register("none")
class Plain(Stem):
    """The image as it is."""

    def __init__(self, *, channels: int = 3, low_channels: int = 0):
        super().__init__(1, channels + low_channels, channels)

    @override
    def enter(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x

    @override
    def leave(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return h


@stems.register("patch")
class Patch(Stem):
    """A strided convolution over patches of factor x factor pixels, and a transposed one back.

    There are as many channels inside as a patch has numbers. The way back has no bias, so that a
    prediction of zero remains zero.

    Raises:
        ValueError: for a factor below 1.
    """

    def __init__(self, factor: Count = 2, *, channels: Count = 3, low_channels: Natural = 0):
        if factor < 1:
            raise ValueError(f"patches of factor {factor}: the factor is 1 or more pixels")
        size = factor * factor
        super().__init__(factor, size * (channels + low_channels), size * channels)
        self.split = nn.Conv2d(channels + low_channels, self.inputs, factor, stride=factor)
        self.join = nn.ConvTranspose2d(self.outputs, channels, factor, stride=factor, bias=False)

    @override
    def enter(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        return self.split(x)

    @override
    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.join(h)


@stems.register("wavelet")
class Wavelet(Stem):
    """The 5/3 wavelet of LeGall (reversible filters of JPEG 2000, without their rounding).

    Along each side, with x and d mirrored about the first and last sample:
    d[n] = x[2n + 1] - (x[2n] + x[2n + 2]) / 2, a[n] = x[2n] + (d[n - 1] + d[n]) / 4.
    So a constant is its own approximation a, and a line has zero details d. The bands of one
    transform are stacked as channels, (rows, columns) = aa, ad, da, dd, all channels of a band
    together. levels: number of transforms; each is applied to all bands of the one before (a
    wavelet packet), since all must have one side.

    Not orthonormal: white noise of variance 1 becomes correlated, with variances (23/32)^2 in aa
    and (3/2)^2 in dd. Inside a network this does not matter; a state space needs another transform.

    Raises:
        ValueError: for less than one transform.
    """

    def __init__(self, levels: Count = 1, *, channels: Count = 3, low_channels: Natural = 0):
        if levels < 1:
            raise ValueError(f"{levels} wavelet levels: choose 1 or more, or the stem none")
        super().__init__(2**levels, 4**levels * (channels + low_channels), 4**levels * channels)
        self.levels = levels

    @override
    def enter(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        for _ in range(self.levels):
            rows = [band.mT for band in analysed(x.mT)]
            x = torch.cat([band for row in rows for band in analysed(row)], dim=1)
        return x

    @override
    def leave(self, h: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h2 w2"]:
        for _ in range(self.levels):
            aa, ad, da, dd = h.chunk(4, dim=1)
            h = synthesised(synthesised(aa, ad).mT, synthesised(da, dd).mT).mT
        return h


def analysed(x: Float[Tensor, "*b n"]) -> tuple[Tensor, Tensor]:
    """5/3 lifting of the last axis, of even length n: n/2 approximations and n/2 details."""
    even, odd = x[..., ::2], x[..., 1::2]
    details = odd - (even + _following(even)) / 2
    return even + (_preceding(details) + details) / 4, details


def synthesised(
    approximations: Float[Tensor, "*b m"], details: Float[Tensor, "*b m"]
) -> Float[Tensor, "*b n"]:
    """The inverse of `analysed`: its steps undone in reverse."""
    even = approximations - (_preceding(details) + details) / 4
    odd = details + (even + _following(even)) / 2
    return torch.stack([even, odd], dim=-1).flatten(-2)


def _following(even: Tensor) -> Tensor:
    """x[2n + 2] from x[2n]; x[N] = x[N - 2]."""
    return torch.cat([even[..., 1:], even[..., -1:]], dim=-1)


def _preceding(details: Tensor) -> Tensor:
    """d[n - 1] from d[n]; d[-1] = d[0]."""
    return torch.cat([details[..., :1], details[..., :-1]], dim=-1)
