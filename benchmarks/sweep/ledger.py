"""The ledger of a sweep: how each job stands, and when the rest will be done.

Jobs may run in other processes and on other machines and share files alone. So the ledger is a
folder with one small file a job, each written whole by that job: on a network file system the
lines that several machines append to one file may mix. Whose process holds the folder runs the
sweep; one that nobody holds was left by a sweep that was killed. Times are seconds since 1970.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hierdiff.files.atomic import write
from hierdiff.files.lock import LOCK, Busy, worked_in
from hierdiff.files.reading import from_json

VARIABLE = "HIERDIFF_SWEEP"  # tells the jobs of a sweep its number of jobs, start and folder
WITHIN = ".sweeps"  # of the folder of a sweep's runs
STOP = "stop"

RUNNING, MADE, FAILED, INTERRUPTED = "running", "made", "failed", "interrupted"
PASSED = "passed"  # nothing to do: the record was there
BUSY = "busy"  # another process works in its folder


@dataclass(frozen=True)
class Job:
    """How a job stands; `ended` is None while it runs."""

    label: str
    state: str
    began: float
    ended: float | None = None

    def seconds(self, now: float) -> float:
        return (now if self.ended is None else self.ended) - self.began


@dataclass(frozen=True)
class Ledger:
    """The jobs of one sweep by number, from 0."""

    folder: Path
    total: int
    began: float

    @classmethod
    def here(cls) -> Ledger | None:
        """That of the sweep in which this process is a job; None where the launcher's environment
        did not come along."""
        given = os.environ.get(VARIABLE, "").split(":", 2)
        return cls(Path(given[2]), int(given[0]), float(given[1])) if len(given) == 3 else None

    def put(self, number: int, job: Job) -> None:
        if self.folder.is_dir():  # else the sweep is over, and its jobs go on alone
            write(self.folder / f"{number}.json", json.dumps(asdict(job)).encode())

    def jobs(self) -> dict[int, Job]:
        """Those that have begun."""
        found = {}
        for path in self.folder.glob("[0-9]*.json"):
            try:
                found[int(path.stem)] = Job(**from_json(path.read_bytes()))
            except (OSError, ValueError, TypeError):  # replaced at this moment, or none of ours
                continue
        return found

    def labels(self, state: str) -> list[str]:
        return [job.label for _, job in sorted(self.jobs().items()) if job.state == state]

    def stop(self) -> None:
        """No further job shall begin."""
        if self.folder.is_dir():
            write(self.folder / STOP, b"")

    @property
    def stopped(self) -> bool:
        return (self.folder / STOP).exists()

    def place(self, number: int, label: str) -> str:
        """`job 3 of 7: rin; 2 done in 12 min, about 20 min left`; the job has begun."""
        jobs, now = self.jobs(), time.time()
        line = f"job {number + 1} of {self.total}: {label}"
        done = sum(job.state in (MADE, FAILED) for job in jobs.values())
        if not done:
            return line
        line += f"; {done} done in {duration(now - self.began)}"
        rest = seconds_left(jobs, self.total, now)
        return line if rest is None else f"{line}, about {duration(rest)} left"


def seconds_left(jobs: Mapping[int, Job], total: int, now: float) -> float | None:
    """Seconds to the end of a sweep, None where no job has been made yet.

    A job takes the mean of those that were made; as many run at once as do now, and the last one
    ends no sooner than any that runs now.
    """
    made = [job.seconds(now) for job in jobs.values() if job.state == MADE]
    if not made:
        return None
    mean = sum(made) / len(made)
    running = [max(mean - job.seconds(now), 0) for job in jobs.values() if job.state == RUNNING]
    work = mean * (total - len(jobs)) + sum(running)
    return max(work / max(len(running), 1), *running, 0)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def open_ledger(place: Path, total: int) -> Iterator[Ledger]:
    """The ledger of a new sweep of `total` jobs, below `place`; it is gone at the end.

    Jobs that are started meanwhile find it by `Ledger.here`. What killed sweeps left is removed.
    """
    place = (place / WITHIN).resolve()
    _remove_dead(place)
    began = time.time()
    ledger = Ledger(place / f"{began:.6f}-{os.getpid()}", total, began)
    os.environ[VARIABLE] = f"{total}:{began}:{ledger.folder}"
    try:
        with _held(ledger.folder):
            yield ledger
    finally:
        os.environ.pop(VARIABLE, None)
        shutil.rmtree(ledger.folder, ignore_errors=True)
        _remove_dead(place)
        with suppress(OSError):  # of another sweep
            place.rmdir()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A new folder, held by this process. Another sweep may take it for a dead one, and remove it,
    before this process has its lock."""
    with ExitStack() as held:
        while True:
            with suppress(Busy, FileNotFoundError, FileExistsError):
                held.enter_context(worked_in(folder))
                if (folder / LOCK).exists():
                    break
                held.close()
        yield


def _remove_dead(place: Path) -> None:
    """Ledgers of sweeps that were killed: those that nobody holds."""
    with suppress(FileNotFoundError):  # another sweep removes them as well
        for old in place.glob("*/"):
            with suppress(OSError), worked_in(old):  # or holds it
                shutil.rmtree(old)
