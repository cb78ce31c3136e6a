"""SDXL (arXiv 2307.01952): a file of U-Net, autoencoder and text encoders, or the refiner's.

The text encoders of a file are left in it: they are read from their folders in transformers'
layout, which have the tokenizers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from torch import Tensor
from typing_extensions import override

from baselines.latent.readers.autoencoder import first_stage
from baselines.latent.readers.ldm import STEPS
from baselines.latent.readers.parts import (
    Network,
    channels_of,
    first_stage_in,
    ours,
    sampler,
    together,
)
from hierdiff.interop import autoencoder, ldm
from hierdiff.interop.published import Published, Reader, Shapes, Table, readers, shapes_of, within
from hierdiff.options import Count, Length, Positive, Share
from hierdiff.registry import Node

SCORE = {"aesthetic_score": 6.0}  # what samples are asked for as, of the refiner alone
REFINER = "stages.2.denoiser"
NOT_NEGATIVE = (
    "the refiner is guided away from no text and the same aesthetic score; the released pipeline "
    "leads away from the empty caption and a score of 2.5"
)


@readers.register("sdxl")
@dataclass(frozen=True)
class SDXLReader(Reader):
    """SDXL's base as the method `sdxl` without a refiner, or its refiner on a converted base.

    base: FILE of the converted base, for a refiner, which goes on where the base stands at the time
    `refine` and in its latents; its own copy of the autoencoder is not read. autoencoder: FILE of
    the converted one, for a base without. text_weights: folders of the two text encoders, CLIP
    ViT-L and OpenCLIP ViT-bigG, in transformers' layout with their tokenizers; captions need them.
    text_length: tokens of a caption. resolution: side that images are asked for as. scale: by which
    latents are multiplied. head_width: of attention. groups: of group norms. fourier: features of a
    scalar; pooled: width of the pooled text. schedule: node of a schedule, None for the released.
    """

    project: ClassVar[str] = "Stability-AI/generative-models"
    licence: ClassVar[str] = "MIT; weights CreativeML Open RAIL++-M"

    base: str | None = None
    autoencoder: str | None = None
    text_weights: Annotated[Sequence[str], Length(2)] | None = None
    text_length: Count = 77
    resolution: Count = 1024
    refine: Share = 0.2
    scale: Positive = 0.13025
    head_width: Count = 64
    groups: Count = 32
    fourier: Count = ldm.FOURIER
    pooled: Count = ldm.POOLED
    schedule: Node | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        return ldm.is_told(shapes)

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        network = self.network(tensors)
        if set(network.node["scalars"]) & SCORE.keys():
            return self.refined(network, base_in(self.base))
        if self.base is not None:
            raise ValueError(f"the file is SDXL's base itself: leave base={self.base} out")
        if any(name.startswith(autoencoder.WITHIN) for name in tensors):
            first = first_stage(tensors, self.resolution, self.scale)
        else:
            first = first_stage_in(self.autoencoder, "base of SDXL")
        side = first.network.latent_shape(self.resolution)[-1]
        latent = together(first, network, side, self.scale)
        sides = ("original_height", "original_width", "target_height", "target_width")
        assumed = dict.fromkeys(sides, self.resolution) | {"crop_top": 0, "crop_left": 0}
        told = {"scalars": network.node["scalars"], "vectors": network.node["vectors"]}
        return replace(
            latent,
            method={**latent.method, "name": "sdxl", "refine": 0, "assumed": assumed},
            facts={**latent.facts, **told},
        )

    def refined(self, network: Network, base: Published) -> Published:
        """A converted base with the refiner `network` behind it.

        Raises:
            ValueError: where it reads a wider text than the base.
        """
        width = base.facts["text_width"]
        if network.text_width > width:
            raise ValueError(
                f"the refiner reads a text of {network.text_width} channels and the base one of "
                f"{width}: give the base that it was trained with"
            )
        method = {
            **base.method,
            "refine": self.refine,
            "refiner": {**network.node, "text_last": network.text_width},
            "assumed": {**base.method["assumed"], **SCORE},
        }
        return replace(
            base,
            method=method,
            facts={**base.facts, "scalars": [*base.facts["scalars"], *SCORE]},
            weights={**base.weights, **within(REFINER, network.weights)},
            notes=(*base.notes, NOT_NEGATIVE),
        )

    def network(self, tensors: Mapping[str, Tensor]) -> Network:
        """The U-Net of a file, base's or refiner's.

        Raises:
            ValueError: for one that completes images, or reads other numbers than the two.
        """
        shapes = shapes_of(ldm.unet(tensors))
        schedule = dict(self.schedule or {"name": "scaled_linear_beta"})
        told = ldm.told(shapes, self.fourier, self.pooled)
        node = {
            **ldm.options(shapes),
            **told,
            "head_width": self.head_width,
            "groups": self.groups,
            "clock": {"name": "steps", "schedule": schedule},
        }
        clip = {"name": "clip", "length": self.text_length, "skip": 1, "read_padding": True}
        parts = [{**clip, "weights": folder} for folder in self.text_weights or (None, None)]
        return Network(
            node=node,
            weights=ldm.rename(Table(tensors), fourier=self.fourier, pooled=self.pooled),
            channels=channels_of(shapes),
            schedule=schedule,
            sampling=sampler(
                "ldm",
                rule={"name": "dpmpp_2m"},
                grid={"name": "trailing", "table": 1000},
                steps=50,
                guidance=6.0,
            ),
            text_width=ldm.context(shapes),
            text_length=self.text_length,
            text={"name": "together", "parts": parts, "pooled": 1},
            objective={"loss_space": "eps", "time": STEPS},
        )


def base_in(path: str | None) -> Published:
    """The converted base of SDXL in a file of ours.

    Raises:
        ValueError: where none is given, or the file has none.
        FileNotFoundError: where there is no file.
        PermissionError: where it names code to import.
    """
    if path is None:
        raise ValueError(
            "SDXL's refiner goes on where its base stands, which is another file: convert that "
            "first, then give what came out as base=FILE"
        )
    tensors, config = ours(path)
    method = config["method"]
    if method["name"] != "sdxl" or method.get("refine") != 0 or "assumed" not in method:
        raise ValueError(
            f"base={path} is no base of SDXL without a refiner: give what hierdiff.convert made of "
            f"the released base"
        )
    notes = config.get("published", {}).get("notes", ())
    return Published(method, config["facts"], tensors, config["text"], notes=notes)
