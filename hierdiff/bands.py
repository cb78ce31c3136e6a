"""Bases of joint levels beside the pyramid: residuals of a Laplacian pyramid, and Haar bands.

Each is linear and exact: from the block means of an image at several resolutions (`Pyramid`) to
levels that together have as many numbers as they need, and back. A limit of pixels (thresholds of
the sampler) is one of the images, in whatever basis their levels are; Haar bands, which cannot say
that a limited image has other block means than the limited coarser one, take its details alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.codec import Codec, Pyramid
from hierdiff.levels import Levels, down, up
from hierdiff.resolution import Name, Resolution, level_names, resolution_of, sides_of


class Bands(Pyramid):
    """A pyramid in another basis; a subclass writes `split` and `join`, inverse to each other."""

    def split(self, images: Levels) -> Levels:
        """The levels of a pyramid's images, finest first."""
        raise NotImplementedError

    def join(self, levels: Levels) -> Levels:
        """The pyramid's images of the levels, finest first."""
        raise NotImplementedError

    @override
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        return self.split(super().encode(images))

    @override
    def decode(self, levels: Levels) -> dict[Name, Float[Tensor, "b c *_sides"]]:
        return super().decode(self.join(levels))

    @override
    def limited(self, levels: Levels, limit: Callable[[Levels], Levels]) -> Levels:
        return self.split(limit(self.join(levels)))

    @override
    def names(self) -> tuple[str, ...]:
        return level_names(self.resolutions)


class Laplacian(Bands):
    """The coarsest image, and of each finer one what its block means do not say.

    r_i = x_i - up(x_{i+1}) with repeated pixels (Burt and Adelson 1983, with block means in place
    of the Gaussian; LapFlow, arXiv 2602.19461, with the same sum: x_0 = r_0 + up(r_1) + ...).
    Residuals are in [-2, 2] and have block means of 0.
    """

    @override
    def split(self, images: Levels) -> Levels:
        finer = [
            high - up(low, side)
            for (high, low), side in zip(pairwise(images), self.resolutions, strict=False)
        ]
        return (*finer, images[-1])

    @override
    def join(self, levels: Levels) -> Levels:
        images = [levels[-1]]
        for residual, side in zip(levels[-2::-1], self.resolutions[-2::-1], strict=True):
            images.append(up(images[-1], side) + residual)
        return tuple(reversed(images))


