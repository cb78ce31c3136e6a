"""Codecs: pixels to the state that diffuses, and back.

The pyramid is the codec of pixel methods; a pyramid of one resolution is the identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.levels import (
    Levels,
    Name,
    Resolution,
    Sides,
    check_resolutions,
    level_names,
    pyramid,
    resolution_of,
    sides_of,
)
from hierdiff.options import Count
from hierdiff.registry import Registry


class Codec(ABC):
    """Images b c *sides in [-1, 1] to levels, finest first, and levels to {name: images}.

    resolutions: names of the images that `decode` gives, finest first; a word is a `Named`; none
    where the state is an embedding. lossy: does an image come back changed. stage: trains the codec
    before what diffuses in it, None where nothing is to be trained.
    """

    resolutions: Sequence[Name]
    lossy: bool = False
    stage: Any = None
    network: nn.Module | None = None  # what it computes with, for counts of its parameters

    @abstractmethod
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels: ...

    @abstractmethod
    def decode(self, levels: Levels) -> dict[Name, Float[Tensor, "b c *_sides"]]: ...

    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each level without the batch: channels, then sides."""

    def names(self) -> tuple[str, ...]:
        """Of the levels, by which they are logged: their resolutions, unless a codec has others."""
        return level_names([resolution_of(shape[1:]) for shape in self.shapes()])

    @abstractmethod
    def tail(self, n: int) -> Codec:
        """The codec of the n coarsest levels."""


codecs: Registry[Codec] = Registry("codec", Codec)


@dataclass(frozen=True)
class Pyramid(Codec):
    """Block means at each resolution (MDM, arXiv 2310.15111, section 3.1)."""

    resolutions: Sequence[Resolution]
    channels: Count = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", check_resolutions(self.resolutions))

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
        return Pyramid(self.resolutions[-n:], self.channels)


@codecs.register("identity")
def identity(*, resolution: Count | Sides, channels: Count = 3) -> Pyramid:
    """Pixels as they are, one level."""
    return Pyramid((resolution_of(resolution),), channels)
