"""Images are decoded once into a mapped uint8 file; here are its form and its key.

An entry is a folder `NAME-RESOLUTION-KEY` with `images.npy` (n c s s) and `index.npz` (which
sources could be read, the SHA-256 of their pixels, why the others were skipped). It is made under
another name and renamed, so that a reader sees a whole one or none.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
log = logging.getLogger(__name__)
FORMAT = 1  # raised when the decoding of the same file changes


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
    """`cache`, else $HIERDIFF_CACHE, else ~/.cache/hierdiff."""
    chosen = cache or os.environ.get("HIERDIFF_CACHE") or Path.home() / ".cache" / "hierdiff"
    return Path(chosen).expanduser()


def fingerprint(root: Path, paths: Iterable[Path]) -> str:
    """Changes when a file is added, removed, renamed, resized or touched."""
    lines = []
    for path in paths:
        stat = path.stat()
        lines.append((path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr((str(root.resolve()), lines)).encode()).hexdigest()


def decoded(
    name: str,
    sources: Sequence[T],
    read: Callable[[T], tuple[np.ndarray, int]],
    *,
    channels: int,
    resolution: int,
    identity: str,
    cache: Path,
) -> Decoded:
    """The images of `sources`, from the cache or decoded into it.

    read: a source to uint8 (c s s) and the side of its original; what it raises skips the source.
    identity: of the sources, so that a changed one is decoded again.
    """
    key = repr((FORMAT, name, channels, resolution, identity))
    entry = cache / f"{name}-{resolution}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    shape = (channels, resolution, resolution)
    found = _opened(entry, shape)
    if found is None:
        _build(name, sources, read, shape, entry)
        found = _opened(entry, shape)
        if found is None:
            raise OSError(f"{entry} was written and cannot be read: set cache= to another folder")
    elif found.skipped:
        log.warning(
            "%s: %d files skipped, as before: %s", name, len(found.skipped), found.skipped[0]
        )
    return found


def _opened(entry: Path, shape: tuple[int, ...]) -> Decoded | None:
    if not entry.exists():
        return None
    try:
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        with (
            (entry / "index.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as index,
        ):
            parts = {key: index[key] for key in ("rows", "sides", "digests", "skipped")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("cache %s is broken (%s) and is made again", entry, error)
        return None
    if images.shape != (len(parts["rows"]), *shape) or images.dtype != np.uint8:
        log.warning("cache %s has images of shape %s and is made again", entry, images.shape)
        return None
    skipped = tuple(str(line) for line in parts.pop("skipped"))
    return Decoded(images=images, skipped=skipped, **parts)


def _build(
    name: str,
    sources: Sequence[T],
    read: Callable[[T], tuple[np.ndarray, int]],
    shape: tuple[int, ...],
    entry: Path,
) -> None:
    part = entry.with_name(f".{entry.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        _check_room(part, len(sources) * int(np.prod(shape)))
        _decode(name, sources, read, shape, part)
        shutil.rmtree(entry, ignore_errors=True)
        try:
            os.rename(part, entry)
        except OSError:
            if not entry.is_dir():  # else another process was first, and made the same
                raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"no room for the decoded {name} in {entry.parent}: "
                f"free some or set cache= to another folder",
            ) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
                log.warning("skipped %s: %s", source, error)
                skipped.append(f"{source}: {error}")
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
    with (part / "index.npz").open("wb") as file:
        np.savez(
            file,
            rows=np.array(rows, np.int64),
            sides=np.array(sides, np.int64),
            digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            skipped=np.array(skipped, dtype=np.str_),
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
