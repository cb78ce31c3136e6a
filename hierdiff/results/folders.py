"""The records below some folders: which files are runs, and why others are left out."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from hierdiff.results.record import FILE, Record

log = logging.getLogger(__name__)
# names of folders below that hold no runs of their own: hidden, `a~`, `a.bak`, `a (copy)`
NO_RUN = re.compile(r"^\.|~$|\.(bak|old|orig|backup)$|(\(| - | )copy\b", re.IGNORECASE)


def paths(*folders: str | Path, depth: int | None = None) -> list[Path]:
    """The files of all records at or below the folders (or the files themselves), each once.

    depth: how many folders down, None for all. A hidden folder (`.ipynb_checkpoints`), a copy by a
    file manager or a backup is no run, unless it is itself one of `folders`; links are not
    followed.

    Raises:
        FileNotFoundError: where a folder does not exist.
    """
    records_at: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: name a folder of runs")
        top = Path(os.path.realpath(folder))
        if not top.is_dir():
            records_at.add(top)
            continue
        for place, below, files in os.walk(top):
            depth_here = len(Path(place).relative_to(top).parts)
            below[:] = [name for name in below if not NO_RUN.search(name) and depth_here != depth]
            records_at |= {Path(place, FILE)} if FILE in files else set()
    return sorted(records_at)


def readable(*folders: str | Path, depth: int | None = None) -> tuple[list[Record], list[str]]:
    """The records at or below the folders, by path, and why others are left out, each by its path.

    Of copies of one record the first stands for all. Errors: as in `paths`.
    """
    by_hash: dict[str, Record] = {}
    left_out: list[str] = []
    for path in paths(*folders, depth=depth):
        try:
            record = Record.read(path)
        except (ValueError, OSError) as error:
            left_out.append(_with_path(error, path))
            continue
        first = by_hash.setdefault(record.hash, record)
        if first is not record:
            left_out.append(f"{path} is a copy of {first.path}, which has the row")
    return list(by_hash.values()), left_out


def _with_path(error: ValueError | OSError, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{path} cannot be read ({error.strerror})"
    return str(error)


def records(*folders: str | Path) -> list[Record]:
    """Every record at or below the folders, by path, with a warning for each that is left out.

    Errors: as in `paths`.
    """
    readable_ones, left_out = readable(*folders)
    for line in left_out:
        log.warning("left out: %s", line)
    return readable_ones
