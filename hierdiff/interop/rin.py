"""Reads checkpoints of the released RIN code (google-research/pix2seq, "tape") into our `RIN`.

No weights are published: this reads what that code trains. Its checkpoints are TensorFlow's; a
mapping of name to array is made where TensorFlow is installed, and may be stored as npz or
safetensors (names as they are, or without the last part `/.ATTRIBUTES/VARIABLE_VALUE`):

    reader = tf.train.load_checkpoint(path)
    {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

The matching configurations are `hierdiff/configs/denoiser/rin_*.yaml`: class-conditional, with time
and class as latents. Names were derived from the attributes of the released classes, and confirmed
by saving layers of the same attributes with TensorFlow 2.21 and its Keras 2; no checkpoint of a
full run has been seen. The inner norm of the carried latents is gain (z + bias) here and gain z +
bias there, so that bias is divided by gain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt, prod

import numpy as np
import torch
from torch import Tensor

NETWORKS = ("denoiser_ema", "denoiser")  # averaged weights, raw weights
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_LATENTS = "tape.Slatent_pos_emb.Skernel.Svis_pos_embedding"
_POSITIONS = "tape.Stape_pos_emb.Skernel.Svis_pos_embedding"
_PLACES = {
    "stem": "stem",
    "stem_ln": "stem_norm",
    "time_emb/dense_0": "time.first",
    "time_emb/dense_1": "time.last",
    "cond_proj": "label",
    "latent_prev_proj/mlp_layers/0/dense1": "memory.mlp.0",
    "latent_prev_proj/mlp_layers/0/dense2": "memory.mlp.3",
    "latent_prev_ln": "memory.norm",
    "output_ln": "head.0",
    "output_linear": "head.1",
}
_MEMORY = "latent_prev_proj/layernorms/0"
_LAYER = re.compile(
    r"(read_units|write_units|latent_processing_units)/(\d+)/(?:dec|enc)_layers/(\d+)/(.*)"
)
_PARTS = {
    "cross_ln": "norm",
    "mha_ln": "norm",
    "mlp/layernorms/0": "mlp_norm",
    "mlp/mlp_layers/0/dense1": "mlp.0",
    "mlp/mlp_layers/0/dense2": "mlp.3",
}
_ATTENTION = re.compile(r"(?:cross_mha|mha)/_(query|key|value|output)_dense")
_VECTORS = {"gamma": "weight", "beta": "bias", "bias": "bias"}


def rename(
    state: Mapping[str, Tensor | np.ndarray], network: str = "denoiser_ema"
) -> dict[str, Tensor]:
    """The weights of one network of a checkpoint, under our names and in our shapes.

    network: `denoiser_ema`, the averaged weights, or `denoiser`; all other entries of a checkpoint
    (optimizer, counters, the other network) are left out.

    Raises:
        ValueError: for a checkpoint without that network, and for a variable of another layout than
            the published ones.
    """
    start = f"model/{network}/"
    own = {
        key.removeprefix(start).removesuffix(SUFFIX): torch.as_tensor(value)
        for key, value in state.items()
        if key.startswith(start)
    }
    if not own:
        raise ValueError(f"the checkpoint has no {start}...: choose one of {', '.join(NETWORKS)}")
    ours: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}  # keys and values, of which we have one layer
    for name, value in own.items():
        place, _, kind = name.rpartition("/")
        if name == _LATENTS:
            ours["latents"] = value
        elif name == _POSITIONS:
            ours["positions"] = _grid(value)
        elif place == _MEMORY:
            ours[f"memory.{'gain' if kind == 'gamma' else 'bias'}"] = value
        else:
            prefix, part = _place(place or name)
            if part in ("k", "v"):
                whole = f"{prefix}attention.kv.{'weight' if kind == 'kernel' else 'bias'}"
                halves.setdefault(whole, {})[part] = _array(value, kind, part)
            else:
                layer = f"attention.{part}" if part in ("q", "out") else part
                last = "weight" if kind == "kernel" else _VECTORS[kind]
                ours[f"{prefix}{layer}.{last}"] = _array(value, kind, part)
    ours |= {name: torch.cat([both["k"], both["v"]]) for name, both in halves.items()}
    if "memory.gain" in ours:
        ours["memory.bias"] = _quotient(ours["memory.bias"], ours["memory.gain"])
    return ours


def _place(place: str) -> tuple[str, str]:
    """Our layer for the path of a variable without its kind: what stands before it, and itself.

    Raises:
        ValueError: where no published RIN network has that path.
    """
    if place in _PLACES:
        return "", _PLACES[place]
    if match := _LAYER.fullmatch(place):
        unit, block, number, rest = match.groups()
        own = {"read_units": "read", "write_units": "write"}.get(unit, f"think.{number}")
        prefix = f"blocks.{block}.{own}."
        if rest in _PARTS:
            return prefix, _PARTS[rest]
        if attention := _ATTENTION.fullmatch(rest):
            return prefix, {"query": "q", "key": "k", "value": "v", "output": "out"}[attention[1]]
    raise ValueError(
        f"the published RIN networks have no {place}: read one with time and class on latents, "
        f"learned positions, no convolutions and latent self-conditioning"
    )


def _array(value: Tensor, kind: str, part: str) -> Tensor:
    """Theirs is inputs before outputs, with heads and sizes as axes of their own."""
    if kind != "kernel":
        return value.flatten()
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    inputs = prod(value.shape[:-1]) if part == "out" else value.shape[0]
    return value.reshape(inputs, -1).mT


def _grid(value: Tensor) -> Tensor:
    side = isqrt(len(value))
    if side**2 != len(value):
        raise ValueError(f"{len(value)} positions are of no square image: read one of those")
    return value.mT.reshape(-1, side, side)


def _quotient(bias: Tensor, gain: Tensor) -> Tensor:
    quotient = torch.where(gain == 0, bias, bias / gain)
    if not quotient.is_meta and bool(((gain == 0) & (bias != 0)).any()):
        raise ValueError(f"{_MEMORY} has a gamma of 0 beside another beta, which RIN cannot hold")
    return quotient
