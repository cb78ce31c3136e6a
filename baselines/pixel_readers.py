"""Readers of published pixel networks whose method is a baseline: ADM and its upsamplers, RIN.

ADM: Dhariwal & Nichol, arXiv 2105.05233, openai/guided-diffusion; heads, schedules and image sides
are those of its README, by release. RIN: Jabri et al., arXiv 2212.11972, google-research/pix2seq;
no weights of it are public, and an npz of what its code trains is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from hierdiff.denoisers import denoisers
from hierdiff.interop import ldm, rin
from hierdiff.interop.published import Published, Reader, Shapes, readers, within
from hierdiff.options import Count
from hierdiff.registry import Node

OF_NOISE = {  # objective
    "parameterization": {"prediction": "eps", "input_scale": "none"},
    "loss_space": "eps",
    "weight": {"name": "constant"},
}
ADM_SAMPLING = {  # 250 of 1000 steps
    "rule": {"name": "ancestral", "variance": "learned"},
    "grid": {"name": "respaced"},
    "steps": 250,
    "guidance": 1.0,
    "threshold": {"name": "static"},
    "prior": "unit",
}
# The base of a cascade of which only the upsampler was published: small and without weights.
NO_BASE = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}


@dataclass(frozen=True)
class Layout:
    """What the shapes of an ADM network show.

    attention: whether each width has it. low: an upsampler, which reads a low-resolution image.
    """

    width: int
    multiples: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    resample_blocks: bool
    scale_shift: bool
    classes: int
    channels: int
    low: bool


@dataclass(frozen=True)
class Release:
    """What the shapes of a released ADM network do not show; resolution: side of its images."""

    resolution: int
    heads: int = 1
    head_width: int | None = None
    new_order: bool = False
    schedule: str = "linear_beta"
    dropout: float = 0.0


RELEASES = {  # by upsampler, width, multiples, and how many widths have attention
    (False, 192, (1, 2, 3, 4), 3): Release(
        64, head_width=64, new_order=True, schedule="squared_cosine", dropout=0.1
    ),
    (False, 256, (1, 1, 2, 3, 4), 3): Release(128, heads=4),
    (False, 256, (1, 1, 2, 2, 4, 4), 3): Release(256, head_width=64),
    (False, 256, (0.5, 1, 1, 2, 2, 4, 4), 3): Release(512, head_width=64),
    (True, 192, (1, 1, 2, 2, 4, 4), 3): Release(256, heads=4),
    (True, 192, (1, 1, 2, 2, 4, 4), 2): Release(512, head_width=64),
}


@readers.register("adm")
@dataclass(frozen=True)
class ADMReader(Reader):
    """ADM, ImageNet at 64 to 512 px and LSUN, and its upsamplers (arXiv 2105.05233).

    Every option is None for that of the release with these shapes. resolution: of the images. low:
    of the image that an upsampler reads, a quarter of the resolution by default. heads, head_width:
    of attention, one of the two. new_order: queries, keys and values lie head by head
    (use_new_attention_order False) or not. schedule: of the noise.
    """

    project: ClassVar[str] = "openai/guided-diffusion"
    licence: ClassVar[str] = "MIT"

    resolution: Count | None = None
    low: Count | None = None
    heads: Count | None = None
    head_width: Count | None = None
    new_order: bool | None = None
    schedule: Literal["linear_beta", "squared_cosine"] | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        outer = {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"}
        if not outer <= shapes.keys() or any(".transformer_blocks." in name for name in shapes):
            return False
        inputs, outputs = shapes["input_blocks.0.0.weight"], shapes["out.2.weight"]
        learned = len(outputs) == 4 and len(inputs) == 4 and outputs[0] == 6
        return learned and inputs[1] in (3, 6)

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        layout = layout_of({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        release = self._release(layout)
        schedule = {"name": release.schedule}
        stage = {
            "denoiser": denoiser_of(layout, release, schedule),
            "schedule": schedule,
            "reference": None,
            "objective": {**OF_NOISE, "vlb": 1.0},
            "sampling": ADM_SAMPLING,
        }
        weights = ldm.rename(
            tensors,
            heads=release.heads,
            head_width=release.head_width,
            new_order=release.new_order,
        )
        facts = {"channels": layout.channels, "classes": layout.classes}
        facts |= {"text_width": 0, "text_length": 0}
        if not layout.low:
            method = {"name": "end_to_end", "resolutions": [release.resolution], **stage}
            return Published(method, facts, within("stages.0.denoiser", weights))
        low = self.low or release.resolution // 4
        return Published(
            upsampler_of([release.resolution, low], stage),
            facts,
            {**no_base(facts), **within("stages.1.denoiser", weights)},
            notes=("an upsampler alone: its base is small and has no weights",),
        )

    def _release(self, layout: Layout) -> Release:
        """What no shape shows, from the options and else from the release of these shapes.

        Raises:
            ValueError: without a resolution of a network that is none of the releases.
        """
        key = (layout.low, layout.width, layout.multiples, sum(layout.attention))
        found = RELEASES.get(key)
        if found is None and self.resolution is None:
            raise ValueError(
                f"an ADM network of width {layout.width} and multiples {list(layout.multiples)} "
                f"is none of the releases: give resolution=SIDE of its images, and heads or "
                f"head_width, new_order and schedule as in its training"
            )
        found = found or Release(self.resolution or 0, head_width=64)
        one_of = (self.heads or 1, self.head_width)
        heads, head_width = (found.heads, found.head_width) if one_of == (1, None) else one_of
        return Release(
            resolution=self.resolution or found.resolution,
            heads=heads,
            head_width=head_width,
            new_order=found.new_order if self.new_order is None else self.new_order,
            schedule=self.schedule or found.schedule,
            dropout=found.dropout,
        )


def layout_of(shapes: Shapes) -> Layout:
    """The options of an ADM network that follow from its shapes.

    The way down alone does not show where a width ends, because a block that halves the side has
    the shapes of one that does not; on the way up it is a second one in the same place.

    Raises:
        ValueError: for a file without its first layers, or with widths of different depth.
    """
    width = _shape(shapes, "time_embed.0.weight")[1]
    inputs = _shape(shapes, "input_blocks.0.0.weight")[1]
    count = len({name.split(".")[1] for name in shapes if name.startswith("output_blocks.")})
    grows = {
        int(match[1])
        for name in shapes
        if (match := re.match(r"output_blocks\.(\d+)\.[12]\.(?:in_layers\.0|conv)\.weight", name))
    }
    levels = len(grows) + 1
    each = count // levels  # one more than the blocks of a width on the way down
    if not count or count % levels or grows != {(i + 1) * each - 1 for i in range(levels - 1)}:
        raise ValueError(
            f"an ADM network whose {count} blocks on the way up double the side after "
            f"{sorted(grows)}: its widths have different depths, or the file is not whole"
        )
    firsts = [1 + i * each for i in range(levels)]
    widths = [_shape(shapes, f"input_blocks.{i}.0.out_layers.3.weight")[0] for i in firsts]
    first = f"input_blocks.{firsts[0]}.0"
    return Layout(
        width=width,
        multiples=tuple(w / width for w in widths),
        blocks=each - 1,
        attention=tuple(int(f"input_blocks.{i}.1.qkv.weight" in shapes) for i in firsts),
        resample_blocks=f"input_blocks.{each}.0.in_layers.0.weight" in shapes,
        scale_shift=_shape(shapes, f"{first}.emb_layers.1.weight")[0] == 2 * widths[0],
        classes=shapes.get("label_emb.weight", (0,))[0],
        channels=_shape(shapes, "out.2.weight")[0] // 2,
        low=inputs == _shape(shapes, "out.2.weight")[0],
    )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) < 2:
        raise ValueError(f"an ADM network without {name!r}: the file is not whole")
    return shape


def denoiser_of(layout: Layout, release: Release, schedule: Node) -> dict[str, Any]:
    """The node of an ADM network; its classes and channels are facts."""
    return {
        "name": "ldm_unet",
        "width": layout.width,
        "multiples": list(layout.multiples),
        "blocks": layout.blocks,
        "attention": list(layout.attention),
        "heads": release.heads,
        "head_width": release.head_width,
        "dropout": release.dropout,
        "transformer": False,
        "scale_shift": layout.scale_shift,
        "resample_blocks": layout.resample_blocks,
        "learned_variance": True,
        "text_width": 0,
        "clock": {"name": "steps", "schedule": schedule},
        **({"augmentation": False} if layout.low else {}),
        **({} if layout.classes else {"classes": 0}),
    }


def upsampler_of(resolutions: Sequence[int], stage: Node) -> dict[str, Any]:
    """A cascade whose last stage is an upsampler of clean images, resized bilinearly."""
    return {
        "name": "cascaded",
        "resolutions": list(resolutions),
        "stages": [
            {"denoiser": NO_BASE, "share": 0},
            {
                **stage,
                "bridge": {"name": "augmented", "log_snr_range": None, "resize": "bilinear"},
            },
        ],
    }


def no_base(facts: Mapping[str, int]) -> dict[str, Tensor]:
    """Weights of `NO_BASE`, all zero."""
    with torch.device("meta"):
        network = denoisers.build(NO_BASE, offered=facts)
    state = network.state_dict()
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in state.items()}
    return within("stages.0.denoiser", zeros)


RIN_SCHEDULE = {"name": "limited", "base": {"name": "gamma_linear"}, "log_snr_min": -20.7}
RIN_SAMPLING = {
    "rule": {"name": "ancestral", "variance": "large"},
    "grid": {"name": "schedule", "schedule": {"name": "gamma_cosine"}},
    "steps": 1000,
    "guidance": 1.0,
    "shared_carry": True,
    "threshold": {"name": "static"},
}
POSITIONS = "tape.S{}_pos_emb.Skernel.Svis_pos_embedding"


@readers.register("rin")
@dataclass(frozen=True)
class RINReader(Reader):
    """RIN, class-conditional, from an npz of its TensorFlow checkpoint (arXiv 2212.11972).

    network: the averaged weights (denoiser_ema) or the raw ones. Its shapes show all options; the
    schedule and sampler are those of the released ImageNet sweeps.
    """

    project: ClassVar[str] = "google-research/pix2seq"
    licence: ClassVar[str] = "Apache-2.0"

    network: Literal["denoiser_ema", "denoiser"] = "denoiser_ema"

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        return any(re.match(r"model/denoiser(_ema)?/stem/kernel", name) for name in shapes)

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        start = f"model/{self.network}/"
        shapes = {
            name.removeprefix(start).removesuffix(rin.SUFFIX): tuple(tensor.shape)
            for name, tensor in tensors.items()
            if name.startswith(start)
        }
        denoiser = rin_denoiser(shapes)
        method = {
            "name": "end_to_end",
            "resolutions": [denoiser["resolution"]],
            "denoiser": denoiser,
            "schedule": RIN_SCHEDULE,
            "reference": None,
            "objective": {**OF_NOISE, "self_conditioning": 0.9, "drop": 0.0},
            "sampling": RIN_SAMPLING,
        }
        facts = {"channels": shapes["stem/kernel"][2], "classes": shapes["cond_proj/kernel"][0]}
        facts |= {"text_width": 0, "text_length": 0}
        weights = {
            name: tensor.float() for name, tensor in rin.rename(tensors, self.network).items()
        }
        return Published(method, facts, within("stages.0.denoiser", weights))


def rin_denoiser(shapes: Shapes) -> dict[str, Any]:
    """The node of a RIN, by the names of one of its networks.

    Raises:
        ValueError: where a layer that shows an option is absent.
    """

    def sides(name: str, count: int) -> tuple[int, ...]:
        shape = shapes.get(name, ())
        if len(shape) != count:
            raise ValueError(f"a RIN without {name!r} of {count} sides: the file is not whole")
        return shape

    def numbered(pattern: str) -> int:
        return len({match[1] for name in shapes if (match := re.match(pattern, name))})

    patch, _, _, width = sides("stem/kernel", 4)
    latents, latent_width = sides(POSITIONS.format("latent"), 2)
    patches, _ = sides(POSITIONS.format("tape"), 2)
    thinking = "latent_processing_units/0/enc_layers/"
    write = "write_units/0/dec_layers/0/mlp/mlp_layers/0/dense1/kernel"
    sides("cond_proj/kernel", 2)
    return {
        "name": "rin",
        "width": width,
        "latents": latents + 2,  # with those of the noise level and the class
        "latent_width": latent_width,
        "patch": patch,
        "blocks": numbered(r"read_units/(\d+)/"),
        "depth": numbered(rf"{thinking}(\d+)/"),
        "heads": sides(f"{thinking}0/mha/_query_dense/kernel", 3)[1],
        "read_heads": sides("read_units/0/dec_layers/0/cross_mha/_query_dense/kernel", 3)[1],
        "expansion": sides(write, 2)[1] // width,
        "latent_expansion": sides("latent_prev_proj/mlp_layers/0/dense1/kernel", 2)[1]
        // latent_width,
        "resolution": isqrt(patches) * patch,
    }
