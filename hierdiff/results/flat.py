"""The options of a run under flat names, and those that tell runs apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMED = ("seed", "folder", "name")  # options that tell runs apart and do not change the method


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A tree with one level: `{"denoiser.width": 64}`."""
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): node}
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.")
    return leaves
