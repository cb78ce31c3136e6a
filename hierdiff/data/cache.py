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
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from hierdiff.config import with_bar
from hierdiff.data.workers import Workers
from hierdiff.files.arrays import read_npy, read_npz
from hierdiff.files.cache import built_by_one, remove
from hierdiff.files.digest import check_seal, seal, sha256_of_file
from hierdiff.files.reading import Damaged, with_escapes
from hierdiff.resolution import Resolution, sides_of, text_of

T = TypeVar("T")
Size = int | tuple[int, int]  # of an original in pixels: the side of a square, or height and width
log = logging.getLogger(__name__)
FORMAT = 3  # raised when the decoding of the same file, or the form of an entry, changes
IMAGES = "images.npy"
LARGE = 10**8  # bytes of an entry that is told of before it is written
SHOWN = 20  # skipped files that are named in the log


@dataclass(frozen=True)
class Checked:
    """What of the sources could be read: for each its row in the sources, height and width of the
    original in pixels (n 2) and the SHA-256 of its pixels (32 bytes); "PATH: reason" for the
    others."""

    rows: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Decoded(Checked):
    """And the images, uint8 (n c s s), mapped."""

    images: np.ndarray


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
    read: Callable[[T], tuple[np.ndarray, Size]],
    *,
    channels: int,
    resolution: Resolution,
    identity: str,
    cache: Path,
    workers: int = 0,
) -> Decoded:
    """The images of `sources`, from the cache or decoded into it.

    read: a source to uint8 (c and sides) and the size of its original; what it raises skips the
    source. identity: of the sources, so that a changed one is decoded again. workers: processes
    that decode; `read` is then picklable.

    Raises:
        OSError: where the cache cannot be written or read back.
        ValueError: where no source can be read.
    """
    shape = (channels, *sides_of(resolution))
    key = (FORMAT, name, channels, resolution, identity)
    made = _Made(name, sources, Workers(read, workers), shape)
    found = made.found(cache, key, text_of(resolution))
    images = read_npy(found.place / IMAGES)
    return Decoded(**vars(found.checked), images=images)


def checked(
    name: str,
    sources: Sequence[T],
    read: Callable[[T], tuple[np.ndarray, Size]],
    *,
    channels: int,
    resolution: Resolution,
    identity: str,
    cache: Path,
    workers: int = 0,
) -> Checked:
    """As `decoded`, for sources that are decoded at each reading: what each is worth is kept, not
    its pixels.

    Raises:
        OSError: where the cache cannot be written or read back.
        ValueError: where no source can be read.
    """
    key = (FORMAT, "checked", name, channels, resolution, identity)
    made = _Made(name, sources, Workers(_Digest(read), workers), None)
    return made.found(cache, key, text_of(resolution)).checked


class _Digest(Generic[T]):
    """A reader that gives the SHA-256 of pixels instead of these."""

    def __init__(self, read: Callable[[T], tuple[np.ndarray, Size]]):
        self.read = read

    def __call__(self, source: T) -> tuple[bytes, Size]:
        pixels, size = self.read(source)
        return hashlib.sha256(np.ascontiguousarray(pixels, np.uint8).tobytes()).digest(), size


class _Found(NamedTuple):
    """An entry that is whole."""

    place: Path
    checked: Checked


@dataclass(frozen=True)
class _Made(Generic[T]):
    """An entry to be found or made. shape: of an image that is kept; None: pixels are not kept."""

    name: str
    sources: Sequence[T]
    read: Workers[T, tuple[Any, Size]]
    shape: tuple[int, ...] | None

    def found(self, cache: Path, key: tuple[Any, ...], resolution: str) -> _Found:
        """The entry, whole.

        Raises:
            OSError: where it cannot be written or read back.
            ValueError: where no source can be read.
        """
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
        entry = cache / f"{self.name}-{resolution}-{digest}"
        index = self._kept(entry)
        if index is not None:
            for line in index.skipped[:SHOWN]:
                log.warning("%s: skipped, as before: %s", self.name, line)
            if len(index.skipped) > SHOWN:
                log.warning("%s: and %d more", self.name, len(index.skipped) - SHOWN)
            return _Found(entry, index)
        with built_by_one(entry) as part:
            index = self._kept(entry, warn=True)  # another process may have been first
            if index is None:
                self._build(part, entry)
                _move_in(part, entry, lambda: self._kept(entry) is not None)
                index = self._kept(entry)
        if index is None:
            raise OSError(f"{entry} was written and cannot be read: set cache= to another folder")
        return _Found(entry, index)

    def _kept(self, entry: Path, warn: bool = False) -> Checked | None:
        """The index, if the entry is there and whole; warn: of damage."""
        try:
            return _opened(entry, len(self.sources), self.shape)
        except FileNotFoundError:
            return None
        except Damaged as error:
            if warn:
                log.warning("cache %s is broken and is made again: %s", entry, error)
            return None

    def _build(self, part: Path, entry: Path) -> None:
        try:
            _build(self, part, entry)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write the decoded {self.name} to {part.parent} "
                f"({error.strerror or error}): free some room or set cache= to another folder",
            ) from error
        finally:
            self.read.close()


