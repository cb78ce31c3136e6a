"""Values in JSON's types, exactly, and the hash of them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any


def plain(value: Any, where: str, free: bool = False) -> Any:
    """`value` in JSON's types, exactly; where: its place in the record, for errors.

    free: write what JSON has no type for, also inf and nan, as text.

    Raises:
        ValueError: for inf or nan.
        TypeError: for what JSON has no type for.
    """
    if value is None or isinstance(value, (str, bool)) or type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):  # before the slower questions
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(child, f"{where}.{key}", free) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child, f"{where}[{i}]", free) for i, child in enumerate(value)]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if free or isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Real):
        raise ValueError(f"{where} is {value}: write None for what was not measured")
    raise TypeError(f"{where} is a {type(value).__name__}: a record holds numbers, text and lists")


def content_hash(content: Any) -> str:
    """SHA-256 of the values, whatever the order of keys and the layout of the file."""
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
).encode
