"""Posterior moments of every image, encoded once into a mapped file of the cache folder.

A posterior is sampled afresh at every step; what is kept is no sample. The name of a file says
whose images it holds, and ends in a hash of the pixels and of the autoencoder (its layout and all
weights): a run that goes on and another run with the same autoencoder find it, another autoencoder
has its own. Files are never removed: delete `moments/` of the cache folder to make room.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from baselines.latent.autoencoder import Autoencoder
from hierdiff.data.cache import cache_folder
from hierdiff.files import write_pieces

log = logging.getLogger(__name__)
FOLDER = "moments"


def place(
    cache: str | None,
    name: str,
    pixels: str,
    network: Autoencoder,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Path:
    """The file for images of this name and SHA-256 in the latents of `network`."""
    told = repr((pixels, network.fingerprint(), shape, dtype.str))
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    return cache_folder(cache) / FOLDER / f"{name}-{shape[-2]}x{shape[-1]}-{key}.npy"


def kept(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, batches: Iterable[np.ndarray]
) -> np.ndarray:
    """The array in `path`, mapped; made of `batches`, one after another, where there is none.

    One process makes it and others wait. It is made under another name and renamed, so that what a
    killed process leaves is no file. OSError where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        found = _opened(path, shape, dtype)
        if found is None:
            _make(path, shape, dtype, batches)
            found = _opened(path, shape, dtype)
    if found is None:
        raise OSError(f"{path} was written and cannot be read: give another cache folder")
    return found


def _opened(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is broken (%s) and is made again", path, error)
        return None
    if found.shape != shape or found.dtype != dtype:
        log.warning("%s holds %s %s and is made again", path, found.dtype, found.shape)
        return None
    return found


def _make(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, batches: Iterable[np.ndarray]
) -> None:
    def pieces() -> Iterator[bytes]:
        header = io.BytesIO()
        about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, about)
        yield header.getvalue()
        for batch in batches:
            yield np.ascontiguousarray(batch, dtype).tobytes()

    # plain writes: a full disk is then an error, where a mapped file would kill the process
    write_pieces(path, pieces(), int(np.prod(shape)) * dtype.itemsize)
