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
from hierdiff.files.atomic import explained, write_pieces
from hierdiff.files.digest import check_seal, seal
from hierdiff.files.reading import Damaged

log = logging.getLogger(__name__)


@contextmanager
def built_by_one(place: Path) -> Iterator[Path]:
    """A new name beside `place` to build it under; other processes that build it wait meanwhile.

    What is left under that name is removed, and so is what builders left that were killed. Where
    the file system has no locks, all build, each under a name of its own.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, place, 0) from error
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
    """A file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def kept_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, batches: Iterable[np.ndarray]
) -> np.ndarray:
    """The array in `path`, mapped; made of `batches` in their order where there is no whole one.

    One process makes it and others wait. OSError where the disk is full.
    """
    found = _whole(path, shape, dtype)
    if found is not None:
        return found
    with built_by_one(path):
        found = _whole(path, shape, dtype, said=True)  # another process may have been first
        if found is None:
            # plain writes: a full disk is then an error, where a mapped file would kill the process
            size = math.prod(shape) * dtype.itemsize
            write_pieces(path, _sealed(path, shape, dtype, batches), size)
            found = _whole(path, shape, dtype)
    if found is None:
        raise OSError(f"{path} was written and cannot be read: give another cache folder")
    return found


def _whole(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, said: bool = False
) -> np.ndarray | None:
    """The array, if it is there and as it was written; `said`: of damage there is a warning."""
    try:
        check_seal(path)
        array = read_npy(path, mapped=True)
        if array.shape != shape or array.dtype != dtype:
            raise Damaged(f"{path} holds {array.dtype} {array.shape}, not {dtype} {shape}")
        return array
    except FileNotFoundError:
        return None
    except Damaged as error:
        if said:
            log.warning("%s is broken and is made again: %s", path, error)
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
