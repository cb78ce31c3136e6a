"""Weights as a folder for others: `config.json`, `model.safetensors` and a model card.

    from hierdiff.pretrained import from_pretrained, save_pretrained
    save_pretrained("runs/mdm", "mdm-critters")
    method, config = from_pretrained("mdm-critters")

A folder may go to Hugging Face's hub and come back from it (`push_to_hub`, `download=True`), each
only where it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierdiff.pretrained.folder import from_pretrained, push_to_hub, save_pretrained

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]


def __getattr__(name: str) -> Any:  # so that `python -m hierdiff.pretrained --help` loads no torch
    """What `folder` has under one of the names above.

    Raises:
        AttributeError: for another name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hierdiff.pretrained import folder

    return getattr(folder, name)
