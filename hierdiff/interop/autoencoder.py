"""Reads the released autoencoders (CompVis/latent-diffusion, taming-transformers) by name.

Only names differ; every tensor keeps its shape. Ours are those of the convolutional autoencoder
under `hierdiff/configs/autoencoder/`, where every file but the small ones is a released layout.
`python -m baselines.latent.convert` makes weights of a released file that a run can take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

WITHIN = "first_stage_model."  # of a whole latent-diffusion checkpoint
LEFT_OUT = ("loss.", "model_ema.")  # adversary and perceptual network; moving averages

_LEVEL = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(block|attn)\.(\d+)\.(.*)")
_RESAMPLE = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(?:down|up)sample\.(.*)")
_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)\.(.*)")
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


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict under our names.

    Taken from a whole latent-diffusion checkpoint, the first stage alone. What is no part of the
    autoencoder is left out; names that are unknown stay, for a strict load to refuse.
    """
    if any(key.startswith(WITHIN) for key in state):
        state = {k.removeprefix(WITHIN): v for k, v in state.items() if k.startswith(WITHIN)}
    state = {key: value for key, value in state.items() if not key.startswith(LEFT_OUT)}
    levels = [int(match[2]) for key in state if (match := _LEVEL.fullmatch(key))]
    deepest = max(levels, default=0)
    return {_ours(key, deepest): tensor for key, tensor in state.items()}


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


def _layer(rest: str) -> str:
    head, _, leaf = rest.partition(".")
    return f"{_LAYERS.get(head, head)}.{leaf}"
