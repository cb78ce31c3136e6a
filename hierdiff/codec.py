"""Codecs: images to the levels that diffuse, and back.

The pyramid is the codec of pixel methods; a pyramid of one resolution is the identity.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.levels import Levels, pyramid
from hierdiff.options import Count
from hierdiff.registry import Registry
from hierdiff.resolution import (
    Name,
    Resolution,
    Sides,
    check_resolutions,
    level_names,
    resolution_of,
    sides_of,
    text_of,
)


class Codec(ABC):
    """Images b c *sides in [-1, 1] to levels, finest first, and levels to {name: images}.

    resolutions: names of the images that it encodes, finest first, a word being a `Named`.
    makes_images: whether `decode` returns images of these names; False where the state is an
    embedding, of which it returns none. lossy: whether `decode` after `encode` changes an image.
    stage: the stage that trains the codec before the diffusion, None if there is nothing to train.
    """

    resolutions: Sequence[Name]
    makes_images: bool = True
    lossy: bool = False
    stage: Any = None
    network: nn.Module | None = None  # whose parameters are counted

    @property
    def identity(self) -> str:
        """What its levels mean, apart from their shapes and the weights that `stage` trains."""
        return type(self).__name__

    @abstractmethod
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        """The levels of images in [-1, 1], of the shapes of `shapes()` behind the batch."""

    @abstractmethod
    def decode(self, levels: Levels) -> dict[Name, Float[Tensor, "b c *_sides"]]:
        """{name: images} of clean levels, for every name in `resolutions`; {} for an embedding."""

    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each level without the batch: channels, then sides."""

    def limited(self, levels: Levels, limit: Callable[[Levels], Levels]) -> Levels:
        """Clean levels whose values `limit` keeps in range; by default those of the levels."""
        return limit(levels)

    def names(self) -> tuple[str, ...]:
        """Names of the levels in logs, finest first; by default their resolutions."""
        return level_names([resolution_of(shape[1:]) for shape in self.shapes()])

    @abstractmethod
    def tail(self, n: int) -> Codec:
        """The codec of the n coarsest levels."""

    def of_frames(self) -> Codec | None:
        """The codec of single frames of its clips; None where it has none, as that of images."""
        return None

    def resized(self, resolution: Resolution) -> Codec:
        """The codec of images of other sides, with the same networks.

        Raises:
            ValueError: where it has none, or those sides do not suit it.
        """
        raise ValueError(
            f"{type(self).__name__} is made for images of {text_of(self.resolutions[0])} px alone: "
            f"leave data.buckets and resolution= out"
        )


codecs: Registry[Codec] = Registry("codec", Codec)


class Pyramid(Codec):
    """Block means at each resolution (MDM, arXiv 2310.15111, section 3.1).

    resolutions: finest first. channels: of the images.
    """

    resolutions: tuple[Resolution, ...]

    def __init__(self, resolutions: Sequence[int | Sequence[int]], channels: int = 3):
        self.resolutions = check_resolutions(resolutions)
        self.channels = channels

    @override
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        return pyramid(images, self.resolutions)

    @override
    def decode(self, levels: Levels) -> dict[Name, Float[Tensor, "b c *_sides"]]:
        return dict(zip(self.resolutions, levels, strict=True))

    @override
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((self.channels, *sides_of(one)) for one in self.resolutions)

    @override
    def tail(self, n: int) -> Pyramid:
        return self._at(self.resolutions[-n:])

    @override
    def of_frames(self) -> Codec | None:
        sides = [sides_of(one)[1:] for one in self.resolutions]
        if len(sides[0]) != 2 or len({*sides}) < len(sides):
            return None
        return self._at(sides)

    @override
    def resized(self, resolution: Resolution) -> Pyramid:
        own, new = sides_of(self.resolutions[0]), sides_of(resolution)
        levels: list[tuple[int, ...]] = []
        for level in self.resolutions:
            scaled = [a * b for a, b in zip(new, sides_of(level), strict=True)]
            if any(a % b for a, b in zip(scaled, own, strict=True)):
                raise ValueError(
                    f"images of {text_of(new)} px have no level that is to them what "
                    f"{text_of(level)} is to {text_of(own)}: choose sides that divide as these do"
                )
            levels.append(tuple(a // b for a, b in zip(scaled, own, strict=True)))
        return self._at(levels)

    def _at(self, resolutions: Sequence[int | Sequence[int]]) -> Pyramid:
        """This codec, of whatever basis, at other resolutions."""
        other = copy.copy(self)
        other.resolutions = check_resolutions(resolutions)
        return other


@codecs.register("identity")
def identity(*, resolution: Count | Sides, channels: Count = 3) -> Pyramid:
    """The pyramid of one level: images as they are."""
    return Pyramid((resolution_of(resolution),), channels)
