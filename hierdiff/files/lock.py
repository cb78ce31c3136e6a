"""A folder in which one process works at a time, and its cleaning after a killed one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hierdiff.files.atomic import PART, remove_abandoned
from hierdiff.files.claim import Held, claimed, holder_at

# of torchrun, of processes that Fabric starts, of Slurm
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
LOCK = ".lock"  # of a folder that one process at a time works in


class Busy(OSError):
    """Another process works in a folder."""


@contextmanager
def worked_in(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, which lets go of it also when it is killed.

    The folder may be on a network file system: a claim (`hierdiff.files.claim`) holds it, and a
    process on another machine is waited for until it is known to live or to be gone.
    Files that a killed process left half-written in it are removed; a folder that was made here is
    removed if nothing was written into it. Of the processes of one run the first one holds it for
    all.

    Raises:
        Busy: where another process has it.
    """
    if any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        yield
        return
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with claimed(folder / LOCK):
            clean(folder)
            try:
                yield
            finally:
                if made and folder.is_dir() and [one.name for one in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()
    except Held:
        raise Busy(
            f"another process works in {folder} ({holder_at(folder / LOCK) or 'it has just ended'})"
            f": wait for it, or give another folder=..."
        ) from None
    finally:
        with suppress(OSError):  # of the first that holds anything
            for one in made:
                one.rmdir()


def clean(folder: Path) -> None:
    """Removes what killed processes left half-written in `folder` and below.

    A folder below that another process may hold is left to it, and so is what is being written.
    """
    for place, names, files in os.walk(folder):
        if place != str(folder) and LOCK in files:
            names.clear()
            continue
        for name in [*files, *names]:
            if PART.fullmatch(name):
                with suppress(OSError):  # another process was first, or may not be looked at
                    remove_abandoned(Path(place, name))
