"""Folders of diffusers: an autoencoder alone, or a pipeline of network, scheduler, autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from baselines.latent.codec import By
from baselines.latent.readers.autoencoder import released_part
from baselines.latent.readers.dit import noise_network
from baselines.latent.readers.parts import (
    FirstStage,
    Network,
    alone,
    channels_of,
    first_stage_in,
    of_images,
    sampler,
    together,
)
from hierdiff.interop import autoencoder, diffusers, dit, ldm
from hierdiff.interop.published import Published, Reader, Shapes, Table, readers, shapes_of
from hierdiff.options import Count, Positive
from hierdiff.registry import Node

AUTOENCODERS, NETWORKS = ("vae", "vqvae"), ("unet", "transformer")  # parts of a pipeline
DDIM, DDPM = OWN = "DDIMScheduler", "DDPMScheduler"  # that are sampled as they are
STEPS = 50  # of a pipeline's call without a number of its own
GUIDANCE = {"text": 7.5, "classes": 4.0, "none": 1.0}  # likewise
PROJECT, LICENCE = "huggingface/diffusers", "Apache-2.0; weights as their page says"


def autoencoder_of(
    tensors: Mapping[str, Tensor], config: Node, side: int | None = None
) -> tuple[FirstStage, int]:
    """The autoencoder of a folder, and the side of its training images.

    config: its config.json. side: None for the one that it says.

    Raises:
        ValueError: for options that our autoencoder has not.
    """
    diffusers.check_autoencoder(config)
    theirs = Table(diffusers.autoencoder(tensors))
    shapes = shapes_of(theirs)
    side = side or int(config.get("sample_size", 256))
    node = autoencoder.options(shapes, side)
    if (groups := config.get("norm_num_groups", 32)) != 32:
        node["groups"] = groups
    if shift := config.get("shift_factor"):
        raise ValueError(f"AutoencoderKL of shift_factor={shift}: latents are scaled, not shifted")
    scale = config.get("scaling_factor", 0.18215)
    vq = node["regulariser"]["name"] == "vq"
    statistics: By = "none" if vq or scale == 1 else float(scale)
    return FirstStage(node, autoencoder.rename(theirs), statistics), side


@readers.register("diffusers_autoencoder")
@dataclass(frozen=True)
class AutoencoderReader(Reader):
    """A folder of `AutoencoderKL` or `VQModel`, with its config.json.

    resolution: of its training images, None for what the config says.
    """

    project: ClassVar[str] = PROJECT
    licence: ClassVar[str] = LICENCE

    resolution: Count | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        return "encoder.down_blocks.0.resnets.0.conv1.weight" in shapes

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        check_config(about, diffusers.AUTOENCODERS)
        return alone(*autoencoder_of(tensors, about, self.resolution))

    @override
    def write(self, weights: Mapping[str, Tensor], method: Node) -> dict[str, Tensor]:
        own = released_part(weights, self.project)
        return diffusers.restored_autoencoder(autoencoder.official(own))

    @override
    def beside(self, weights: Shapes, method: Node) -> dict[str, Any]:
        codec = method["codec"]
        node, scale = codec["autoencoder"], codec.get("statistics", "channel")
        if node["regulariser"]["name"] != "kl":
            raise ValueError("a folder of diffusers is written for KL autoencoders alone")
        width, multiples = node["width"], node["multiples"]
        sides = [node["resolution"] // 2**i for i in range(len(multiples))]
        attends = [side in node.get("attention_at", ()) for side in sides]
        down = ["AttnDownEncoderBlock2D" if one else "DownEncoderBlock2D" for one in attends]
        up = ["AttnUpDecoderBlock2D" if one else "UpDecoderBlock2D" for one in reversed(attends)]
        return {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": [int(width * multiple) for multiple in multiples],
            "down_block_types": down,
            "in_channels": node.get("channels", 3),
            "latent_channels": node["latent_channels"],
            "layers_per_block": node["blocks"],
            "mid_block_add_attention": node.get("middle_attention", True),
            "norm_num_groups": node.get("groups", 32),
            "out_channels": node.get("channels", 3),
            "sample_size": node["resolution"],
            "scaling_factor": scale if isinstance(scale, float) else 1.0,
            "up_block_types": up,
        }


def check_config(config: Mapping[str, Any], classes: tuple[str, ...]) -> None:
    """Checks that a config.json is there, and of one of the classes that are read.

    Raises:
        ValueError: where it is not.
    """
    found = config.get("_class_name")
    if found is None:
        raise ValueError("no config.json beside the weights: give the folder that has both")
    if found not in classes:
        raise ValueError(f"{found} is not read: of diffusers {', '.join(classes)} are")


@readers.register("diffusers")
@dataclass(frozen=True)
class PipelineReader(Reader):
    """A pipeline: folders `unet` or `transformer`, `scheduler`, and `vae` or `vqvae` for latents.

    Stable Diffusion 1 and 2, latent diffusion, DiT, and U-Nets of images (`UNet2DModel`), as far as
    our networks have what their configs say. autoencoder: FILE of a converted autoencoder, for a
    folder without one. null_class: whether the last row of a U-Net's class table is no class.
    text_length: tokens of a caption. text_weights: folder of the text encoder (CLIP) with its
    tokenizer, which captions need.
    """

    project: ClassVar[str] = PROJECT
    licence: ClassVar[str] = LICENCE

    autoencoder: str | None = None
    scale: Positive | None = None
    null_class: bool = False
    text_length: Count = 77
    text_weights: str | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        return any(name.startswith(("unet/conv_in.", "transformer/pos_embed.")) for name in shapes)

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        (part,) = (name for name in NETWORKS if any(key.startswith(f"{name}/") for key in tensors))
        config, scheduler = about.get(part) or {}, about.get("scheduler") or {}
        check_config(config, diffusers.UNETS if part == "unet" else diffusers.TRANSFORMERS)
        if not scheduler:
            raise ValueError("no scheduler/scheduler_config.json: give the folder of the pipeline")
        make = self._unet if part == "unet" else self._transformer
        network = make(_part(part, tensors), config, scheduler)
        side = int(config["sample_size"])
        for name in AUTOENCODERS:
            if weights := _part(name, tensors):
                found = about.get(name) or {}
                check_config(found, diffusers.AUTOENCODERS)
                return together(autoencoder_of(weights, found)[0], network, side, self.scale)
        if self.autoencoder is None and config["_class_name"] == "UNet2DModel":
            return of_images(network, side)
        first = first_stage_in(self.autoencoder, config["_class_name"])
        return together(first, network, side, self.scale)

    def _unet(self, tensors: Mapping[str, Tensor], config: Node, scheduler: Node) -> Network:
        diffusers.check_unet(config)
        theirs = diffusers.unet(Table(tensors))
        shapes = shapes_of(theirs)
        schedule, heads = diffusers.schedule(scheduler), diffusers.heads(config)
        clock = {"name": "steps", "schedule": schedule, "steps": schedule["steps"]}
        node = {**ldm.options(shapes), **heads, "clock": clock}
        if (groups := config.get("norm_num_groups", 32)) != 32:
            node["groups"] = groups
        table, context = shapes.get("label_emb.weight"), ldm.context(shapes)
        clip = {"name": "clip", "weights": self.text_weights, "length": self.text_length}
        return Network(
            node=node,
            weights=ldm.rename(theirs, new_order=True, null_class=self.null_class),
            channels=channels_of(shapes, variance=True),
            schedule=schedule,
            sampling=sampling(scheduler, "text" if context else "none"),
            prediction=diffusers.prediction(scheduler),
            classes=table[0] - self.null_class if table else 0,
            text_width=context,
            text_length=self.text_length,
            text={**clip, "read_padding": True} if context else None,
            notes=notes(scheduler),
        )

    def _transformer(self, tensors: Mapping[str, Tensor], config: Node, scheduler: Node) -> Network:
        diffusers.check_transformer(config)
        theirs = diffusers.transformer(Table(tensors))
        shapes = shapes_of(theirs)
        node = {**dit.options(shapes), "heads": config["num_attention_heads"]}
        schedule = diffusers.schedule(scheduler)
        network = noise_network(node, dit.rename(theirs), dit.facts(shapes), schedule)
        return replace(network, prediction=diffusers.prediction(scheduler))


def notes(scheduler: Node) -> tuple[str, ...]:
    """What a reader must know of a scheduler that is taken as DDIM."""
    name = scheduler.get("_class_name", DDIM)
    return () if name in OWN else (f"released with {name}, sampled here by DDIM",)


def sampling(scheduler: Node, reads: str) -> dict[str, Any]:
    """How a pipeline samples with a DDIM or DDPM scheduler; others are taken as DDIM.

    What a config does not say is as in the code: these two alone clip, and PNDM ends at the first
    entry of the table. reads: "text", "classes" or "none".
    """
    released = scheduler.get("_class_name", DDIM)
    stochastic = released == DDPM
    if stochastic:
        kind = scheduler.get("variance_type", "fixed_small")
        variance = {"fixed_large": "large", "learned_range": "learned"}.get(kind, "small")
        rule: dict[str, Any] = {"name": "ancestral", "variance": variance}
    else:
        rule = {"name": "ddim", "eta": 0}
    table = scheduler.get("num_train_timesteps", 1000)
    to_one = scheduler.get("set_alpha_to_one", released != "PNDMScheduler")
    first = 0.0 if stochastic or to_one else 1 / table
    grid = {
        "name": "leading",
        "table": table,
        "offset": scheduler.get("steps_offset", 0),
        "end": first,
    }
    spacing = scheduler.get("timestep_spacing", "leading")
    if spacing != "leading":
        grid = {"name": {"linspace": "respaced"}.get(spacing, spacing), "table": table}
    limit = {"name": "static", "limit": float(scheduler.get("clip_sample_range", 1.0))}
    clips = scheduler.get("clip_sample", released in OWN)
    return sampler(
        "ldm",
        rule=rule,
        grid=grid,
        steps=table if stochastic else STEPS,
        guidance=GUIDANCE[reads],
        threshold=limit if clips else {"name": "none"},
    )


def _part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
