"""Weights as a folder for others: `config.json`, `model.safetensors` and a model card.

    from hierdiff.pretrained import from_pretrained, save_pretrained
    save_pretrained("runs/mdm", "mdm-critters")
    method, config = from_pretrained("mdm-critters")

A folder may go to Hugging Face's hub and come back from it (`push_to_hub`, `download=True`), each
only where it is asked for.
"""

from __future__ import annotations

from hierdiff.pretrained.folder import from_pretrained, push_to_hub, save_pretrained

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]
