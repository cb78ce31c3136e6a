"""Reading files that may have been damaged: whatever is wrong with one is `Damaged`."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Damaged(ValueError):
    """A file cannot be read as what its name promises: cut short, changed, or of another kind."""


def check_regular(path: Path) -> None:
    """Refuses what is no regular file: opening a pipe, a socket or a device may never end.

    Raises:
        OSError: for one of those, a folder, or where nothing is there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def read_text(path: Path) -> str:
    r"""UTF-8 with or without a byte-order mark; lines end in "\n" alone, whatever ended them.

    Split it at "\n": `splitlines` also cuts at U+2028 and U+0085, which text may hold.

    Raises:
        ValueError: names the first line that is no UTF-8.
        OSError: where it is no regular file or cannot be read.
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


def with_escapes(text: str) -> str:
    """The text with a backslash escape for what is no UTF-8, ends a line or steers a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def from_json(text: str | bytes, **options: Any) -> Any:
    """As `json.loads`.

    Raises:
        ValueError: for all that is no JSON, also where it nests too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns every error inside but FileNotFoundError into `Damaged`.

    Decoders raise many kinds on damaged files: zlib, struct, tokenize, MemoryError, ...

    Raises:
        FileNotFoundError: where there is no file.
        Damaged: for any other error.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {error})") from error
