"""Reads the official checkpoints of latent diffusion, Stable Diffusion 1 and 2, SDXL and ADM into
our `LDMUNet`.

CompVis/latent-diffusion and openai/guided-diffusion share one layout, and so do our modules: places
keep their numbers. What changes beside names: queries, keys and values that stand alone are joined;
plain attention stores them head by head in the older order; the time embedding reads sines before
cosines, and so do SDXL's micro-conditions; the class table begins with its row of no class. The
matching configurations are `hierdiff/configs/denoiser/{ldm,sd,adm}_*.yaml` and `sdxl*.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from hierdiff.interop.names import Names
from hierdiff.interop.published import Shapes

T = TypeVar("T")

NAMES = Names(
    ("input_blocks", "down"),
    ("middle_block", "middle"),
    ("output_blocks", "up"),
    ("time_embed.0", "time.first"),
    ("time_embed.2", "time.last"),
    ("label_emb.0.0", "scalars.first"),
    ("label_emb.0.2", "scalars.last"),
    ("label_emb", "label"),
    ("out.0", "head.0"),
    ("out.2", "head.2"),
    # residual blocks
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "vector"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "shortcut"),
    # layers that see the image alone
    ("down.0.0", "down.0.0.layer"),
    ("op", "layer"),
    ("conv", "layer.conv"),
    # spatial transformers
    ("proj_in", "enter"),
    ("proj_out", "leave"),
    ("transformer_blocks", "blocks"),
    ("attn1.to_out.0", "out"),
    ("attn2.to_out.0", "read"),
    ("attn2.to_q", "query"),
    ("ff.net.0.proj", "expand"),
    ("ff.net.2", "contract"),
)
_JOINED = ((".attn1.to_{}.", "qkv", ".qkv."), (".attn2.to_{}.", "kv", ".text."))
_PLAIN = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
_ONE_BY_ONE = re.compile(r"\.(enter|leave|layer\.qkv|layer\.out)\.weight$")

_GROWN = re.compile(r"output_blocks\.\d+\.[12]\.(?:conv|in_layers\.0)\.weight")  # doubles the side

_UNET = "model.diffusion_model."
_CLASSES = "cond_stage_model.embedding.weight"
_TOLD = "label_emb.0.0.weight"  # of SDXL: pooled text, then sines and cosines of each scalar
_BOTH = ("original_height", "original_width", "crop_top", "crop_left")
SCALARS = ((*_BOTH, "target_height", "target_width"), (*_BOTH, "aesthetic_score"))  # and refiner
FOURIER, POOLED = 256, 1280  # features of a scalar, width of the pooled text


def rename(
    state: Mapping[str, Tensor],
    *,
    heads: int = 1,
    head_width: int | None = None,
    new_order: bool = False,
    null_class: bool = False,
    fourier: int = FOURIER,
    pooled: int = POOLED,
) -> dict[str, Tensor]:
    """An official state dict, of the U-Net alone or of all of latent diffusion, under our names.

    heads, head_width: as the network has them, used for plain attention unless it is in the
    `new_order` (`use_new_attention_order`). null_class: the last row of the class table stands for
    no class (LDM-4 on ImageNet); if not, no class is a row of zeros, which was never trained.
    fourier, pooled: as in `told`.
    """
    theirs = unet(state)
    ours: dict[str, Tensor] = {}
    for key, tensor in theirs.items():
        *place, layer, leaf = key.split(".")
        if ".".join([*place, "qkv", "weight"]) in theirs and layer in _PLAIN:
            if layer == "qkv" and not new_order:
                m = len(tensor) // (3 * head_width) if head_width else heads
                tensor = rearrange(tensor, "(m n d) ... -> (n m d) ...", n=3, m=m)
            name = NAMES.ours(".".join([*place, "layer", _PLAIN[layer], leaf]))
        elif (joined := _joined(key, theirs)) is not None:
            name, tensor = joined
        else:
            continue
        ours[name] = _convolution(tensor) if _ONE_BY_ONE.search(name) else tensor
    if "time.first.weight" in ours:
        ours["time.first.weight"] = _sines_first(ours["time.first.weight"])
    if "scalars.first.weight" in ours:
        weight = ours["scalars.first.weight"]
        text, waves = weight[:, :pooled], weight[:, pooled:].split(fourier, dim=1)
        ours["scalars.first.weight"] = torch.cat([text, *map(_sines_first, waves)], dim=1)
    if "label.weight" in ours:
        table = ours["label.weight"]
        none = torch.zeros_like(table[:1])
        ours["label.weight"] = table.roll(1, 0) if null_class else torch.cat([none, table])
    return ours


def options(shapes: Shapes) -> dict[str, Any]:
    """Options of our `LDMUNet` that the shapes of an official U-Net show (see `unet`).

    Without `heads`, which none shows, the clock, and what `told` gives.

    Raises:
        ValueError: for transformers of several depths at one side.
    """
    width = shapes["input_blocks.0.0.weight"][0]
    grown = [key for key in shapes if _GROWN.fullmatch(key)]
    levels = len(grown) + 1
    blocks = 1 + max(_numbers(shapes, r"output_blocks\.(\d+)\."))
    blocks = blocks // levels - 1
    first = [f"input_blocks.{1 + i * (blocks + 1)}" for i in range(levels)]  # of each level
    found: dict[str, Any] = {
        "name": "ldm_unet",
        "width": width,
        "multiples": [shapes[f"{one}.0.out_layers.3.weight"][0] / width for one in first],
        "blocks": blocks,
        "attention": [int(f"{one}.1.norm.weight" in shapes) for one in first],
        "transformer": any(".transformer_blocks." in key for key in shapes),
        "middle_attention": "middle_block.1.norm.weight" in shapes,
        "scale_shift": (
            shapes["middle_block.0.emb_layers.1.weight"][0]
            == 2 * shapes["middle_block.0.out_layers.3.weight"][0]
        ),
        "resample_blocks": any(key.endswith(".in_layers.0.weight") for key in grown),
        "learned_variance": shapes["out.2.weight"][0] == 2 * shapes["input_blocks.0.0.weight"][1],
    }
    if found["transformer"]:
        found["depth"] = _depth(shapes, first)
    return found


def _depth(shapes: Shapes, first: Sequence[str]) -> int | list[int]:
    """One number or, as in SDXL, one for each level, the middle's being the last."""
    places = {key.partition(".transformer_blocks.")[0] for key in shapes if "_blocks." in key}
    depths = {
        place: 1 + max(_numbers(shapes, rf"{re.escape(place)}\.transformer_blocks\.(\d+)\."))
        for place in places
        if f"{place}.transformer_blocks.0.norm1.weight" in shapes
    }
    if len({*depths.values()}) == 1:
        return next(iter(depths.values()))
    levels = [depths.get(f"{one}.1", 0) for one in first]
    return [*levels[:-1], _only("depth at its bottom", {levels[-1], depths["middle_block.1"]})]


