"""What a measuring has done so far, in the run folder until the record is written.

Fifty thousand images take hours: after a kill the same command goes on from the last batch that was
kept, with the same bits as without the kill, because image i has noise of its own and batches end
where they would have ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from hierdiff.files.atomic import write
from hierdiff.files.reading import from_json
from hierdiff.levels import Name, name_of, text_of
from hierdiff.metrics.quality import R

log = logging.getLogger(__name__)

FILE = "measuring.safetensors"
EVERY = 60.0  # seconds of measuring between two writes
SHARE = 20  # and so many times as long as the last write took


class Kept:
    """Rows of what is done, the state of what is under way, and the images to show.

    path: None keeps nothing. key: of everything that decides the numbers; a file of another key is
    not read, a damaged one is ignored with a warning. every: seconds between two writes, None: as
    `EVERY` says.
    """

    def __init__(self, path: Path | None = None, key: str = "", *, every: float | None = None):
        self.path, self.key, self.every = path, key, EVERY if every is None else every
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.state: dict[str, np.ndarray] = {}
        self.shown: dict[Name, UInt8[Tensor, "n c *_sides"]] = {}
        self._next = time.monotonic() + self.every
        if path is not None and path.is_file():  # a pipe would be waited for
            self._read(path)

    def once(self, name: str, kind: type[R], make: Callable[[], Sequence[R]]) -> list[R]:
        """The rows of `name`, of one kind: as they were kept, or made now and kept."""
        if name not in self.rows:
            self.rows[name] = [row.plain() for row in make()]
            self.state = {}
            self._write()
        return [kind.read(row) for row in self.rows[name]]

    def keep(self, state: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Keeps the state of what is under way, if the last time is long enough ago."""
        if self.path is not None and time.monotonic() >= self._next:
            self.state = dict(state())
            self._write()

    def remove(self) -> None:
        """The record is written: nothing is left to go on from."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self.path is None:
            return
        started = time.monotonic()
        arrays = {f"state/{name}": array for name, array in self.state.items()}
        for i, (level, images) in enumerate(self.shown.items()):
            arrays[f"shown/{i}/{text_of(level)}"] = images.numpy()
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        rows = json.dumps(self.rows)
        about = {"key": self.key, "rows": rows, "sha256": _digest(arrays, self.key, rows)}
        write(self.path, save(arrays, metadata=about))
        ended = time.monotonic()
        self._next = ended + max(self.every, SHARE * (ended - started) if self.every else 0.0)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["sha256"] != _digest(arrays, about["key"], about["rows"]):
                raise ValueError("its content does not match its sha256")
            if about["key"] != self.key:
                log.info("%s is of other weights or options: measured from the start", path)
                return
            self.rows = from_json(about["rows"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s): measured from the start", path, error)
            return
        for name in sorted(arrays):
            kind, _, rest = name.partition("/")
            if kind == "state":
                self.state[rest] = arrays[name]
            else:
                self.shown[name_of(rest.partition("/")[2])] = torch.from_numpy(arrays[name])


def measuring_key(*parts: Any) -> str:
    """One hash of all that decides the numbers of a measuring; parts are hashed by their `repr`."""
    return hashlib.sha256(repr((torch.__version__, *parts)).encode()).hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Of all parameters and buffers, bit by bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _digest(arrays: Mapping[str, np.ndarray], *texts: str) -> str:
    digest = hashlib.sha256(repr(texts).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
