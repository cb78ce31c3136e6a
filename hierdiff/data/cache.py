"""Images are decoded once into a mapped uint8 file; here are its form and its key.

An entry is a folder `NAME-RESOLUTION-KEY` with `images.npy` (n c and sides), its seal, and
`index.npz` (which sources could be read, the SHA-256 of their pixels, why the others were skipped).
It is made under another name and renamed, so that a reader sees a whole one or none. A damaged one
is made again, and leaves its place when the new one is whole.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hierdiff.files.arrays import read_npy, read_npz
from hierdiff.files.cache import built_by_one, remove
from hierdiff.files.digest import check_seal, seal
from hierdiff.files.reading import Damaged, with_escapes
from hierdiff.levels import Resolution, sides_of, text_of

T = TypeVar("T")
log = logging.getLogger(__name__)
FORMAT = 2  # raised when the decoding of the same file, or the form of an entry, changes
SHOWN = 5  # skipped files that are named in the log when they were skipped before


@dataclass(frozen=True)
class Decoded:
    """What could be read: images uint8 (n c s s), mapped, and for each its row in the sources, the
    side of the original in pixels and its SHA-256 (32 bytes); "PATH: reason" for the others."""

    images: np.ndarray
    rows: np.ndarray
    sides: np.ndarray
    digests: np.ndarray
    skipped: tuple[str, ...]


def cache_folder(cache: str | Path | None = None) -> Path:
    """`cache`, else $HIERDIFF_CACHE, else ~/.cache/hierdiff.

    Where no home can be written to, a folder of this user's among the temporary files.

    Raises:
        OSError: where that one is another user's.
    """
    chosen = cache or os.environ.get("HIERDIFF_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))  # `~` stays where nobody knows a home
    place = Path(os.path.expanduser("~/.cache/hierdiff"))
    try:
        if not place.is_absolute():
            raise OSError("there is no home folder")
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise OSError(f"{place} cannot be written to")
    except OSError as error:
        return _temporary(str(error))
    return place


@functools.cache
def _temporary(reason: str) -> Path:
    """A folder that no other user can have put files into.

    Raises:
        OSError: where it is another user's.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    place = Path(tempfile.gettempdir()) / f"hierdiff-{user}"
    place.mkdir(mode=0o700, exist_ok=True)
    about = place.lstat()
    if stat.S_ISLNK(about.st_mode) or (hasattr(os, "getuid") and about.st_uid != user):
        raise OSError(f"{reason}, and {place} is another user's: set HIERDIFF_CACHE=FOLDER")
    log.warning("%s: caches are kept in %s; HIERDIFF_CACHE=FOLDER names another", reason, place)
    return place


def fingerprint(root: Path, paths: Iterable[Path]) -> str:
    """Changes when a file is added, removed, renamed, resized or written to.

    Files are not read. The time of any change (ctime) is beside the time that programs set (mtime):
    it also tells a file that was replaced by one of the same size and mtime. Not seen: a second
    write within one tick of the file system's clock (milliseconds), and what a network file system
    hides from its clients. Inodes are left out, because some file systems number them anew.
    """
    lines: list[tuple[str, tuple[int, ...] | None]] = []
    for path in paths:
        try:
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        except OSError:  # absent by now: whoever reads it will say so
            state = None
        lines.append((os.fspath(path).removeprefix(f"{root}{os.sep}"), state))
    return hashlib.sha256(repr((str(root.resolve()), lines)).encode()).hexdigest()


def decoded(
    name: str,
    sources: Sequence[T],
    read: Callable[[T], tuple[np.ndarray, int]],
    *,
    channels: int,
    resolution: Resolution,
    identity: str,
    cache: Path,
) -> Decoded:
    """The images of `sources`, from the cache or decoded into it.

    read: a source to uint8 (c and sides) and the side of its original; what it raises skips the
    source. identity: of the sources, so that a changed one is decoded again.

    Raises:
        OSError: where the cache cannot be written or read back.
        ValueError: where no source can be read.
    """
    key = repr((FORMAT, name, channels, resolution, identity))
    entry = cache / f"{name}-{text_of(resolution)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    shape = (channels, *sides_of(resolution))
    found = _kept(entry, len(sources), shape)
    if found is not None:
        for line in found.skipped[:SHOWN]:
            log.warning("%s: skipped, as before: %s", name, line)
        if len(found.skipped) > SHOWN:
            log.warning("%s: and %d more", name, len(found.skipped) - SHOWN)
        return found
    with built_by_one(entry) as part:
        found = _kept(entry, len(sources), shape, warn=True)  # another process may have been first
        if found is None:
            _build(name, sources, read, shape, part)
            _move_in(part, entry, lambda: _kept(entry, len(sources), shape) is not None)
            found = _kept(entry, len(sources), shape)
    if found is None:
        raise OSError(f"{entry} was written and cannot be read: set cache= to another folder")
    return found


