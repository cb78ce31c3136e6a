"""Files written at once: beside their place, to the disk, then moved over the old one.

A reader sees the old file or the new one, and a full disk leaves the old one. What a kill leaves
beside its place is a `.part`; its writer locks it while it lives, so that others know it from one
that nobody will finish.

What is read again may have been damaged since: whatever is wrong with it is `Damaged`, and no
header is believed before it fits the size of its file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import logging
import math
import os
import re
import secrets
import shutil
import stat
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no POSIX: age alone tells a `.part` that nobody will finish
    fcntl = None  # type: ignore[assignment]

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

log = logging.getLogger(__name__)
# of torchrun, of processes that Fabric starts, of Slurm
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


LOCK = ".lock"  # of a folder that one process at a time works in
PART = re.compile(r"\..+\.([0-9a-f]+\.)?part")
ABANDONED = 3600  # seconds without a change after which a `.part` that has no lock is nobody's


class Busy(OSError):
    """Another process works in a folder."""


@contextmanager
def worked_in(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, which lets go of it also when it is killed.

    Files that a killed process left half-written in it are removed. Raises `Busy` where another
    process has it. Of the processes of one run the first one speaks for all.
    """
    if any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(
            f"another process works in {folder}: wait for it, or give another folder=..."
        ) from None
    try:
        clean(folder)
        yield
    finally:
        lock.release()


def write(path: Path, content: bytes) -> None:
    """`content` as the file `path`; an OSError says what could not be written and what to do."""
    write_pieces(path, [content], len(content))


def write_pieces(path: Path, pieces: Iterable[bytes], size: int) -> None:
    """`pieces` one after another as the file `path`; size: of all, in bytes, for the message."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _part(path) as (part, file):
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        raise explained(error, path, size) from error


def part_of(path: Path) -> Path:
    """A name beside `path` that no other process takes, in this container or another."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")


@contextmanager
def _part(path: Path) -> Iterator[tuple[Path, io.FileIO]]:
    """A new file beside `path`, locked; it is gone at the end unless it was moved."""
    while True:
        part = part_of(path)
        with part.open("xb", buffering=0) as file:
            try:
                with suppress(BlockingIOError):  # another process cleans at this moment
                    _lock(file.fileno())
                if os.fstat(file.fileno()).st_nlink:  # else it was taken for an abandoned one
                    yield part, file
                    return
            finally:
                part.unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Removes what killed processes left half-written in `folder` and below.

    A folder below that a process may hold on its own is left to it, and so is what is written now.
    """
    for place, names, files in os.walk(folder):
        if place != str(folder) and LOCK in files:
            names.clear()
            continue
        for name in [*files, *names]:
            if PART.fullmatch(name):
                with suppress(OSError):  # another process was first, or may not be looked at
                    _remove(Path(place, name))


def clean_beside(path: Path) -> None:
    """Removes what killed processes left of this one file, in a folder that is anybody's."""
    for part in path.parent.glob(f".{glob.escape(path.name[:40])}.*.part"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.part", part.name[1 + len(path.name[:40]) :]):
            with suppress(OSError):
                _remove(part)


def _remove(part: Path) -> None:
    """The `.part`, unless its writer lives."""
    if part.is_dir() and not part.is_symlink():
        inside = (Path(place, name) for place, _, names in os.walk(part) for name in names)
        if time.time() - max(path.lstat().st_mtime for path in (part, *inside)) > ABANDONED:
            shutil.rmtree(part)
        return
    descriptor = os.open(part, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if _lock(descriptor) or time.time() - os.fstat(descriptor).st_mtime > ABANDONED:
            part.unlink()
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the file could be locked; False where the system knows no locks.

    Raises BlockingIOError where another process has it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


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


# ---------------------------------------------------------------- reading


class Damaged(ValueError):
    """A file cannot be read as what its name promises: cut short, changed, or of another kind."""


def check_regular(path: Path) -> None:
    """OSError for a pipe, a socket, a device or a folder: opening one of them may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def read_text(path: Path) -> str:
    r"""UTF-8 with or without a byte-order mark; lines end in "\n" alone, whatever ended them.

    Split it at "\n": `splitlines` also cuts at U+2028 and U+0085, which text may hold. ValueError
    names the first line that is no UTF-8.
    """
    check_regular(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line} is no UTF-8 ({error.reason}): save the file as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(text: str) -> str:
    """Fit for a terminal, a log and a file: what is no UTF-8, ends a line or steers a terminal is
    written with a backslash."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def read_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array of a `.npy` file. FileNotFoundError, or `Damaged` whatever is wrong with it."""
    with _damage(path):
        check_regular(path)
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file, os.fstat(file.fileno()).st_size)
            if mapped and math.prod(shape) > 0:
                order: Any = "F" if fortran else "C"
                return np.memmap(file, dtype, "r", file.tell(), shape, order)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(
    path: Path, names: Collection[str] | None = None, *, limit: int = 2**32
) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file by name. FileNotFoundError, or `Damaged` whatever is wrong with it.

    names: of those that are read if they are there, None for all; limit: bytes of all of them.
    """
    arrays = {}
    with _damage(path):
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


def _header(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype; ValueError unless the rest of `size` bytes is just that array."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    need = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + need != size:
        raise ValueError(f"{size} bytes do not hold an array {dtype} {shape}")
    return shape, fortran, dtype


def from_json(text: str | bytes, **options: Any) -> Any:
    """As `json.loads`; ValueError for all that is no JSON, also where it nests too deeply."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, content: Any) -> None:
    """`content` with its SHA-256, for `read_json`."""
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write(path, f'{{"sha256": "{digest}", "content": {text}}}\n'.encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote. FileNotFoundError, or `Damaged` whatever is wrong with it."""
    with _damage(path):
        told = from_json(read_text(path))
        text = json.dumps(told["content"])
        if told["sha256"] != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError("its content does not match its sha256")
        return told["content"]


def seal(path: Path, sha256: str) -> None:
    """Says beside a large file what it holds, for `check_seal`; written before the file is moved
    into its place."""
    write_json(_seal_of(path), {"sha256": sha256})


def check_seal(path: Path) -> None:
    """`Damaged` unless a file holds what its seal says. FileNotFoundError where one is absent.

    The content is read when the file was changed since the last check, or was never checked: by
    its size, time of change of content and of anything else (which nobody can set), and inode. What
    a disk loses without a write is not seen.
    """
    about = path.stat()
    now = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    told = read_json(_seal_of(path))
    with _damage(path):
        if told.get("checked") == now:
            return
        check_regular(path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != told["sha256"]:
            raise ValueError("its content does not match its sha256")
    with suppress(OSError):  # a cache that others own is checked each time
        write_json(_seal_of(path), {"sha256": found, "checked": now})


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Decoders raise many kinds of errors on damage: zlib, struct, tokenize, MemoryError, ..."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {error})") from error


# ---------------------------------------------------------------- caches


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
