"""Reads the official Matryoshka diffusion checkpoints (apple/ml-mdm) into our `UNet`.

Only names differ; every tensor keeps its shape. The matching configurations are
`hierdiff/configs/denoiser/mdm_64.yaml`, `mdm_256.yaml` and `mdm_1024.yaml`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

_PLACES = {
    "temb_layer1": "time.first",
    "temb_layer2": "time.last",
    "lm_proj": "text",
    "cond_emb": "pool",
    "conv_in": "first",
    "norm_out": "head.0",
    "conv_out": "head.2",
    "in_adapter": "into",
    "out_adapter": "back",
    "inner_unet": "inner",
}
_RESIDUAL = {"time_layer": "film", "conv3": "shortcut"}
_ATTENTION = {"norm_cond": "text.0", "kv_cond": "text.1", "proj_out": "out"}
_PATHS = {"down_blocks": "down", "up_blocks": "up", "mid_blocks": "middle"}

_BLOCK = re.compile(r"(.*?)(down|up|mid)_blocks\.(\d+)\.(resnets|attn)\.(\d+)\.(.*)")
_RESAMPLE = re.compile(r"(.*?)(down|up)_blocks\.(\d+)\.resample\.(.*)")
_SCALAR = re.compile(r"(.*?)cond_layers\.(\w+)\.([01])\.(.*)")


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict under our names.

    Raises:
        ValueError: for a micro-condition other than `scale`, which no data here has.
    """
    other = {match[2] for key in state if (match := _SCALAR.fullmatch(key))} - {"scale"}
    if other:
        raise ValueError(
            f"the network was trained with the micro-condition {min(other)!r}, and data here gives "
            f"none but 'scale': choose a checkpoint without it"
        )
    layers = _attention_layers(state)
    return {_ours(key, layers): tensor for key, tensor in state.items()}


def _attention_layers(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Attention blocks after each residual block, by place; official names count them through."""
    counts: dict[str, Counter[str]] = {}
    for key in state:
        if match := _BLOCK.fullmatch(key):
            prefix, path, i, kind, j, _ = match.groups()
            count = counts.setdefault(f"{prefix}{path}{i}", Counter())
            count[kind] = max(count[kind], int(j) + 1)
    return {place: count["attn"] // max(1, count["resnets"]) for place, count in counts.items()}


def _ours(key: str, layers: Mapping[str, int]) -> str:
    if match := _BLOCK.fullmatch(key):
        prefix, path, i, kind, j, rest = match.groups()
        place = f"{_outer(prefix)}{_PATHS[path + '_blocks']}.{i}"
        head, _, tail = rest.partition(".")
        if kind == "resnets":
            block = f"{place}.{j}" if path != "mid" else place
            return f"{block}.residual.{_RESIDUAL.get(head, head)}.{tail}"
        per = max(1, layers[f"{prefix}{path}{i}"])
        block = f"{place}.{int(j) // per}" if path != "mid" else place
        return f"{block}.attention.{int(j) % per}.{_ATTENTION.get(head, head)}.{tail}"
    if match := _RESAMPLE.fullmatch(key):
        prefix, path, i, rest = match.groups()
        return f"{_outer(prefix)}{'shrink' if path == 'down' else 'grow'}.{i}." + (
            rest if path == "down" else f"conv.{rest}"
        )
    if match := _SCALAR.fullmatch(key):
        prefix, name, i, rest = match.groups()
        return f"{_outer(prefix)}scalars.{name}.{'first' if i == '0' else 'last'}.{rest}"
    return ".".join(_PLACES.get(part, part) for part in key.split("."))


def _outer(prefix: str) -> str:
    return prefix.replace("inner_unet", "inner")