def _kept(entry: Path, sources: int, shape: tuple[int, ...], warn: bool = False) -> Decoded | None:
    """The entry, if it is there and whole; warn: of damage."""
    try:
        return _opened(entry, sources, shape)
    except FileNotFoundError:
        return None
    except Damaged as error:
        if warn:
            log.warning("cache %s is broken and is made again: %s", entry, error)
        return None


def _opened(entry: Path, sources: int, shape: tuple[int, ...]) -> Decoded:
    check_seal(entry / "images.npy")
    images = read_npy(entry / "images.npy", mapped=True)
    index = read_npz(entry / "index.npz")
    n = len(images) if images.ndim else 0
    kinds = {"rows": ("int64", (n,)), "sides": ("int64", (n,)), "digests": ("uint8", (n, 32))}
    parts = {name: index.get(name, np.empty(0)) for name in kinds}
    fits = all((str(parts[k].dtype), parts[k].shape) == kind for k, kind in kinds.items())
    if not n or images.shape != (n, *shape) or images.dtype != np.uint8 or not fits:
        raise Damaged(f"{entry}: images {images.shape} and their index do not fit together")
    rows = parts["rows"]
    if rows[0] < 0 or rows[-1] >= sources or (np.diff(rows) <= 0).any() or parts["sides"].min() < 1:
        raise Damaged(f"{entry}: its index has rows or sides out of range")
    try:
        skipped = json.loads(index["skipped"].tobytes())
        return Decoded(images=images, skipped=tuple(map(str, skipped)), **parts)
    except (KeyError, ValueError, TypeError) as error:
        raise Damaged(f"{entry}: its list of skipped files cannot be read") from error


def _build(
    name: str,
    sources: Sequence[T],
    read: Callable[[T], tuple[np.ndarray, int]],
    shape: tuple[int, ...],
    part: Path,
) -> None:
    try:
        part.mkdir()
        _check_room(part, len(sources) * int(np.prod(shape)))
        _decode(name, sources, read, shape, part)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the decoded {name} to {part.parent} ({error.strerror or error}): "
            f"free some room or set cache= to another folder",
        ) from error


def _move_in(part: Path, entry: Path, is_whole: Callable[[], bool]) -> None:
    """Moves the new entry into the place of none or of a damaged one, which is moved away first.

    One that a process without the lock moved in meanwhile stays.

    Raises:
        OSError: where the disk is at fault, and not another process.
    """
    old = part.with_name(f"{part.name}.old.part")
    for _ in range(10):
        if is_whole():
            return
        try:
            if os.path.lexists(entry):
                os.rename(entry, old)
            os.rename(part, entry)
            return
        except OSError as error:  # another process moved its own away, or in
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        finally:
            remove(old)


def _check_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, "no room")


def _decode(
    name: str,
    sources: Sequence[T],
    read: Callable[[T], tuple[np.ndarray, int]],
    shape: tuple[int, ...],
    part: Path,
) -> None:
    # plain writes: a full disk is then an error, where a mapped file would kill the process
    rows: list[int] = []
    sides: list[int] = []
    digests: list[bytes] = []
    skipped: list[str] = []
    with (part / "images.npy").open("wb") as file:
        _header(file, len(sources), shape)
        for row, source in enumerate(_shown(sources, name)):
            try:
                pixels, side = read(source)
            except Exception as error:  # decoders raise many kinds on a broken file
                text = (isinstance(error, OSError) and error.strerror) or str(error)
                reason = " ".join(text.split()) or type(error).__name__
                skipped.append(with_escapes(f"{source}: {reason}"))
                log.warning("skipped %s", skipped[-1])
                continue
            data = np.ascontiguousarray(pixels, np.uint8).reshape(shape).tobytes()
            file.write(data)
            rows.append(row)
            sides.append(side)
            digests.append(hashlib.sha256(data).digest())
        if not rows:
            why = f"; the first: {skipped[0]}" if skipped else ""
            raise ValueError(f"{name}: none of {len(sources)} images could be read{why}")
        file.seek(0)
        _header(file, len(rows), shape)
        file.flush()
        os.fsync(file.fileno())
    with (part / "images.npy").open("rb") as file:
        seal(part / "images.npy", hashlib.file_digest(file, "sha256").hexdigest())
    with (part / "index.npz").open("wb") as file:
        np.savez(
            file,
            rows=np.array(rows, np.int64),
            sides=np.array(sides, np.int64),
            digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            skipped=np.frombuffer(json.dumps(skipped).encode(), np.uint8),
        )
        file.flush()
        os.fsync(file.fileno())


def _header(file: Any, count: int, shape: tuple[int, ...]) -> None:
    """NumPy pads the header so that it keeps its length when the first axis changes."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _shown(sources: Sequence[T], name: str) -> Iterable[T]:
    if len(sources) < 200 or not sys.stderr.isatty():
        return sources
    from rich.console import Console
    from rich.progress import track

    return track(sources, description=f"decoding {name}", console=Console(stderr=True))
