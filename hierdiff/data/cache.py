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
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np

from hierdiff.config import with_bar
from hierdiff.data.workers import Workers
from hierdiff.files.arrays import read_npy, read_npz, write_npz
from hierdiff.files.cache import built_by_one, remove
from hierdiff.files.digest import check_seal, seal, sha256_of_file
from hierdiff.files.reading import Damaged, damage, with_escapes
from hierdiff.resolution import Resolution, sides_of, text_of

T = TypeVar("T")
Size = int | tuple[int, int]  # of an original in pixels: the side of a square, or height and width
log = logging.getLogger(__name__)
FORMAT = 3  # raised when the decoding of the same file, or the form of an entry, changes
IMAGES, INDEX = "images.npy", "index.npz"
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
    key = (FORMAT, name, channels, resolution, identity)
    shape, place = (channels, *sides_of(resolution)), _place(cache, name, resolution, key)
    entry = _Entry(name, sources, Workers(read, workers), shape, place)
    return Decoded(**vars(entry.checked()), images=read_npy(place / IMAGES))


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
    place = _place(cache, name, resolution, key)
    return _Entry(name, sources, Workers(_Digest(read), workers), None, place).checked()


def _place(cache: Path, name: str, resolution: Resolution, key: tuple[Any, ...]) -> Path:
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    return cache / f"{name}-{text_of(resolution)}-{digest}"


class _Digest(Generic[T]):
    """A reader that gives the SHA-256 of pixels instead of these."""

    def __init__(self, read: Callable[[T], tuple[np.ndarray, Size]]):
        self.read = read

    def __call__(self, source: T) -> tuple[bytes, Size]:
        pixels, size = self.read(source)
        return hashlib.sha256(np.ascontiguousarray(pixels, np.uint8).tobytes()).digest(), size


@dataclass(frozen=True)
class _Entry(Generic[T]):
    """An entry to be found or made. shape: of an image that is kept; None: pixels are not kept."""

    name: str
    sources: Sequence[T]
    read: Workers[T, tuple[Any, Size]]
    shape: tuple[int, ...] | None
    place: Path

    def checked(self) -> Checked:
        """What could be read of the sources, once the entry is there and whole.

        Raises:
            OSError: where it cannot be written or read back.
            ValueError: where no source can be read.
        """
        found = self._kept()
        if found is not None:
            _warn_of(found.skipped, f"{self.name}: skipped, as before:")
            return found
        with built_by_one(self.place) as part:
            found = self._kept(warn=True)  # another process may have been first
            if found is None:
                self._make(part)
                _move_in(part, self.place, lambda: self._kept() is not None)
                found = self._kept()
        if found is None:
            raise OSError(
                f"{self.place} was written and cannot be read: set cache= to another folder"
            )
        return found

    def _kept(self, warn: bool = False) -> Checked | None:
        """What the index says, if the entry is there and whole; warn: of damage."""
        try:
            with damage(self.place):
                if self.shape is not None:
                    check_seal(self.place / IMAGES)
                index = read_npz(self.place / INDEX)
                skipped = json.loads(index.pop("skipped").tobytes())
                found = Checked(**index, skipped=tuple(map(str, skipped)))
                self._check(found)
                return found
        except FileNotFoundError:
            return None
        except Damaged as error:
            if warn:
                log.warning("cache %s is broken and is made again: %s", self.place, error)
            return None

    def _check(self, found: Checked) -> None:
        """Refuses an index that is none of these sources: images would go with others' labels.

        Raises:
            ValueError: for rows, sizes or digests that do not fit the sources and images.
        """
        rows, n = found.rows, len(found.rows)
        forms = [(str(part.dtype), part.shape) for part in (rows, found.sizes, found.digests)]
        fits = forms == [("int64", (n,)), ("int64", (n, 2)), ("uint8", (n, 32))]
        if not n or not fits or found.sizes.min() < 1:
            raise ValueError(f"its index does not fit {n} images")
        if rows[0] < 0 or rows[-1] >= len(self.sources) or (np.diff(rows) <= 0).any():
            raise ValueError(f"its index has rows that are none of {len(self.sources)} sources")
        if self.shape is not None:
            images = read_npy(self.place / IMAGES)
            if images.dtype != np.uint8 or images.shape != (n, *self.shape):
                raise ValueError(f"images {images.shape} are none of shape {(n, *self.shape)}")

    def _make(self, part: Path) -> None:
        try:
            part.mkdir()
            found = self._results(None) if self.shape is None else self._decode(part / IMAGES)
            skipped = np.frombuffer(json.dumps(found.skipped).encode(), np.uint8)
            write_npz(part / INDEX, {**vars(found), "skipped": skipped})
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"cannot write the decoded {self.name} to {part.parent} "
                f"({error.strerror or error}): free some room or set cache= to another folder",
            ) from error
        finally:
            self.read.close()

    def _decode(self, path: Path) -> Checked:
        """Writes the images.

        Raises:
            OSError: where there is no room; a full disk would kill a process that maps the file.
        """
        size = len(self.sources) * math.prod(self.shape or ())
        log.log(
            logging.INFO if size >= LARGE else logging.DEBUG,
            "%s: %d images are decoded once into %s, %.1f GB",
            *(self.name, len(self.sources), self.place, size / 1e9),
        )
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, "no room")
        with path.open("wb") as file:
            self._header(file, len(self.sources))
            found = self._results(file)
            file.seek(0)
            self._header(file, len(found.rows))
            file.flush()
            os.fsync(file.fileno())
        seal(path, sha256_of_file(path))
        return found

    def _header(self, file: IO[bytes], count: int) -> None:
        """NumPy pads the header so that it keeps its length when the first axis changes."""
        about = {"descr": "|u1", "fortran_order": False, "shape": (count, *(self.shape or ()))}
        np.lib.format.write_array_header_1_0(file, about)

    def _results(self, file: IO[bytes] | None) -> Checked:
        """Reads every source; file: takes the pixels of each that can be.

        Raises:
            ValueError: where none can.
        """
        rows, sizes, digests, skipped = [], [], [], []
        shown = with_bar(self.sources, f"decoding {self.name}", 200)
        for row, (source, found) in enumerate(zip(shown, self.read.map(self.sources), strict=True)):
            if isinstance(found, Exception):
                text = (isinstance(found, OSError) and found.strerror) or str(found)
                reason = " ".join(text.split()) or type(found).__name__
                skipped.append(with_escapes(f"{source}: {reason}"))
                continue
            content, size = found
            if file is not None:
                pixels = np.ascontiguousarray(content, np.uint8).reshape(self.shape).tobytes()
                file.write(pixels)
                content = hashlib.sha256(pixels).digest()
            rows.append(row)
            sizes.append((size, size) if isinstance(size, int) else size)
            digests.append(content)
        if not rows:
            why = f"; the first: {skipped[0]}" if skipped else ""
            raise ValueError(f"{self.name}: none of {len(self.sources)} images could be read{why}")
        _warn_of(skipped, "skipped")
        return Checked(
            np.array(rows, np.int64),
            np.array(sizes, np.int64),
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            tuple(skipped),
        )


def _warn_of(skipped: Sequence[str], words: str) -> None:
    for line in skipped[:SHOWN]:
        log.warning("%s %s", words, line)
    if len(skipped) > SHOWN:
        log.warning("%s %d more", words, len(skipped) - SHOWN)


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
