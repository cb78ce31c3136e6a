"""The records below some folders: which files are runs, and why others are left out."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hierdiff.results.record import FILE, Record

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)
# names of folders below that hold no runs of their own: hidden, `a~`, `a.bak`, `a (copy)`
NO_RUN = re.compile(r"^\.|~$|\.(bak|old|orig|backup)$|(\(| - | )copy\b", re.IGNORECASE)


def paths(*folders: str | Path, depth: int | None = None) -> list[Path]:
    """The files of all records at or below the folders (or the files themselves), each once.

    depth: how many folders down, None for all. What is hidden (`.ipynb_checkpoints`), a copy by a
    file manager or a backup is no run, unless it is what was asked for; links are not followed.
    Raises FileNotFoundError.
    """
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: name a folder of runs")
        top = Path(os.path.realpath(folder))
        if not top.is_dir():
            found.add(top)
            continue
        for place, below, files in os.walk(top):
            level = len(Path(place).relative_to(top).parts)
            below[:] = [name for name in below if not NO_RUN.search(name) and level != depth]
            found |= {Path(place, FILE)} if FILE in files else set()
    return sorted(found)


def readable(*folders: str | Path, depth: int | None = None) -> tuple[list[Record], list[str]]:
    """The records at or below the folders, by path, and why others are left out, each by its path.

    Of copies of one record the first stands for all. Raises FileNotFoundError.
    """
    found: dict[str, Record] = {}
    left_out: list[str] = []
    for path in paths(*folders, depth=depth):
        try:
            record = Record.read(path)
        except (ValueError, OSError) as error:
            left_out.append(_with_path(error, path))
            continue
        first = found.setdefault(record.hash, record)
        if first is not record:
            left_out.append(f"{path} is a copy of {first.path}, which has the row")
    return list(found.values()), left_out


def _with_path(error: ValueError | OSError, path: Path) -> str:
    system = isinstance(error, OSError) and error.strerror
    return f"{path} cannot be read ({error.strerror})" if system else str(error)  # type: ignore[union-attr]


def records(*folders: str | Path) -> list[Record]:
    """Every record at or below the folders, by path; those left out are warned of.

    Raises FileNotFoundError.
    """
    found, left_out = readable(*folders)
    for line in left_out:
        log.warning("left out: %s", line)
    return found
