"""The ledger of a sweep: the state of each job, and the time that is left.

Jobs may run in other processes and on other machines, so that they share nothing but files. The
ledger is a folder with one small file for each job, which that job writes whole: lines that many
machines append to one file of a network file system may mix. The process of the sweep holds a lock
of the folder; a folder without a holder was left by a sweep that was killed. Times are seconds
since 1970.
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

VARIABLE = "HIERDIFF_SWEEP"  # environment of a job: the sweep's number of jobs, start and folder
WITHIN = ".sweeps"  # of the folder of a sweep's runs
STOP = "stop"

RUNNING, MADE, FAILED, INTERRUPTED = "running", "made", "failed", "interrupted"
PASSED = "passed"  # nothing to do: the record is complete
BUSY = "busy"  # another process works in the job's folder


@dataclass(frozen=True)
class Job:
    """The state of a job; `ended` is None while it runs."""

    label: str
    state: str
    began: float
    ended: float | None = None

    def seconds(self, now: float) -> float:
        """The duration of the job until its end, or until now."""
        return (now if self.ended is None else self.ended) - self.began


@dataclass(frozen=True)
class Ledger:
    """The jobs of one sweep by number, from 0."""

    folder: Path
    total: int
    began: float

    @classmethod
    def here(cls) -> Ledger | None:
        """The ledger of the sweep whose job this process is; None outside of a sweep, or where the
        launcher does not pass the environment on."""
        parts = os.environ.get(VARIABLE, "").split(":", 2)
        return cls(Path(parts[2]), int(parts[0]), float(parts[1])) if len(parts) == 3 else None

    def put(self, number: int, job: Job) -> None:
        """Writes the state of a job."""
        if self.folder.is_dir():  # else the sweep is over, and its jobs go on alone
            write(self.folder / f"{number}.json", json.dumps(asdict(job)).encode())

    def jobs(self) -> dict[int, Job]:
        """The jobs that have begun, by number."""
        jobs = {}
        for path in self.folder.glob("[0-9]*.json"):
            try:
                jobs[int(path.stem)] = Job(**from_json(path.read_bytes()))
            except (OSError, ValueError, TypeError):  # being replaced, or not a job's file
                continue
        return jobs

    def labels(self, state: str) -> list[str]:
        """Labels of the jobs in a state, by number."""
        return [job.label for _, job in sorted(self.jobs().items()) if job.state == state]

    def stop(self) -> None:
        """Keeps further jobs from beginning."""
        if self.folder.is_dir():
            write(self.folder / STOP, b"")

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called in any process."""
        return (self.folder / STOP).exists()

    def place(self, number: int, label: str) -> str:
        """A line for a job that begins: `job 3 of 7: rin; 2 done in 12 min, about 20 min left`."""
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

    Assumes that a job takes the mean of those that were made, and that as many run at once as now;
    the sweep ends no sooner than any job that runs now.
    """
    made = [job.seconds(now) for job in jobs.values() if job.state == MADE]
    if not made:
        return None
    mean = sum(made) / len(made)
    running = [max(mean - job.seconds(now), 0) for job in jobs.values() if job.state == RUNNING]
    work = mean * (total - len(jobs)) + sum(running)
    return max(work / max(len(running), 1), *running, 0)


def duration(seconds: float) -> str:
    """Seconds as `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextmanager
def open_ledger(place: Path, total: int) -> Iterator[Ledger]:
    """The ledger of a new sweep of `total` jobs, below `place`; it is removed at the end.

    Jobs that start inside the context find it by `Ledger.here`. Ledgers of killed sweeps are
    removed.
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
    """A new folder, whose lock this process holds.

    Before it has the lock, another sweep may remove the folder as a dead one; then it is made anew.
    """
    with ExitStack() as held:
        while True:
            with suppress(Busy, FileNotFoundError, FileExistsError):
                held.enter_context(worked_in(folder))
                if (folder / LOCK).exists():
                    break
                held.close()
        yield


def _remove_dead(place: Path) -> None:
    """Removes the ledgers of killed sweeps: those whose lock nobody holds."""
    with suppress(FileNotFoundError):  # another sweep removes them as well
        for old in place.glob("*/"):
            with suppress(OSError), worked_in(old):  # or holds it
                shutil.rmtree(old)
