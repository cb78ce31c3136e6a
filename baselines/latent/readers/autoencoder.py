"""The released autoencoders of latent diffusion, taming-transformers and Stable Diffusion alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from baselines.latent.readers.parts import AUTOENCODER, FirstStage, alone
from hierdiff.interop import autoencoder
from hierdiff.interop.published import Published, Reader, Shapes, part_of, readers, shapes_of
from hierdiff.options import Count, Positive
from hierdiff.registry import Node

KNOWN_BY = {"encoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight", "quant_conv.weight"}


def first_stage(tensors: Mapping[str, Tensor], side: int, scale: float | None) -> FirstStage:
    """The autoencoder in a table of its own or of all of latent diffusion.

    side: of its training images. scale: of its latents where the release states one.
    """
    theirs = autoencoder.first_stage(tensors)
    node = autoencoder.options(shapes_of(theirs), side)
    vq = node["regulariser"]["name"] == "vq"
    return FirstStage(node, autoencoder.rename(theirs), "none" if vq else scale or "channel")


@readers.register("ldm_autoencoder")
@dataclass(frozen=True)
class AutoencoderReader(Reader):
    """A KL or VQ autoencoder by itself (CompVis/latent-diffusion, CompVis/taming-transformers).

    resolution: of its training images, in which sides of attention are counted. scale: by which
    latents are multiplied (0.18215 for Stable Diffusion's), None: a run measures its own.
    """

    project: ClassVar[str] = "CompVis/latent-diffusion"
    licence: ClassVar[str] = "MIT; weights as their page says"

    resolution: Count = 256
    scale: Positive | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        return shapes.keys() >= KNOWN_BY

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        return alone(first_stage(tensors, self.resolution, self.scale), self.resolution)

    @override
    def write(self, weights: Mapping[str, Tensor], method: Node) -> dict[str, Tensor]:
        return autoencoder.official(released_part(weights, self.project))


def released_part(weights: Mapping[str, Tensor], project: str) -> dict[str, Tensor]:
    """The weights of a convolutional autoencoder among those of a method.

    Raises:
        ValueError: where the method has none.
    """
    own = part_of(AUTOENCODER, weights)
    if "to_moments.weight" not in own:
        raise ValueError(
            f"the method has no autoencoder of the layout of {project}: give weights of a latent "
            f"run or conversion with a convolutional one"
        )
    return own
