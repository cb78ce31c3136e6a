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

from hierdiff.interop import inverted
from hierdiff.interop.published import Shapes

T = TypeVar("T")

WITHIN = "first_stage_model."  # of a whole latent-diffusion checkpoint
LEFT_OUT = ("loss.", "model_ema.")  # adversary and perceptual network; moving averages
CODES = "quantize.embedding.weight"

_LEVEL = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(block|attn)\.(\d+)\.(.*)")
_RESAMPLE = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(?:down|up)sample\.(.*)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)\.(.*)")
_OUR_LEVEL = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(.*)")
_OUR_BLOCK = re.compile(r"blocks\.(\d+)\.(residual|attention)\.(.*)")
_OUR_MIDDLE = re.compile(r"(encoder|decoder)\.middle\.(before|attention|after)\.(.*)")
_KINDS = {"block": "residual", "attn": "attention"}
_PLACES = {"block_1": "before", "attn_1": "attention", "block_2": "after"}
_LAYERS = {"nin_shortcut": "shortcut", "proj_out": "out"}
_ENDS = {
    "encoder.conv_in": "encoder.first",
    "encoder.norm_out": "encoder.norm",
    "encoder.conv_out": "encoder.last",
    "decoder.conv_in": "decoder.first",
    "decoder.norm_out": "decoder.norm",
    "decoder.conv_out": "last_layer",
    "quant_conv": "to_moments",
    "post_quant_conv": "from_latents",
    "quantize.embedding": "regulariser.codes",
}


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
    state = first_stage(state)
    deepest = _deepest(state)
    return {_ours(key, deepest): tensor for key, tensor in state.items()}


def official(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `rename`: weights of our autoencoder under the released names."""
    levels = [int(match[2]) for key in ours if (match := _OUR_LEVEL.match(key))]
    deepest = max(levels, default=0)
    return {_theirs(key, deepest): tensor for key, tensor in ours.items()}


def options(shapes: Shapes, resolution: int) -> dict[str, Any]:
    """Options of our autoencoder that the shapes of a released state dict show.

    resolution: of the training images, from which the sides of attention are counted. A codebook is
    weighted as released (see `hierdiff/configs/autoencoder/vq_*.yaml`).
    """
    width, channels = shapes["encoder.conv_in.weight"][:2]
    levels = range(_deepest(shapes) + 1)
    places = [f"encoder.down.{i}" for i in levels]
    blocks = [int(match[4]) for key in shapes if (match := _LEVEL.fullmatch(key))]
    found: dict[str, Any] = {
        "width": width,
        "multiples": [shapes[f"{one}.block.0.conv1.weight"][0] / width for one in places],
        "blocks": max(blocks),  # one more on the way up
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


def _deepest(state: Mapping[str, Any]) -> int:
    levels = [int(match[2]) for key in state if (match := _LEVEL.fullmatch(key))]
    return max(levels, default=0)


def _ours(key: str, deepest: int) -> str:
    """Theirs counts levels from the finest; ours counts the decoder's in the order they run."""

    def path(part: str, level: str) -> str:
        return (
            f"encoder.down.{level}" if part == "encoder" else f"decoder.up.{deepest - int(level)}"
        )

    if match := _LEVEL.fullmatch(key):
        part, level, kind, j, rest = match.groups()
        return f"{path(part, level)}.blocks.{j}.{_KINDS[kind]}.{_layer(rest)}"
    if match := _RESAMPLE.fullmatch(key):
        part, level, rest = match.groups()
        return f"{path(part, level)}.{'shrink' if part == 'encoder' else 'grow'}.{rest}"
    if match := _MIDDLE.fullmatch(key):
        part, place, rest = match.groups()
        return f"{part}.middle.{_PLACES[place]}.{_layer(rest)}"
    module, _, leaf = key.rpartition(".")
    return f"{_ENDS.get(module, module)}.{leaf}" if module else key


def _theirs(key: str, deepest: int) -> str:
    """The inverse of `_ours`."""
    if match := _OUR_LEVEL.fullmatch(key):
        part, level, rest = match.groups()
        way = "down" if part == "encoder" else "up"
        place = f"{part}.{way}.{level if part == 'encoder' else deepest - int(level)}"
        if block := _OUR_BLOCK.fullmatch(rest):
            j, kind, layer = block.groups()
            return f"{place}.{inverted(_KINDS)[kind]}.{j}.{_layer(layer, inverted(_LAYERS))}"
        return f"{place}.{way}sample.{rest.partition('.')[2]}"
    if match := _OUR_MIDDLE.fullmatch(key):
        part, place, rest = match.groups()
        return f"{part}.mid.{inverted(_PLACES)[place]}.{_layer(rest, inverted(_LAYERS))}"
    module, _, leaf = key.rpartition(".")
    return f"{inverted(_ENDS).get(module, module)}.{leaf}"


def _layer(rest: str, layers: Mapping[str, str] = _LAYERS) -> str:
    head, _, leaf = rest.partition(".")
    return f"{layers.get(head, head)}.{leaf}"
