"""Reads the official DiT checkpoints (facebookresearch/DiT) into our `DiT`.

The matching configurations are `hierdiff/configs/denoiser/dit_*.yaml`. Three tensors change beside
their names: the class table has its row of no class first instead of last, the time embedding reads
sines before cosines, and the fixed table of positions is dropped, because it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PLACES = {
    "x_embedder.proj": "patches",
    "t_embedder.mlp": "time",
    "y_embedder.embedding_table": "label",
    "final_layer.linear": "head",
    "final_layer.adaLN_modulation.1": "modulation",
    "adaLN_modulation.1": "modulation",
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict, trained with class dropout, under our names."""
    ours = {_ours(key): tensor for key, tensor in state.items() if key != "pos_embed"}
    if "label.weight" in ours:
        ours["label.weight"] = ours["label.weight"].roll(1, 0)
    if "time.0.weight" in ours:
        cosines, sines = ours["time.0.weight"].chunk(2, dim=1)
        ours["time.0.weight"] = torch.cat([sines, cosines], dim=1)
    return ours


def _ours(key: str) -> str:
    for theirs, place in _PLACES.items():
        key = key.replace(theirs, place)
    return key
