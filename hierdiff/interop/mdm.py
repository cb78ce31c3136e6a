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

_BACK = {ours: theirs for theirs, ours in _PATHS.items()}
_OWN_PLACE = r"((?:inner\.)*)(down|up|middle)\.(\d+)(?:\.(\d+))?"
_OWN_ATTENTION = re.compile(_OWN_PLACE + r"\.attention\.(\d+)\.(.*)")
_OWN_RESIDUAL = re.compile(_OWN_PLACE + r"\.residual\.(.*)")
_OWN_RESAMPLE = re.compile(r"((?:inner\.)*)(shrink|grow)\.(\d+)\.(?:conv\.)?(\w+)")
_OWN_SCALAR = re.compile(r"((?:inner\.)*)scalars\.(\w+)\.(first|last)\.(.*)")
_OWN = re.compile(r"((?:inner\.)*)(.*)\.(\w+)")


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
    places = [match for name in ours if (match := _OWN_ATTENTION.fullmatch(name))]
    layers: dict[str, int] = {}
    for match in places:
        key = f"{match[1]}{match[2]}.{match[3]}"
        layers[key] = max(layers.get(key, 0), int(match[5]) + 1)
    return {_theirs(name, layers): tensor for name, tensor in ours.items()}


def _theirs(name: str, layers: Mapping[str, int]) -> str:
    if match := _OWN_ATTENTION.fullmatch(name):
        prefix, path, i, j, k, rest = match.groups()
        number = int(j or 0) * layers[f"{prefix}{path}.{i}"] + int(k)
        return f"{_whole(prefix)}{_BACK[path]}.{i}.attn.{number}.{_with(_ATTENTION, rest)}"
    if match := _OWN_RESIDUAL.fullmatch(name):
        prefix, path, i, j, rest = match.groups()
        return f"{_whole(prefix)}{_BACK[path]}.{i}.resnets.{j or 0}.{_with(_RESIDUAL, rest)}"
    if match := _OWN_RESAMPLE.fullmatch(name):
        prefix, path, i, rest = match.groups()
        return f"{_whole(prefix)}{'down' if path == 'shrink' else 'up'}_blocks.{i}.resample.{rest}"
    if match := _OWN_SCALAR.fullmatch(name):
        prefix, scalar, layer, rest = match.groups()
        return f"{_whole(prefix)}cond_layers.{scalar}.{int(layer == 'last')}.{rest}"
    match = _OWN.fullmatch(name)
    module = match[2] if match else ""
    theirs = next((theirs for theirs, ours in _PLACES.items() if ours == module), None)
    if match is None or theirs is None:
        raise ValueError(
            f"the official networks have nothing like {name!r}: their layout holds text and scale "
            f"alone"
        )
    return f"{_whole(match[1])}{theirs}.{match[3]}"


def _whole(prefix: str) -> str:
    return prefix.replace("inner.", INNER)


def _with(table: Mapping[str, str], rest: str) -> str:
    """The rest of one of our names, its beginning as theirs."""
    for theirs, ours in table.items():
        if rest.startswith(f"{ours}."):
            return f"{theirs}.{rest.removeprefix(f'{ours}.')}"
    return rest
