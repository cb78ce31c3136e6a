"""Latent diffusion and Stable Diffusion 1 and 2: whole checkpoints, or U-Nets that read a context.

What shapes do not show (heads, betas, prediction, scale) is that of the release with the same
options, whose network stands in `hierdiff/configs/denoiser/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from baselines.latent.codec import By
from baselines.latent.readers.autoencoder import first_stage
from baselines.latent.readers.parts import Network, channels_of, first_stage_in, sampler, together
from hierdiff.config import folder_of_configs, from_yaml
from hierdiff.interop import autoencoder, ldm
from hierdiff.interop.published import Published, Reader, Shapes, Table, readers, shapes_of
from hierdiff.options import Count, Positive
from hierdiff.registry import Node
from hierdiff.schedules import ScaledLinearBeta

WITHIN = "model.diffusion_model."
NONE = 1001  # rows of a table of ImageNet's classes, the last of which is none
STEPS = {"name": "steps", "steps": 1000}
TEXT_OF_SD = (
    "guidance leads away from the empty caption in the released scripts: sample with negative=''"
)


@dataclass(frozen=True)
class Release:
    """A published U-Net. denoiser: its configuration. context: width of what it reads, 0 for none.
    side: of its images. scale: of its latents where the checkpoint has none. sampling: how it is
    sampled; text: whether it reads captions, through CLIP or an encoder that is not read here.
    """

    denoiser: str
    context: int
    side: int
    sampling: Node
    scale: By = "none"
    text: Literal["clip", "other"] | None = None


UNCONDITIONAL = sampler("ldm", guidance=1.0)
FROM_TEXT = sampler("ldm", rule={"name": "ddim", "eta": 0}, steps=50)
RELEASES = (
    Release("ldm_4", 512, 256, sampler("ldm")),
    Release("ldm_8", 512, 256, sampler("ldm")),
    Release("ldm_4_unconditional", 0, 256, UNCONDITIONAL),
    Release(
        *("ldm_8_churches", 0, 256),
        {**UNCONDITIONAL, "rule": {"name": "ddim", "eta": 0}, "steps": 400},
    ),
    Release("ldm_text", 1280, 256, {**FROM_TEXT, "guidance": 5.0}, 0.18215, "other"),
    Release("sd_1", 768, 512, {**FROM_TEXT, "guidance": 7.5}, 0.18215, "clip"),
    Release("sd_2", 1024, 512, {**FROM_TEXT, "guidance": 9.0}, 0.18215, "clip"),
)


def configuration(release: Release) -> dict[str, Any]:
    """The options of the network of a release."""
    return from_yaml(Path(folder_of_configs()) / "denoiser" / f"{release.denoiser}.yaml")


def release_of(node: Node, context: int) -> Release | None:
    """The release whose network has these options, None where none has."""
    for release in RELEASES:
        known = configuration(release)
        same = ("width", "multiples", "blocks", "attention")
        if release.context == context and all(
            _plain(known[one], node) == _plain(node[one], node) for one in same
        ):
            return release
    return None


def _plain(value: Any, node: Node) -> Any:
    """The value for each level where it is one for all."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * len(node["multiples"])