def _opened(entry: Path, sources: int, shape: tuple[int, ...] | None) -> Checked:
    n = None
    if shape is not None:
        check_seal(entry / IMAGES)
        images = read_npy(entry / IMAGES)
        n = len(images) if images.ndim else 0
        if not n or images.shape != (n, *shape) or images.dtype != np.uint8:
            raise Damaged(f"{entry}: images {images.shape} are none of shape {shape}")
    index = read_npz(entry / "index.npz")
    n = len(index.get("rows", ())) if n is None else n
    kinds = {"rows": ("int64", (n,)), "sizes": ("int64", (n, 2)), "digests": ("uint8", (n, 32))}
    parts = {name: index.get(name, np.empty(0)) for name in kinds}
    if not n or any((str(parts[k].dtype), parts[k].shape) != kind for k, kind in kinds.items()):
        raise Damaged(f"{entry}: its index does not fit {n} images")
    rows = parts["rows"]
    if rows[0] < 0 or rows[-1] >= sources or (np.diff(rows) <= 0).any() or parts["sizes"].min() < 1:
        raise Damaged(f"{entry}: its index has rows or sizes out of range")
    try:
        skipped = json.loads(index["skipped"].tobytes())
        return Checked(skipped=tuple(map(str, skipped)), **parts)
    except (KeyError, ValueError, TypeError) as error:
        raise Damaged(f"{entry}: its list of skipped files cannot be read") from error


def _build(made: _Made[Any], part: Path, entry: Path) -> None:
    part.mkdir()
    if made.shape is not None:
        size = len(made.sources) * int(np.prod(made.shape))
        log.log(
            logging.INFO if size >= LARGE else logging.DEBUG,
            "%s: %d images are decoded once into %s, %.1f GB",
            *(made.name, len(made.sources), entry, size / 1e9),
        )
        if shutil.disk_usage(part).free < size:
            raise OSError(errno.ENOSPC, "no room")
        _decode(made, part)
    else:
        _write_index(part, _results(made))


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


class _Index(NamedTuple):
    """Rows, sizes and digests of what could be read, and why the rest could not."""

    rows: list[int]
    sizes: list[tuple[int, int]]
    digests: list[bytes]
    skipped: list[str]


def _results(made: _Made[Any], write: Callable[[bytes], Any] | None = None) -> _Index:
    """Reads every source; write: takes the pixels of each that can be.

    Raises:
        ValueError: where none can.
    """
    index = _Index([], [], [], [])
    shown = with_bar(made.sources, f"decoding {made.name}", 200)
    for row, (source, result) in enumerate(zip(shown, made.read.map(made.sources), strict=True)):
        if isinstance(result, Exception):
            text = (isinstance(result, OSError) and result.strerror) or str(result)
            reason = " ".join(text.split()) or type(result).__name__
            index.skipped.append(with_escapes(f"{source}: {reason}"))
            continue
        content, size = result
        if write is not None:
            content = np.ascontiguousarray(content, np.uint8).reshape(made.shape).tobytes()
            write(content)
            content = hashlib.sha256(content).digest()
        index.rows.append(row)
        index.sizes.append((size, size) if isinstance(size, int) else size)
        index.digests.append(content)
    if not index.rows:
        why = f"; the first: {index.skipped[0]}" if index.skipped else ""
        raise ValueError(f"{made.name}: none of {len(made.sources)} images could be read{why}")
    for line in index.skipped[:SHOWN]:
        log.warning("skipped %s", line)
    if len(index.skipped) > SHOWN:
        log.warning("skipped %d more", len(index.skipped) - SHOWN)
    return index


def _decode(made: _Made[Any], part: Path) -> None:
    # plain writes: a full disk is then an error, where a mapped file would kill the process
    shape = made.shape or ()
    with (part / IMAGES).open("wb") as file:
        _header(file, len(made.sources), shape)
        index = _results(made, file.write)
        file.seek(0)
        _header(file, len(index.rows), shape)
        file.flush()
        os.fsync(file.fileno())
    seal(part / IMAGES, sha256_of_file(part / IMAGES))
    _write_index(part, index)


def _write_index(part: Path, index: _Index) -> None:
    with (part / "index.npz").open("wb") as file:
        np.savez(
            file,
            rows=np.array(index.rows, np.int64),
            sizes=np.array(index.sizes, np.int64),
            digests=np.frombuffer(b"".join(index.digests), np.uint8).reshape(-1, 32),
            skipped=np.frombuffer(json.dumps(index.skipped).encode(), np.uint8),
        )
        file.flush()
        os.fsync(file.fileno())


def _header(file: Any, count: int, shape: tuple[int, ...]) -> None:
    """NumPy pads the header so that it keeps its length when the first axis changes."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