def is_told(shapes: Shapes) -> bool:
    """Whether a U-Net, alone or in a whole checkpoint, reads the micro-conditions of SDXL."""
    return _TOLD in shapes or f"{_UNET}{_TOLD}" in shapes


def told(shapes: Shapes, fourier: int = FOURIER, pooled: int = POOLED) -> dict[str, Any]:
    """Options of our `LDMUNet` for the pooled text and the scalars that a U-Net of SDXL reads.

    Empty for one that is none. fourier: features of a scalar; pooled: width of the pooled text.

    Raises:
        ValueError: for another number of scalars than the base and the refiner have.
    """
    if _TOLD not in shapes:
        return {}
    count = (shapes[_TOLD][1] - pooled) / fourier
    for names in SCALARS:
        if len(names) == count:
            vectors = {"pooled_text": pooled}
            return {"fourier": fourier, "scalars": list(names), "vectors": vectors}
    raise ValueError(
        f"the U-Net reads {shapes[_TOLD][1]} numbers beside the time, which are not a pooled text "
        f"of {pooled} and {fourier} features of 6 scalars (SDXL) or of 5 (its refiner)"
    )


def context(shapes: Shapes) -> int:
    """Width of the tokens that cross-attention reads; 0 where there is none.

    Raises:
        ValueError: where there are several, as of self-attention in the place of cross-attention.
    """
    widths = {shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight")}
    return _only("width of its context", widths) if widths else 0


def _only(what: str, values: Iterable[int]) -> int:
    found = sorted(set(values))
    if len(found) != 1:
        raise ValueError(f"the U-Net has more than one {what} ({found}): it is none that is read")
    return found[0]


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    return [int(match[1]) for key in shapes if (match := re.match(pattern, key))]


def unet(state: Mapping[str, T]) -> dict[str, T]:
    """The U-Net of a whole checkpoint and its class table; the averaged weights where it has them.

    state: tensors, or their shapes. A state dict of the U-Net alone is given back.
    """
    if not any(key.startswith(_UNET) for key in state):
        return dict(state)
    found = {}
    for key in state:
        if key.startswith(_UNET):
            name = key.removeprefix("model.").replace(".", "")
            found[key.removeprefix(_UNET)] = state.get(f"model_ema.{name}", state[key])
    if _CLASSES in state:
        found["label_emb.weight"] = state[_CLASSES]
    return found


def _joined(key: str, theirs: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """A tensor with those that ours has behind it; None for what stands behind another."""
    for pattern, parts, name in _JOINED:
        names = [pattern.format(part) for part in parts]
        if names[0] in key:
            tensors = [theirs[key.replace(names[0], other)] for other in names]
            return NAMES.ours(key.replace(names[0], name)), torch.cat(tensors)
        if any(other in key for other in names):
            return None
    return NAMES.ours(key), theirs[key]


def _sines_first(weight: Tensor) -> Tensor:
    """Of a map that reads cosines, then sines."""
    cosines, sines = weight.chunk(2, dim=1)
    return torch.cat([sines, cosines], dim=1)


def _convolution(weight: Tensor) -> Tensor:
    """A linear map, or a convolution along one axis, as one of 1 x 1."""
    return weight.reshape(*weight.shape[:2], 1, 1)
