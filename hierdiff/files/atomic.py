"""Files written at once: beside their place, to the disk, then moved over the old one.

A reader sees the old file or the new one, and a full disk leaves the old one. What a kill leaves
beside its place is a `.part`; its writer locks it while it lives, so that others know it from one
that nobody will finish.
"""

from __future__ import annotations

import glob
import io
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # no POSIX: age alone tells a `.part` that nobody will finish
    fcntl = None  # type: ignore[assignment]

from PIL import Image

PART = re.compile(r"\..+\.([0-9a-f]+\.)?part")
ABANDONED = 3600  # seconds without a change after which a `.part` that has no lock is nobody's


def write(path: Path, content: bytes) -> None:
    """Writes `content` as the file `path` at once; errors as in `write_pieces`."""
    write_pieces(path, [content], len(content))


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], size: int) -> None:
    """Writes the pieces one after another as the file `path` at once.

    size: bytes of all pieces, for the message.

    Raises:
        OSError: where it cannot be written, with what to do (`raise_write_error`).
    """
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
        raise_write_error(error, path, size)


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
                    lock_file(file.fileno())
                if os.fstat(file.fileno()).st_nlink:  # else it was taken for an abandoned one
                    yield part, file
                    return
            finally:
                part.unlink(missing_ok=True)


def clean_beside(path: Path) -> None:
    """Removes what killed processes left of this one file, in a folder that others also use."""
    for part in path.parent.glob(f".{glob.escape(path.name[:40])}.*.part"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.part", part.name[1 + len(path.name[:40]) :]):
            with suppress(OSError):
                remove_abandoned(part)


def remove_abandoned(part: Path) -> None:
    """Removes a `.part` unless its writer lives."""
    if part.is_dir() and not part.is_symlink():
        inside = (Path(place, name) for place, _, names in os.walk(part) for name in names)
        if time.time() - max(path.lstat().st_mtime for path in (part, *inside)) > ABANDONED:
            shutil.rmtree(part)
        return
    descriptor = os.open(part, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if lock_file(descriptor) or time.time() - os.fstat(descriptor).st_mtime > ABANDONED:
            part.unlink()
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def lock_file(descriptor: int) -> bool:
    """Whether the file could be locked; False where the system knows no locks.

    Raises:
        BlockingIOError: where another process has the lock.
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
    """Writes a Pillow image as a PNG file at once."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write(path, buffer.getvalue())


def write_figure(path: Path, figure: Any) -> None:
    """Writes a figure of matplotlib as a PNG file at once."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write(path, buffer.getvalue())


def write_webp(path: Path, frames: Sequence[Image.Image], duration: int) -> None:
    """Writes Pillow images as one animated WebP file at once, without loss.

    duration: of each, in milliseconds.
    """
    buffer = io.BytesIO()
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": list(frames[1:]),
        "duration": duration,
        "loop": 0,
    }
    frames[0].save(buffer, format="WEBP", lossless=True, method=2, **options)
    write(path, buffer.getvalue())


def raise_write_error(error: OSError, path: Path, size: int) -> NoReturn:
    """Raises the same kind of error with the file, its size in bytes and the way out."""
    reason = error.strerror or str(error)
    raise type(error)(
        f"cannot write {path} ({size / 1e6:.1f} MB): {reason}; what was written before is whole: "
        f"make room or give another folder, then give the same command again"
    ) from error
