"""Channels last in memory, in which convolutions are faster: of images (4 axes), of clips (5)."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of axes
M = TypeVar("M", bound=nn.Module)


def channels_last(tensor: Tensor) -> Tensor:
    """Images, clips and weights of their convolutions; other tensors stay as they are."""
    layout = FORMATS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


def with_channels_last(module: M) -> M:
    """The module, whose parameters and buffers are laid out so."""
    for part in chain(module.parameters(), module.buffers()):
        part.data = channels_last(part.data)
    return module
