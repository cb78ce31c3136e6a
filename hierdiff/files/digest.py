"""Files checked when they are read: JSON with its SHA-256, seals beside large files."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hierdiff.files.atomic import write
from hierdiff.files.reading import check_regular, damage, from_json, read_text


def write_json(path: Path, content: Any) -> None:
    """`content` with its SHA-256, for `read_json`."""
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write(path, f'{{"sha256": "{digest}", "content": {text}}}\n'.encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote. FileNotFoundError, or `Damaged` whatever is wrong with it."""
    with damage(path):
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
    with damage(path):
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