@readers.register("ldm")
@dataclass(frozen=True)
class LDMReader(Reader):
    """Latent diffusion (CompVis/latent-diffusion) and Stable Diffusion 1 and 2, with their
    autoencoder or without.

    Options that are None are those of the release whose network has the same shapes. autoencoder:
    FILE of the converted autoencoder, for a U-Net without one. resolution: of the images. heads or
    head_width: of attention. prediction: eps or v; Stable Diffusion 2 has one of each with the same
    shapes (v: 768-v-ema, v2-1_768), so that it must be said. schedule: node of a schedule, else the
    betas of the checkpoint or of the release. scale: by which latents are multiplied, else the
    checkpoint's. null_class: whether the last row of the class table is no class. text_length:
    tokens of a caption. text_weights: folder of the text encoder (CLIP), which captions need.
    """

    project: ClassVar[str] = "CompVis/latent-diffusion"
    licence: ClassVar[str] = "MIT; weights as their page says (Stable Diffusion: CreativeML RAIL-M)"

    autoencoder: str | None = None
    resolution: Count | None = None
    heads: Count | None = None
    head_width: Count | None = None
    prediction: Literal["eps", "v"] | None = None
    schedule: Node | None = None
    scale: Positive | None = None
    null_class: bool | None = None
    text_length: Count = 77
    text_weights: str | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        reads = any(".transformer_blocks.0.attn1.to_q." in name for name in shapes)
        if ldm.is_told(shapes):  # SDXL
            return False
        alone = "input_blocks.0.0.weight" in shapes and reads
        return alone or f"{WITHIN}input_blocks.0.0.weight" in shapes

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        shapes = shapes_of(ldm.unet(tensors))
        node, context = ldm.options(shapes), ldm.context(shapes)
        release = release_of(node, context)
        network = self._network(tensors, shapes, node, release)
        side = self.resolution or (release.side if release else None)
        if side is None:
            raise ValueError(
                "no release has a network of these shapes, which do not show the side of its "
                "images: say resolution=N"
            )
        if any(name.startswith(autoencoder.WITHIN) for name in tensors):
            own = tensors.get("scale_factor")
            scale = None if own is None or own.is_meta or float(own) == 1 else round(float(own), 8)
            first = first_stage(tensors, side, scale)
        else:
            first = first_stage_in(self.autoencoder, "latent diffusion")
        return together(first, network, first.network.latent_shape(side)[-1], self.scale)

    def _network(
        self,
        tensors: Mapping[str, Tensor],
        shapes: Shapes,
        node: Mapping[str, Any],
        release: Release | None,
    ) -> Network:
        channels, heads = channels_of(shapes), self._heads(release)
        schedule = self._schedule(tensors, release)
        context = ldm.context(shapes)
        table = shapes.get("label_emb.weight")
        text = 0 if table else context
        null_class = table is not None and table[0] == NONE
        if self.null_class is not None:
            null_class = self.null_class
        network = Network(
            node={**node, **heads, "clock": {"name": "steps", "schedule": schedule}},
            weights=ldm.rename(
                Table(tensors),
                heads=heads.get("heads", 1),
                head_width=heads.get("head_width"),
                null_class=null_class,
            ),
            channels=channels,
            schedule=schedule,
            sampling=release.sampling if release else sampler("ldm", guidance=1.0),
            prediction=self._prediction(release),
            scale=release.scale if release else "none",
            classes=table[0] - null_class if table else 0,
            text_width=text,
            text_length=self.text_length,
            objective={"loss_space": "eps", "time": STEPS},
        )
        if table:
            network = replace(
                network, node={**network.node, "class_token": True, "context": context}
            )
        if release is None or release.text != "clip":
            return network
        clip = {"name": "clip", "weights": self.text_weights, "length": self.text_length}
        return replace(network, text={**clip, "read_padding": True}, notes=(TEXT_OF_SD,))

    def _heads(self, release: Release | None) -> dict[str, int]:
        if self.heads or self.head_width:
            stated = {"heads": self.heads, "head_width": self.head_width}
            return {name: value for name, value in stated.items() if value}
        if release is None:
            raise ValueError(
                "no release has a network of these shapes, which do not show its heads: say "
                "heads=N, or head_width=N"
            )
        known = configuration(release)
        return {name: known[name] for name in ("heads", "head_width") if name in known}

    def _prediction(self, release: Release | None) -> str:
        if self.prediction is None and release is not None and release.denoiser == "sd_2":
            raise ValueError(
                "the networks of Stable Diffusion 2 have the same shapes whether they predict "
                "noise (512-base) or v (768-v): say prediction=eps or prediction=v"
            )
        return self.prediction or "eps"

    def _schedule(self, tensors: Mapping[str, Tensor], release: Release | None) -> dict[str, Any]:
        if self.schedule is not None:
            return dict(self.schedule)
        betas = tensors.get("betas")
        if betas is None or betas.is_meta:
            if release is None:
                return {"name": "scaled_linear_beta"}
            return configuration(release)["clock"]["schedule"]
        ends = {"start": round(float(betas[0]), 7), "end": round(float(betas[-1]), 7)}
        known = ScaledLinearBeta(steps=len(betas), **ends)
        if not torch.allclose(betas.double(), known.betas(), rtol=1e-4, atol=1e-7):
            raise ValueError(
                f"the betas of the file are not those of {known}: say schedule={{name: ..., ...}}"
            )
        return {"name": "scaled_linear_beta", "steps": len(betas), **ends}
