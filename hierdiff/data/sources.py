"""Where the bytes of an image lie: a file, a member of a zip, a range of a shard; or of a clip.

A source is small and picklable, so that it can be sent to a worker; its text names it in messages.
Handles are kept open by process.
"""

from __future__ import annotations

import os
import weakref
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hierdiff.files.reading import Damaged, check_regular, damage

LARGEST = 2**30  # bytes of one image file
HANDLES = 64  # shards that a process holds open


class FileSource(NamedTuple):
    """A file of its own."""

    path: str

    def __str__(self) -> str:
        return self.path

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            OSError: where it cannot be read or is no regular file.
        """
        path = Path(self.path)
        check_regular(path)
        return path.read_bytes()


class Member(NamedTuple):
    """A member of a zip."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    def read(self) -> bytes:
        """Its bytes, checked by the checksum of the zip.

        Raises:
            Damaged: for one that cannot be read, or is too large to be an image.
        """
        archive = opened_zip(self.path)
        size = archive.getinfo(self.name).file_size
        if size > LARGEST:
            raise Damaged(f"it takes {size} bytes, more than {LARGEST}")
        return archive.read(self.name)


class Range(NamedTuple):
    """Some bytes of a shard, which are a file by `name`."""

    path: str
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    def read(self) -> bytes:
        """The bytes.

        Raises:
            Damaged: where the shard ends before.
        """
        file = _opened_file(self.path, _stamp(self.path))
        content = os.pread(file.descriptor, self.size, self.start)
        if len(content) != self.size:
            raise Damaged(f"{self.path} ends before it does")
        return content


class Frames(NamedTuple):
    """A clip whose frames are files of their own, in order."""

    name: str
    parts: tuple[FileSource | Member, ...]

    def __str__(self) -> str:
        return self.name

    def read(self) -> list[bytes]:
        """The bytes of each frame; errors as of its files."""
        return [part.read() for part in self.parts]


Source = FileSource | Member | Range


def content(source: Source | Frames) -> Any:
    """The bytes of a source, or of each of its files; what cannot be read raises many kinds."""
    return source.read()


def opened_zip(path: str) -> zipfile.ZipFile:
    """The directory of a zip.

    Raises:
        FileNotFoundError: where there is none.
        Damaged: where it cannot be read.
    """
    with damage(Path(path)):
        return _opened_zip(path, _stamp(path))


def _stamp(path: str) -> tuple[int, int, int]:
    """What another file under the same name differs in."""
    about = os.stat(path)
    return about.st_ino, about.st_size, about.st_mtime_ns


@lru_cache(maxsize=HANDLES)
def _opened_zip(path: str, stamp: tuple[int, int, int]) -> zipfile.ZipFile:
    check_regular(Path(path))
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no zip file, or was cut short ({error}): copy it anew") from error


@lru_cache(maxsize=HANDLES)
def _opened_file(path: str, stamp: tuple[int, int, int]) -> _Opened:
    return _Opened(path)


class _Opened:
    """A file that is read at any place, and closed with this object."""

    def __init__(self, path: str):
        check_regular(Path(path))
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
