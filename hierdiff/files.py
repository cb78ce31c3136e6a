"""Files written at once: beside their place, to the disk, then moved over the old one.

A reader sees the old file or the new one, and a full disk leaves the old one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

# of torchrun, of processes that Fabric starts, of Slurm
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


class Busy(OSError):
    """Another process works in a folder."""


@contextmanager
def worked_in(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, which lets go of it also when it is killed.

    Raises `Busy` where another process has it. Of the processes of one run the first one speaks
    for all.
    """
    if any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(
            f"another process works in {folder}: wait for it, or give another folder=..."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write(path: Path, content: bytes) -> None:
    """`content` as the file `path`; an OSError says what could not be written and what to do."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise explained(error, path, len(content)) from error
    finally:
        part.unlink(missing_ok=True)


def write_png(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write(path, buffer.getvalue())


def write_npy(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write(path, buffer.getvalue())


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write(path, buffer.getvalue())


def explained(error: OSError, path: Path, size: int) -> OSError:
    """The same kind of error with the file, its size and the way out."""
    reason = error.strerror or str(error)
    return type(error)(
        f"cannot write {path} ({size / 1e6:.1f} MB): {reason}; what was written before is whole: "
        f"make room or give another folder, then give the same command again"
    )
