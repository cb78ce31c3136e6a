"""Reads the official Matryoshka diffusion checkpoints (apple/ml-mdm) into our `UNet`.

Only names differ; every tensor keeps its shape. The matching configurations are
`hierdiff/configs/denoiser/mdm_64.yaml`, `mdm_256.yaml` and `mdm_1024.yaml`. Schedule, shift, input
scale and sampler are those of the official configurations and of the official demo.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from hierdiff.interop.names import Names
from hierdiff.interop.published import Published, Reader, Shapes, part_of, readers, within
from hierdiff.options import Count
from hierdiff.registry import Node

SCHEDULE = {"name": "squared_cosine"}
SHIFTS = {2: 1.0, 3: 2.0}  # of the releases, by their number of levels
INPUT_SCALES = {3: ["none", "sample", "none"]}
SAMPLING = {
    "rule": {"name": "ddim", "eta": 0},
    "grid": {"name": "mdm"},
    "steps": 50,
    "guidance": 7.5,
    "threshold": {"name": "dynamic", "quantile": 0.95, "cap": 1.5},
}
INNER = "inner_unet."

NAMES = Names(
    ("inner_unet", "inner"),
    ("conv_in", "first"),
    ("temb_layer1", "time.first"),
    ("temb_layer2", "time.last"),
    ("lm_proj", "text"),
    ("cond_emb", "pool"),
    ("norm_out", "head.0"),
    ("conv_out", "head.2"),
    ("in_adapter", "into"),
    ("out_adapter", "back"),
    ("cond_layers.{n}.0", "scalars.{n}.first"),
    ("cond_layers.{n}.1", "scalars.{n}.last"),
    ("down_blocks.{i}.resample", "shrink.{i}"),
    ("up_blocks.{i}.resample", "grow.{i}.conv"),
    ("down_blocks.{i}.resnets.{j}", "down.{i}.{j}.residual"),
    ("up_blocks.{i}.resnets.{j}", "up.{i}.{j}.residual"),
    ("mid_blocks.{i}.resnets.0", "middle.{i}.residual"),
    ("residual.time_layer", "residual.film"),
    ("residual.conv3", "residual.shortcut"),
    ("down_blocks.{i}.attn.{j}.{k}", "down.{i}.{j}.attention.{k}"),  # numbers as in `_apart`
    ("up_blocks.{i}.attn.{j}.{k}", "up.{i}.{j}.attention.{k}"),
    ("mid_blocks.{i}.attn.0.{k}", "middle.{i}.attention.{k}"),
    ("attention.{k}.norm_cond", "attention.{k}.text.0"),
    ("attention.{k}.kv_cond", "attention.{k}.text.1"),
    ("attention.{k}.proj_out", "attention.{k}.out"),
)
_KNOWN = {theirs.partition(".")[0] for theirs, _ in NAMES.pairs}
_BLOCK = re.compile(r"(.*?)(down|up|mid)_blocks\.(\d+)\.(resnets|attn)\.(\d+)\.(.*)")
_SCALAR = re.compile(r"(.*?)cond_layers\.(\w+)\.([01])\.(.*)")
_ATTENTION = re.compile(r"(.*_blocks\.\d+\.attn\.)(\d+)(\..*)")
_ATTENTION_APART = re.compile(r"(.*_blocks\.\d+\.attn\.)(\d+)\.(\d+)(\..*)")


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
    return {NAMES.ours(_apart(key, layers)): tensor for key, tensor in state.items()}


def _attention_layers(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Attention blocks after each residual block, by place; official names count them through."""
    counts: dict[str, Counter[str]] = {}
    for key in state:
        if match := _BLOCK.fullmatch(key):
            prefix, path, i, kind, j, _ = match.groups()
            count = counts.setdefault(f"{prefix}{path}_blocks.{i}.attn.", Counter())
            count[kind] = max(count[kind], int(j) + 1)
    return {place: max(1, n["attn"] // max(1, n["resnets"])) for place, n in counts.items()}


def _apart(key: str, layers: Mapping[str, int]) -> str:
    """The number of an attention block as that of its residual block and its own behind it."""
    if (match := _ATTENTION.fullmatch(key)) is None:
        return key
    place, number, rest = match.groups()
    block, own = divmod(int(number), layers[place])
    return f"{place}{block}.{own}{rest}"


@readers.register("mdm")
@dataclass(frozen=True)
class MDMReader(Reader):
    """Matryoshka diffusion of one to three levels (apple/ml-mdm, arXiv 2310.15111).

    resolution: of the innermost level. shift, input_scale: of the release with as many levels where
    they are None (256 px: shift 1; 1024 px: shift 2, and an input scale on its middle level).
    heads: of attention. mask_text: hide padding. text_length: tokens of a caption. text_weights:
    folder of the text encoder, FLAN-T5 XL, which is needed for captions alone.
    """

    project: ClassVar[str] = "apple/ml-mdm"
    licence: ClassVar[str] = "MIT, before 2024-09-04 Apple's; of the weights none is stated"

    resolution: Count = 64
    shift: float | None = None
    input_scale: Sequence[str] | None = None
    heads: Count = 8
    mask_text: bool = False
    text_length: Count = 128
    text_weights: str | None = None

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        return {"temb_layer1.weight", "down_blocks.0.resnets.0.time_layer.weight"} <= shapes.keys()

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        networks = _networks({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        sides = [self.resolution]
        for shapes in reversed(networks[:-1]):
            sides.insert(0, sides[0] * 2 ** (len(_places(shapes, "down", "resnets")) - 1))
        shift = self.shift if self.shift is not None else SHIFTS.get(len(sides), 1.0)
        node: dict[str, Any] = {}
        for side, shapes in zip(reversed(sides), reversed(networks), strict=True):
            node = self._network(shapes, side, shift) | ({"inner": node} if node else {})
        channels = networks[0]["conv_in.weight"][1]
        width = networks[-1].get("lm_proj.weight", (0, 0))[1]
        text = {"name": "t5", "weights": self.text_weights, "length": self.text_length}
        return Published(
            method={
                "name": "mdm",
                "resolutions": sides,
                "denoiser": node,
                "schedule": SCHEDULE,
                "shift": shift if len(sides) > 1 else None,
                "reference": None,
                "objective": {
                    "parameterization": {
                        "prediction": "v",
                        "input_scale": self.input_scale or INPUT_SCALES.get(len(sides), "none"),
                    },
                    "loss_space": "eps",
                    "weight": {"name": "constant"},
                    "level_weights": None,
                },
                "sampling": SAMPLING,
            },
            facts={
                "channels": channels,
                "classes": 0,
                "text_width": width,
                "text_length": self.text_length if width else 0,
            },
            weights=within("stages.0.denoiser", rename(tensors)),
            text={**text, "encode_empty": True} if width else None,
        )

    @override
    def write(self, weights: Mapping[str, Tensor], method: Node) -> dict[str, Tensor]:
        stages = {".".join(name.split(".")[:2]) for name in weights}
        if method.get("name") != "mdm" or len(stages) != 1:
            raise ValueError(
                f"method {method.get('name')!r} of {len(stages)} stages has no layout of "
                f"{self.project}: give weights of an mdm without growth"
            )
        return in_their_layout(part_of(f"{stages.pop()}.denoiser", weights))

    def _network(self, shapes: Shapes, side: int, shift: float) -> dict[str, Any]:
        width = shapes["conv_in.weight"][0]
        down = _places(shapes, "down", "resnets")
        blocks = [len(_places(shapes, "down", "resnets", i)) for i in down]
        layers = [len(_places(shapes, "down", "attn", i)) for i in down]
        widths = [shapes[f"down_blocks.{i}.resnets.0.conv2.weight"][0] for i in down]
        options: dict[str, Any] = {
            "name": "nested_unet",
            "width": width,
            "multiples": [w / width for w in widths],
            "blocks": blocks,
            "attention": [n // blocks[i] for i, n in enumerate(layers)],
            "heads": self.heads,
            "ffn": any(".ffn." in name for name in shapes),
            "middle": any(name.startswith("mid_blocks.") for name in shapes),
            "time_width": shapes["temb_layer1.weight"][0],
            "mask_text": self.mask_text,
            "clock": {"name": "steps", "schedule": self._schedule(side, shift)},
        }
        if any(_SCALAR.fullmatch(name) for name in shapes):
            options["scalars"] = {"scale": float(side)}
        if "lm_proj.weight" in shapes:
            options["text_hidden"] = shapes["lm_proj.weight"][0]
        return options

    def _schedule(self, side: int, shift: float) -> dict[str, Any]:
        if side == self.resolution:
            return SCHEDULE
        ends = {"resolution": side, "reference": self.resolution, "exponent": shift}
        return {"name": "shifted", "base": SCHEDULE, **ends}


def _networks(shapes: Shapes) -> list[Shapes]:
    """The tensors of each level's network, finest first, by their names in it.

    Raises:
        ValueError: where one lacks its first layers.
    """
    inner = {k.removeprefix(INNER): v for k, v in shapes.items() if k.startswith(INNER)}
    own = {name: shape for name, shape in shapes.items() if not name.startswith(INNER)}
    for name in ("conv_in.weight", "temb_layer1.weight", "down_blocks.0.resnets.0.conv2.weight"):
        if len(own.get(name, ())) < 2:
            raise ValueError(f"a network of MDM without {name!r}: the file is not whole")
    return [own, *(_networks(inner) if inner else [])]


def _places(shapes: Shapes, path: str, kind: str, place: int | None = None) -> list[int]:
    """The numbers of the places on a path that have a kind of block, or of those blocks at one.

    Raises:
        ValueError: where a number is left out.
    """
    found: set[int] = set()
    for name in shapes:
        match = _BLOCK.fullmatch(name)
        if match and (match[2], match[4]) == (path, kind) and place in (None, int(match[3])):
            found.add(int(match[3] if place is None else match[5]))
    if found != set(range(len(found))):
        raise ValueError(
            f"a network of MDM whose {path}_blocks have the {kind} {sorted(found)} and none "
            f"between: the file is not whole"
        )
    return sorted(found)


def in_their_layout(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`rename` backwards: our names in the official layout.

    Raises:
        ValueError: for a tensor that no official network has, such as a table of classes.
    """
    theirs = {name: NAMES.theirs(name) for name in ours}
    for name, other in theirs.items():
        if other.split(INNER)[-1].partition(".")[0] not in _KNOWN:
            raise ValueError(
                f"the official networks have nothing like {name!r}: their layout holds text and "
                f"scale alone"
            )
    found = {name: match for name in ours if (match := _ATTENTION_APART.fullmatch(theirs[name]))}
    layers: Counter[str] = Counter()
    for place, _, own, _ in (match.groups() for match in found.values()):
        layers[place] = max(layers[place], int(own) + 1)
    for name, match in found.items():
        place, block, own, rest = match.groups()
        theirs[name] = f"{place}{int(block) * layers[place] + int(own)}{rest}"
    return {theirs[name]: tensor for name, tensor in ours.items()}
