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
    """Writes `content` with its SHA-256, for `read_json`."""
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write(path, f'{{"sha256": "{digest}", "content": {text}}}\n'.encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: `Damaged`, whatever else is wrong with it.
    """
    with damage(path):
        record = from_json(read_text(path))
        text = json.dumps(record["content"])
        if record["sha256"] != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError("its content does not match its sha256")
        return record["content"]


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of the content of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path, sha256: str) -> None:
    """Writes the SHA-256 of a large file beside its place, for `check_seal`; the file comes
    later."""
    write_json(_seal_of(path), {"sha256": sha256})


def check_seal(path: Path) -> None:
    """Checks that a file has the SHA-256 of its seal.

    The content is read when the file was changed since the last check, or was never checked: by
    its size, time of change of content and of anything else (which nobody can set), and inode. What
    a disk loses without a write is not seen.

    Raises:
        FileNotFoundError: where the file or its seal is absent.
        ValueError: `Damaged`, where they do not match.
    """
    about = path.stat()
    now = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    record = read_json(_seal_of(path))
    with damage(path):
        if record.get("checked") == now:
            return
        check_regular(path)
        sha256 = sha256_of_file(path)
        if sha256 != record["sha256"]:
            raise ValueError("its content does not match its sha256")
    with suppress(OSError):  # a cache that others own is checked each time
        write_json(_seal_of(path), {"sha256": sha256, "checked": now})


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")
