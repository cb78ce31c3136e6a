"""Reads the official DiT and SiT checkpoints into our `DiT`, and writes them in that layout.

facebookresearch/DiT and willisma/SiT have the same names. The matching configurations are
`hierdiff/configs/denoiser/{dit,sit}_*.yaml`. Three tensors change beside their names: the class
table has its row of no class first instead of last, the time embedding reads sines before cosines,
and the fixed table of positions is left out, because it is computed. SiT's network gives image
minus noise, which is minus our u: its head changes sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierdiff.interop.names import Names
from hierdiff.interop.published import Shapes

POSITIONS = "pos_embed"
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published widths: S, B, L, XL
NAMES = Names(
    ("x_embedder.proj", "patches"),
    ("t_embedder.mlp", "time"),
    ("y_embedder.embedding_table", "label"),
    ("final_layer.linear", "head"),
    ("final_layer.adaLN_modulation.1", "modulation"),
    ("blocks.{i}.adaLN_modulation.1", "blocks.{i}.modulation"),
    ("blocks.{i}.attn.qkv", "blocks.{i}.qkv"),
    ("blocks.{i}.attn.proj", "blocks.{i}.out"),
    ("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.0"),
    ("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.2"),
)


def rename(state: Mapping[str, Tensor], *, velocity: bool = False) -> dict[str, Tensor]:
    """An official state dict, trained with class dropout, under our names.

    velocity: of SiT, whose prediction is minus ours.
    """
    ours = {NAMES.ours(key): value for key, value in state.items() if key != POSITIONS}
    if "label.weight" in ours:
        ours["label.weight"] = ours["label.weight"].roll(1, 0)
    return _changed(ours, "time.0.weight", "head", velocity)


def official(ours: Mapping[str, Tensor], side: int, *, velocity: bool = False) -> dict[str, Tensor]:
    """The inverse of `rename`: weights of our `DiT` as an official state dict.

    side: of the states that it denoises, which the table of positions is for.
    """
    theirs = {NAMES.theirs(key): value for key, value in ours.items()}
    table = "y_embedder.embedding_table.weight"
    if table in theirs:
        theirs[table] = theirs[table].roll(-1, 0)
    width, _, patch, _ = theirs["x_embedder.proj.weight"].shape
    theirs[POSITIONS] = torch.from_numpy(positions(side // patch, width)).float()[None]
    return _changed(theirs, "t_embedder.mlp.0.weight", "final_layer.linear", velocity)


def options(shapes: Shapes) -> dict[str, Any]:
    """Options of our `DiT` that the shapes of an official state dict show.

    Without `heads`, which none shows (`HEADS` has those of the published widths), and the clock.
    """
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    blocks = [int(match[1]) for key in shapes if (match := re.match(r"blocks\.(\d+)\.", key))]
    return {
        "name": "dit",
        "width": width,
        "depth": max(blocks, default=-1) + 1,
        "patch": patch,
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / width,
        "learned_variance": shapes["final_layer.linear.weight"][0] == 2 * channels * patch**2,
    }


def facts(shapes: Shapes) -> dict[str, int]:
    """Channels of the state and number of classes, without the row of none."""
    return {
        "channels": shapes["x_embedder.proj.weight"][1],
        "classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
    }


def side(shapes: Shapes) -> int:
    """The side of the states that the network was trained on, from its table of positions.

    Raises:
        ValueError: for a table of another form.
    """
    width, _, patch, _ = shapes["x_embedder.proj.weight"]
    table = tuple(shapes[POSITIONS])
    tokens = isqrt(table[1]) if len(table) == 3 else 0
    if not tokens or table != (1, tokens**2, width):
        raise ValueError(
            f"{POSITIONS} of shape {table} is no table of a square of tokens {width} wide: the "
            f"file is damaged, or of another layout"
        )
    return tokens * patch


def positions(side: int, width: int) -> np.ndarray:
    """(side^2, width) float64: sines and cosines of the column, then of the row.

    As official code computes the table that a checkpoint stores rounded to float32.
    """
    rates = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    angles = np.arange(side)[:, None] * rates
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.divmod(np.arange(side**2), side)
    return np.concatenate([waves[columns], waves[rows]], axis=1)


def _changed(state: dict[str, Tensor], time: str, head: str, velocity: bool) -> dict[str, Tensor]:
    """Halves of the time embedding exchanged and, for SiT, the head's sign: its own inverse."""
    if time in state:
        first, last = state[time].chunk(2, dim=1)
        state[time] = torch.cat([last, first], dim=1)
    if velocity:
        for leaf in ("weight", "bias"):
            state[f"{head}.{leaf}"] = -state[f"{head}.{leaf}"]
    return state
