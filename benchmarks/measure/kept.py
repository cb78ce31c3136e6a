"""What a measuring has done so far, in the run folder until the record is written.

Fifty thousand images take hours: after a kill the same command goes on from the last block of
images that was done, with the same bits as without the kill. Rows that are done and the images to
show are in one file; what the metrics need of each block under way is in a file of its own beside
it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from hierdiff.files.atomic import write
from hierdiff.files.reading import check_regular, from_json
from hierdiff.metrics.quality import R
from hierdiff.processes import ALONE, Processes
from hierdiff.resolution import Name, name_of, text_of
from hierdiff.training.format import sha256_of_tensors

log = logging.getLogger(__name__)

FILE = "measuring.safetensors"
ERRORS = (SafetensorError, OSError, ValueError, KeyError, TypeError)  # of a damaged file


class Kept:
    """Rows of what is done, blocks of what is under way, and the images to show.

    path: None keeps nothing. key: of everything that decides the numbers; a file of another key is
    not read, a damaged one is ignored with a warning. processes: which measure together; the first
    one alone reads and writes, and the others are told what it knows.
    """

    def __init__(self, path: Path | None = None, key: str = "", processes: Processes = ALONE):
        self.path = path if processes.first else None
        self.key, self.processes = key, processes
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.shown: dict[Name, UInt8[Tensor, "n c *_sides"]] = {}
        if self.path is not None and self.path.is_file():  # a pipe would be waited for
            self._read(self.path)

    @property
    def folder(self) -> Path | None:
        """Of the blocks."""
        return None if self.path is None else self.path.with_suffix("")

    def once(self, name: str, kind: type[R], make: Callable[[], Sequence[R]]) -> list[R]:
        """The rows of `name`, of one kind: as they were kept, or made now and kept.

        A collective call, which gives all processes the rows of the first one.
        """
        if self.processes.agree(lambda: name not in self.rows):
            rows = [row.plain() for row in make()]
            self.rows[name] = self.processes.agree(lambda: rows)
            self._write()
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
        found = self.processes.agree(lambda: self.rows[name])
        return [kind.read(row) for row in found]

    def show(self, images: Mapping[Name, UInt8[Tensor, "n c *_sides"]]) -> None:
        """Keeps images to show, unless there are some."""
        if not self.shown:
            self.shown = {name: x.clone() for name, x in images.items()}
            self._write()

    def keep(self, what: str, numbers: range, outputs: Mapping[str, Tensor]) -> None:
        """Keeps what the metrics need of the images with these numbers in the stream `what`."""
        if self.folder is not None:
            arrays = {name: rows.numpy() for name, rows in outputs.items()}
            about = {"key": self.key, "what": what}
            _save(self.folder / f"{numbers.start:09}-{numbers.stop:09}.safetensors", arrays, about)

    def blocks(self, what: str) -> Iterator[tuple[range, dict[str, Tensor]]]:
        """The blocks of the stream `what` that were kept, from number 0 on without a gap; those
        after one that is damaged or of another stream are removed."""
        files = sorted(self.folder.glob("*.safetensors")) if self.folder is not None else []
        reached = 0
        for place, path in enumerate(files):
            first, stop = map(int, path.stem.split("-"))
            outputs = self._block(path, what) if first == reached else None
            if outputs is None:
                for one in files[place:]:
                    one.unlink(missing_ok=True)
                return
            reached = stop
            yield range(first, stop), outputs

    def remove(self) -> None:
        """The record is written: nothing is left to go on from."""
        remove_kept(self.path)

    def _block(self, path: Path, what: str) -> dict[str, Tensor] | None:
        """The block in a file; None for one of another stream, or with a warning a damaged one."""
        try:
            arrays, about = _load(path)
            if (about["key"], about["what"]) != (self.key, what):
                return None
        except ERRORS as error:
            log.warning("%s is damaged (%s): its images are made again", path, error)
            return None
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _write(self) -> None:
        if self.path is not None:
            arrays = {
                f"shown/{i}/{text_of(level)}": images.numpy()
                for i, (level, images) in enumerate(self.shown.items())
            }
            _save(self.path, arrays, {"key": self.key, "rows": json.dumps(self.rows)})

    def _read(self, path: Path) -> None:
        try:
            arrays, about = _load(path)
            if about["key"] != self.key:
                log.info("%s is of other weights or options: measured from the start", path)
                return
            self.rows = from_json(about["rows"])
        except ERRORS as error:
            log.warning("%s is damaged (%s): measured from the start", path, error)
            return
        for name in sorted(arrays):
            level = name_of(name.split("/", 2)[2])
            self.shown[level] = torch.from_numpy(arrays[name])


def remove_kept(path: Path | None) -> None:
    """Removes all that a `Kept` of this path has written."""
    if path is not None:
        path.unlink(missing_ok=True)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _save(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> None:
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write(path, save(whole, metadata={**about, "sha256": _digest(whole, about)}))


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    check_regular(path)
    with safe_open(path, "numpy") as file:
        about = dict(file.metadata() or {})
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if about.pop("sha256") != _digest(arrays, about):
        raise ValueError("its content does not match its sha256")
    return arrays, about


def measuring_key(*parts: Any) -> str:
    """One hash of all that decides the numbers of a measuring; parts are hashed by their `repr`."""
    return hashlib.sha256(repr((torch.__version__, *parts)).encode()).hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Of all parameters and buffers, bit by bit."""
    return sha256_of_tensors({k: x.cpu().contiguous() for k, x in module.state_dict().items()})


def _digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
