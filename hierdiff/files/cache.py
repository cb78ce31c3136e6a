"""Files that one process builds while others wait, and arrays that are kept in them."""

from __future__ import annotations

import glob
import hashlib
import io
import logging
import math
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from hierdiff.files.arrays import read_npy
from hierdiff.files.atomic import raise_write_error, write_pieces
from hierdiff.files.digest import check_seal, seal
from hierdiff.files.reading import Damaged

log = logging.getLogger(__name__)


@contextmanager
def built_by_one(place: Path) -> Iterator[Path]:
    """A new name beside `place` to build it under; other processes that build it wait meanwhile.

    What is left under that name is removed, and so is what killed builders left. Where the file
    system has no locks, all build, each under a name of its own.

    Raises:
        OSError: where the folder cannot be written to, with what to do (`raise_write_error`).
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_write_error(error, place, 0)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process, which makes %s", place)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        log.info("%s cannot be locked (%s): other processes may build it as well", place, error)
    part = place.with_name(f".{place.name}.{secrets.token_hex(8)}.part")
    try:
        if lock.is_locked:
            for left in place.parent.glob(f".{glob.escape(place.name)}.*.part"):
                remove(left)
        yield part
    finally:
        remove(part)
        if lock.is_locked:  # whoever waits sees that its file is gone, and takes a new one
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def kept_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, batches: Iterable[np.ndarray]
) -> np.ndarray:
    """The array in `path`, mapped; unless it is there whole, it is written from `batches` in order.

    shape, dtype: of the array; the batches have its rows. One process writes it and others wait.

    Raises:
        OSError: where the disk is full or the file cannot be read back.
    """
    array = _whole(path, shape, dtype)
    if array is not None:
        return array
    with built_by_one(path):
        array = _whole(path, shape, dtype, warn=True)  # another process may have been first
        if array is None:
            # plain writes: a full disk is then an error, where a mapped file would kill the process
            size = math.prod(shape) * dtype.itemsize
            write_pieces(path, _sealed(path, shape, dtype, batches), size)
            array = _whole(path, shape, dtype)
    if array is None:
        raise OSError(f"{path} was written and cannot be read: give another cache folder")
    return array


def _whole(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, warn: bool = False
) -> np.ndarray | None:
    """The array, if it is there and as it was written; warn: of damage."""
    try:
        check_seal(path)
        array = read_npy(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        fault = str(error)
    else:
        if array.shape == shape and array.dtype == dtype:
            return array
        fault = f"it holds {array.dtype} {array.shape}, not {dtype} {shape}"
    if warn:
        log.warning("%s is broken and is made again: %s", path, fault)
    return None


def _sealed(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, batches: Iterable[np.ndarray]
) -> Iterator[bytes]:
    """The bytes of a `.npy` file; at their end they are sealed."""
    header, digest = io.BytesIO(), hashlib.sha256()
    about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    digest.update(header.getvalue())
    yield header.getvalue()
    for batch in batches:
        piece = np.ascontiguousarray(batch, dtype).tobytes()
        digest.update(piece)
        yield piece
    seal(path, digest.hexdigest())
