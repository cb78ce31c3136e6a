"""Reads the released autoencoders (CompVis/latent-diffusion, taming-transformers) by name.

Only names differ; every tensor keeps its shape. Ours are those of the convolutional autoencoder
under `hierdiff/configs/autoencoder/`, where every file but the small ones is a released layout.
`rename` reads, `official` writes them back, and `options` says what the shapes show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from hierdiff.interop.names import Names
from hierdiff.interop.published import Shapes

T = TypeVar("T")

WITHIN = "first_stage_model."  # of a whole latent-diffusion checkpoint
LEFT_OUT = ("loss.", "model_ema.")  # adversary and perceptual network; moving averages
CODES = "quantize.embedding.weight"

NAMES = Names(
    ("down.{i}.block.{j}", "down.{i}.blocks.{j}.residual"),
    ("down.{i}.attn.{j}", "down.{i}.blocks.{j}.attention"),
    ("up.{i}.block.{j}", "up.{i}.blocks.{j}.residual"),
    ("up.{i}.attn.{j}", "up.{i}.blocks.{j}.attention"),
    ("down.{i}.downsample", "down.{i}.shrink"),
    ("up.{i}.upsample", "up.{i}.grow"),
    ("mid.block_1", "middle.before"),
    ("mid.attn_1", "middle.attention"),
    ("mid.block_2", "middle.after"),
    ("nin_shortcut", "shortcut"),
    ("attention.proj_out", "attention.out"),
    ("encoder.conv_in", "encoder.first"),
    ("encoder.norm_out", "encoder.norm"),
    ("encoder.conv_out", "encoder.last"),
    ("decoder.conv_in", "decoder.first"),
    ("decoder.norm_out", "decoder.norm"),
    ("decoder.conv_out", "last_layer"),
    ("quant_conv", "to_moments"),
    ("post_quant_conv", "from_latents"),
    ("quantize.embedding", "regulariser.codes"),
)
_BLOCK = re.compile(r"(?:encoder\.down|decoder\.up)\.(\d+)\.block\.(\d+)\.")
_UP = re.compile(r"(?<=^decoder\.up\.)\d+")


def first_stage(state: Mapping[str, T]) -> dict[str, T]:
    """The autoencoder in a whole latent-diffusion checkpoint or in its own, under its names.

    state: tensors, or their shapes. The adversary and moving averages are left out.
    """
    if any(key.startswith(WITHIN) for key in state):
        state = {k.removeprefix(WITHIN): v for k, v in state.items() if k.startswith(WITHIN)}
    return {key: value for key, value in state.items() if not key.startswith(LEFT_OUT)}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict under our names.

    Taken from a whole latent-diffusion checkpoint, the first stage alone (`first_stage`). Names
    that are unknown stay, for a strict load to refuse.
    """
    found = {NAMES.ours(key): tensor for key, tensor in first_stage(state).items()}
    return decoder_turned(found)


def official(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `rename`: weights of our autoencoder under the released names."""
    return {NAMES.theirs(key): tensor for key, tensor in decoder_turned(ours).items()}


def decoder_turned(state: Mapping[str, T]) -> dict[str, T]:
    """With the levels of the decoder counted the other way: released names have the finest first,
    ours and those of diffusers the one that runs first."""
    deepest = max((int(match[0]) for key in state if (match := _UP.search(key))), default=0)
    return {_UP.sub(lambda m: str(deepest - int(m[0])), key): one for key, one in state.items()}


def options(shapes: Shapes, resolution: int) -> dict[str, Any]:
    """Options of our autoencoder that the shapes of a released state dict show.

    resolution: of the training images, from which the sides of attention are counted. A codebook is
    weighted as released (see `hierdiff/configs/autoencoder/vq_*.yaml`).
    """
    width, channels = shapes["encoder.conv_in.weight"][:2]
    numbers = [(int(m[1]), int(m[2])) for key in shapes if (m := _BLOCK.match(key))]
    deepest, last = map(max, zip(*numbers, strict=True)) if numbers else (0, 0)
    levels = range(deepest + 1)
    places = [f"encoder.down.{i}" for i in levels]
    found: dict[str, Any] = {
        "width": width,
        "multiples": [shapes[f"{one}.block.0.conv1.weight"][0] / width for one in places],
        "blocks": last,  # one more on the way up
        "attention_at": [
            resolution // 2**i
            for i, one in zip(levels, places, strict=True)
            if f"{one}.attn.0.norm.weight" in shapes
        ],
        "middle_attention": "encoder.mid.attn_1.norm.weight" in shapes,
        "resolution": resolution,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "channels": channels,
        "regulariser": {"name": "kl"},
    }
    if CODES in shapes:
        codes = shapes[CODES][0]
        found["regulariser"] = {"name": "vq", "codes": codes, "commitment": 1.0, "codebook": 0.25}
    return found
