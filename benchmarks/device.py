"""Where a run computes on this machine, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # a process that is timed needs none of what it imports
    from hierdiff.prepared import Prepared


def device_for(accelerator: str | None) -> torch.device:
    """The device for a value of `trainer.accelerator`: a GPU where there is one, unless "cpu"."""
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def device_of(run: Prepared) -> torch.device:
    """The device of a run."""
    return device_for(run.recipe.accelerator)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The autocast context of a precision such as "bf16-mixed"; none on the meta device."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16"))
