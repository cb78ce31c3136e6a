"""DiT and SiT: transformers in the latents of Stable Diffusion's autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from baselines.latent.autoencoder import autoencoders
from baselines.latent.readers.parts import DENOISER, Network, first_stage_in, sampler, together
from hierdiff.interop import dit
from hierdiff.interop.published import Published, Reader, Shapes, part_of, readers, shapes_of
from hierdiff.options import Count, Positive
from hierdiff.registry import Node

SCALE = 0.18215  # of the latents of Stable Diffusion's autoencoder
LINEAR = {"name": "linear_beta"}
STEPS = {"name": "steps", "steps": 1000}


def heads(width: int, stated: int | None) -> int:
    """Heads of a transformer: those that are stated, else those of the release of this width.

    Raises:
        ValueError: for a width of no release.
    """
    if stated is None and width not in dit.HEADS:
        raise ValueError(
            f"no released DiT is {width} wide, and its shapes do not show its heads: say heads=N"
        )
    return stated or dit.HEADS[width]


def noise_network(
    node: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    facts: Mapping[str, int],
    schedule: Node = LINEAR,
) -> Network:
    """DiT as it was trained: eps of 1000 steps, and its variance by the bound."""
    learned = node["learned_variance"]
    plan = sampler("dit")
    if not learned:
        plan["rule"] = {"name": "ancestral", "variance": "large"}
    return Network(
        node={**node, "clock": {"name": "steps", "schedule": schedule}},
        weights=weights,
        channels=facts["channels"],
        classes=facts["classes"],
        schedule=schedule,
        sampling=plan,
        scale=SCALE,
        objective={"vlb": 1.0 if learned else 0.0, "time": STEPS},
    )


def velocity_network(
    node: Mapping[str, Any], weights: Mapping[str, Tensor], facts: Mapping[str, int]
) -> Network:
    """SiT as it was trained: the velocity of straight paths."""
    return Network(
        node={**node, "clock": {"name": "flow"}},
        weights=weights,
        channels=facts["channels"],
        classes=facts["classes"],
        schedule={"name": "linear_flow"},
        process="flow",
        prediction="u",
        sampling=sampler("sit"),
        scale=SCALE,
    )


@dataclass(frozen=True)
class TransformerReader(Reader):
    """What DiT and SiT have in common: their tables have the same names and shapes.

    autoencoder: FILE of the converted autoencoder (Stable Diffusion's, kl_f8). heads: of attention,
    None for those of the release of this width. scale: by which latents are multiplied, None for
    what the autoencoder's file says, else 0.18215.
    """

    velocity: ClassVar[bool]

    autoencoder: str | None = None
    heads: Count | None = None
    scale: Positive | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        known_by = {"x_embedder.proj.weight", "t_embedder.mlp.0.weight", dit.POSITIONS}
        return shapes.keys() >= known_by | {"final_layer.adaLN_modulation.1.weight"}

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        shapes = shapes_of(tensors)
        node = dit.options(shapes)
        node["heads"] = heads(node["width"], self.heads)
        make = velocity_network if self.velocity else noise_network
        network = make(node, dit.rename(tensors, velocity=self.velocity), dit.facts(shapes))
        first = first_stage_in(self.autoencoder, "SiT" if self.velocity else "DiT")
        return together(first, network, dit.side(shapes), self.scale)

    @override
    def write(self, weights: Mapping[str, Tensor], method: Node) -> dict[str, Tensor]:
        network = part_of(DENOISER, weights)
        is_flow = method.get("process") == "flow"
        if method.get("denoiser", {}).get("name") != "dit" or is_flow != self.velocity:
            raise ValueError(
                f"the method has no transformer of the layout of {self.project}: give a latent "
                f"one with the denoiser dit{' and the process flow' if self.velocity else ''}"
            )
        side = method["resolutions"][0] // factor(method["codec"])
        return dit.official(network, side, velocity=self.velocity)


def factor(codec: Node) -> int:
    """By which a codec's autoencoder divides the side of images."""
    with torch.device("meta"):
        return autoencoders.build(codec["autoencoder"]).factor


@readers.register("dit")
@dataclass(frozen=True)
class DiTReader(TransformerReader):
    """DiT, which predicts noise (facebookresearch/DiT, arXiv 2212.09748).

    Options: as of `TransformerReader`.
    """

    project: ClassVar[str] = "facebookresearch/DiT"
    licence: ClassVar[str] = "CC BY-NC 4.0"
    velocity: ClassVar[bool] = False


@readers.register("sit")
@dataclass(frozen=True)
class SiTReader(TransformerReader):
    """SiT, which predicts a velocity (willisma/SiT, arXiv 2401.08740).

    Options: as of `TransformerReader`.
    """

    project: ClassVar[str] = "willisma/SiT"
    velocity: ClassVar[bool] = True
