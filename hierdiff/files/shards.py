"""A large array in files of some rows each, made by as many processes as there are, read by rows.

A folder holds `00000-of-00012.npy`, ... and an `index.json` of their common shape. Each file is
made once, by one process, and sealed: a process that was killed loses the file that it was at, and
the others of a run, or of another one, make the rest meanwhile.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierdiff.files.cache import kept_array
from hierdiff.files.digest import write_json

BYTES = 2**28  # of a file, about


class Shards:
    """The array: a shape, a length, and rows by number.

    files: arrays of `rows` rows, the last one maybe of fewer.
    """

    def __init__(self, files: Sequence[np.ndarray], rows: int):
        self.files, self.rows = tuple(files), rows
        self.shape = (sum(map(len, files)), *files[0].shape[1:])
        self.dtype = files[0].dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, at: Any) -> np.ndarray:
        """A copy of rows, by a number, a slice or an array of numbers."""
        places = np.arange(len(self))[at]
        flat = np.atleast_1d(places)
        found = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for number in np.unique(flat // self.rows).tolist():
            inside = flat // self.rows == number
            found[inside] = self.files[number][flat[inside] - number * self.rows]
        return found if np.ndim(places) else found[0]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All rows in order."""
        for first in range(0, len(self), size):
            yield self[first : first + size]


def kept_shards(
    folder: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    make: Callable[[int, int], Iterable[np.ndarray]],
    *,
    step: int = 1,
    size: int = BYTES,
) -> Shards:
    """The array in `folder`; files that are not there whole are written from `make`.

    make: rows `first` to `stop` - 1 in batches; `first` is a multiple of step. size: of a file in
    bytes, about. Of the processes of one run each begins with files of its own, and takes what the
    others have not begun after that.

    Raises:
        OSError: where the disk is full or a file cannot be read back.
    """
    row = math.prod(shape[1:]) * dtype.itemsize
    rows = max(size // max(row, 1) // step, 1) * step
    starts = range(0, shape[0], rows)
    rank, ranks = (int(os.environ.get(name, one)) for name, one in (("RANK", 0), ("WORLD_SIZE", 1)))
    files: dict[int, np.ndarray] = {}
    for number in (*range(rank % ranks, len(starts), ranks), *range(len(starts))):
        if number not in files:
            first, stop = starts[number], min(starts[number] + rows, shape[0])
            path = folder / f"{number:05d}-of-{len(starts):05d}.npy"
            files[number] = kept_array(path, (stop - first, *shape[1:]), dtype, make(first, stop))
    index = folder / "index.json"
    if not index.exists():
        write_json(index, {"shape": list(shape), "dtype": dtype.str, "rows": rows})
    return Shards([files[number] for number in range(len(starts))], rows)
