"""NumPy arrays in `.npy` and `.npz` files; no header is believed before it fits its file's size."""

from __future__ import annotations

import hashlib
import io
import math
import os
import weakref
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hierdiff.files.atomic import write
from hierdiff.files.reading import check_regular, damage


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays by name as an `.npz` file without compression, at once."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write(path, buffer.getvalue())


def read_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` file, as read-only pages of the file; a copy where it is empty.

    Raises:
        FileNotFoundError: where there is no file.
        Damaged: whatever else is wrong with it.
    """
    with damage(path):
        check_regular(path)
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file, os.fstat(file.fileno()).st_size)
            if math.prod(shape) > 0:
                order: Any = "F" if fortran else "C"
                return np.memmap(file, dtype, "r", file.tell(), shape, order)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(
    path: Path, names: Collection[str] | None = None, *, limit: int = 2**32
) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file by name.

    names: which arrays are read if they are there, None for all; limit: bytes of all of them.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: `Damaged`, whatever else is wrong with it.
    """
    arrays = {}
    with damage(path):
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            if names is not None:
                members = {name: one for name, one in members.items() if name in names}
            size = sum(member.file_size for member in members.values())
            if size > limit:
                raise ValueError(f"its arrays take {size} bytes, more than {limit}")
            for name, member in members.items():
                content = io.BytesIO(archive.read(member))
                _header(content, len(content.getbuffer()))
                content.seek(0)
                arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    return arrays


class Rows:
    """An array of an `.npz` file, of which some rows are read at a time.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: `Damaged`, whatever else is wrong with the file or the array.
    """

    def __init__(self, path: Path, name: str):
        self.path = path
        with damage(path):
            check_regular(path)
            archive = zipfile.ZipFile(path)
            member = archive.getinfo(f"{name}.npy")
            self._file = archive.open(member)
            weakref.finalize(self, self._file.close)
            self.shape, fortran, self.dtype = _header(self._file, member.file_size)
            if fortran and len(self.shape) > 1:
                raise ValueError("its order is Fortran's: save np.ascontiguousarray of it")
        self._begin = self._file.tell()

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` - 1; `Damaged` is raised where the file does not hold them."""
        shape = (stop - start, *self.shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        with damage(self.path):
            if self._file.tell() != self._begin + start * row:
                self._file.seek(self._begin + start * row)
            content = self._file.read(math.prod(shape) * self.dtype.itemsize)
            return np.frombuffer(content, self.dtype).reshape(shape)


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and contents, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.data)
    return digest.hexdigest()


def names_in(path: Path) -> list[str]:
    """Names of the arrays of an `.npz` file.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: `Damaged`, whatever else is wrong with it.
    """
    with damage(path):
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            return [one.removesuffix(".npy") for one in archive.namelist()]


def _header(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and dtype.

    Raises:
        ValueError: unless the rest of the `size` bytes is exactly that array.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    need = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + need != size:
        raise ValueError(f"{size} bytes do not hold an array {dtype} {shape}")
    return shape, fortran, dtype