class Haar(Bands):
    """Orthonormal Haar bands, each level at half the side of its image.

    A level has the three details of its image, 3 c channels (across, down, diagonal), and the
    coarsest the low band behind them, 4 c. With one level this is the image in another orthonormal
    basis: white noise stays white noise. Neighbouring resolutions must be a factor of 2 apart.

    Raises:
        ValueError: for other resolutions, and sides that are odd.
    """

    def __init__(self, resolutions: Sequence[int | Sequence[int]], channels: int = 3):
        super().__init__(resolutions, channels)
        sides = [sides_of(one) for one in self.resolutions]
        check_halves(self.resolutions)
        if len(sides[0]) != 2 or any(side % 2 for side in sides[-1]):
            raise ValueError(
                f"Haar bands of {sides[-1]}: they are for images whose coarsest sides are even"
            )

    @override
    def split(self, images: Levels) -> Levels:
        bands = [_haar(image) for image in images]
        return (*(band[:, : 3 * self.channels] for band in bands[:-1]), bands[-1])

    @override
    def join(self, levels: Levels) -> Levels:
        images = [_image(levels[-1])]
        for details in levels[-2::-1]:
            images.append(_image(torch.cat([details, 2 * images[-1]], 1)))  # 2: of a block mean
        return tuple(reversed(images))

    @override
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        halves = [tuple(side // 2 for side in sides_of(one)) for one in self.resolutions]
        counts = [3 * self.channels] * (len(halves) - 1) + [4 * self.channels]
        return tuple((count, *half) for count, half in zip(counts, halves, strict=True))

    @override
    def _at(self, resolutions: Sequence[int | Sequence[int]]) -> Haar:
        return Haar(resolutions, self.channels)


class Details(Codec):
    """The Haar details of an image alone, at half its side; its low band stands beside them.

    resolution: of the image. channels: of the image, of which there are three details each. gain:
    of the details over orthonormal ones, whose numbers are small. `decode` and `limited` take the
    levels (details, low), low being the block means of the image at half its side. Where details
    lead out of [-1, 1], `decode` shortens the three of a block together until its four pixels are
    inside, so that their mean remains that of the low band.

    Raises:
        ValueError: for a resolution that is not two even sides.
    """

    resolutions: tuple[Resolution]

    def __init__(self, resolution: int | Sequence[int], channels: int = 3, *, gain: float = 1.0):
        sides = sides_of(resolution)
        if len(sides) != 2 or any(side % 2 for side in sides):
            raise ValueError(f"Haar details of {sides}: they are for images of even sides")
        self.resolutions = (resolution_of(resolution),)
        self.low = resolution_of([side // 2 for side in sides])
        self.channels, self.gain = channels, gain

    @override
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        bands = _haar(down(images, self.resolutions[0]))
        return (self.gain * bands[:, : 3 * self.channels],)

    @override
    def decode(self, levels: Levels) -> dict[Name, Float[Tensor, "b c *_sides"]]:
        return {self.resolutions[0]: inside(self._joined(levels), levels[1])}

    @override
    def limited(self, levels: Levels, limit: Callable[[Levels], Levels]) -> Levels:
        (images,) = limit((self._joined(levels),))
        return (*self.encode(images), *levels[1:])

    @override
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((3 * self.channels, *sides_of(self.low)),)

    @override
    def names(self) -> tuple[str, ...]:
        return level_names(self.resolutions)

    @override
    def tail(self, n: int) -> Details:
        return self

    def _joined(self, levels: Levels) -> Tensor:
        details, low = levels
        return _image(torch.cat([details / self.gain, 2 * low], 1))


def inside(
    images: Float[Tensor, "b c h w"], low: Float[Tensor, "b c h//2 w//2"]
) -> Float[Tensor, "b c h w"]:
    """Images of these block means, their contrast lowered in each block until it is in [-1, 1]."""
    mean = low.repeat_interleave(2, -2).repeat_interleave(2, -1)
    apart = images - mean
    room = (1 - apart.sign() * mean) / apart.abs().clamp(min=1e-12)
    share = -F.max_pool2d(-room, 2).clamp(-1, 0)
    return mean + apart * share.repeat_interleave(2, -2).repeat_interleave(2, -1)


def check_halves(resolutions: Sequence[int | Sequence[int]]) -> None:
    """Refuses resolutions that are not each half of the one before, as Haar bands need.

    Raises:
        ValueError: naming the first two that are not.
    """
    for high, low in pairwise(map(sides_of, resolutions)):
        if tuple(2 * side for side in low) != high:
            raise ValueError(
                f"Haar bands of {high} and {low}: each resolution is half the one before"
            )


def _haar(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 4*c h//2 w//2"]:
    """Across, down, diagonal and low, each c channels; an orthonormal transform."""
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    bands = (a - b + c - d, a + b - c - d, a - b - c + d, a + b + c + d)
    return torch.cat(bands, 1) / 2


def _image(bands: Float[Tensor, "b _bands h w"]) -> Float[Tensor, "b _c 2*h 2*w"]:
    """The inverse of `_haar`."""
    across, along, both, low = bands.chunk(4, 1)
    quarters = (
        low + across + along + both,
        low - across + along - both,
        low + across - along - both,
        low - across - along + both,
    )
    return F.pixel_shuffle(torch.stack(quarters, 2).flatten(1, 2) / 2, 2)


BASES: dict[str, type[Pyramid]] = {"pyramid": Pyramid, "laplacian": Laplacian, "haar": Haar}
