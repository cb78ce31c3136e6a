"""Pickles that others wrote: arrays, and the mappings, lists, text and numbers around them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


def unpickled(data: bytes) -> Any:
    """The object of a pickle; nothing in it is called. Text of Python 2 comes as bytes.

    Raises:
        UnpicklingError: for a pickle of anything but arrays and what is around them.
    """
    return _Arrays(io.BytesIO(data), encoding="bytes").load()


class _Arrays(pickle.Unpickler):
    """Makes arrays, and refuses all else that a pickle could call."""

    def find_class(self, module: str, name: str) -> Any:
        """The callables that an array's pickle names.

        Raises:
            UnpicklingError: for any other.
        """
        allowed = {
            **{("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype},
            ("_codecs", "encode"): _encoded,
        }
        rebuild = np.zeros(0).__reduce__()[0]
        for package in ("numpy.core", "numpy._core"):
            allowed[f"{package}.multiarray", "_reconstruct"] = rebuild
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an array")
        return allowed[module, name]


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as pickles of protocol 2 hold them.

    Raises:
        UnpicklingError: for another encoding.
    """
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding}")
    return text.encode("latin1")
