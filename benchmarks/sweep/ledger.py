"""The ledger of a sweep: the state of each job, who holds it, and the time that is left.

Jobs may run in other processes and on other machines, so that they share nothing but files. The
ledger is a folder named after the jobs, which all commands of the same sweep share: one small file
for each job, written whole by who holds the job's claim (`hierdiff.files.claim`), and a folder for
each command, claimed as long as it runs. Times are seconds since 1970.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hierdiff.files.atomic import write
from hierdiff.files.claim import Held, Watch, claimed, holder_at
from hierdiff.files.reading import from_json
from hierdiff.results.plain import content_hash

VARIABLE = "HIERDIFF_SWEEP"  # environment of a job: the folder of its command
WITHIN = ".sweeps"  # of the folder of a sweep's runs
COMMANDS, PLAN, STOP, CLAIM = "commands", "plan.json", "stop", "claim"
POLL = 0.1  # seconds between two tries to enter or to leave

RUNNING, MADE, FAILED, INTERRUPTED = "running", "made", "failed", "interrupted"
PASSED = "passed"  # nothing to do: the record is complete
BUSY = "busy"  # another process works in the job's folder
OVER = (MADE, FAILED, PASSED, BUSY)  # states of a job that nobody takes again


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
    """The jobs of one sweep by number, from 0, as one of its commands sees them.

    command: its folder. overrides: of each job. order: their numbers, as they are to be taken.
    retries: how often a failed job is tried again. began: when the command did.
    """

    command: Path
    overrides: tuple[tuple[str, ...], ...]
    order: tuple[int, ...]
    retries: int
    began: float

    @classmethod
    def here(cls) -> Ledger | None:
        """The ledger of the sweep whose job this process is; None outside of a sweep, where it is
        over, or where the launcher does not pass the environment on."""
        command = os.environ.get(VARIABLE)
        if command is None:
            return None
        try:
            plan = from_json((Path(command) / PLAN).read_bytes())
        except OSError:
            return None
        overrides = tuple(map(tuple, plan["overrides"]))
        return cls(Path(command), overrides, tuple(plan["order"]), plan["retries"], plan["began"])

    @property
    def folder(self) -> Path:
        """What all commands of the sweep share."""
        return self.command.parent.parent

    @property
    def total(self) -> int:
        """The number of jobs."""
        return len(self.overrides)

    def take(self, held: ExitStack, watch: Watch) -> int | None:
        """The first job, by order, that is not over and that nobody holds; None for none.

        held: gets its claim. watch: of claims on other machines, see `claimed`.
        """
        for number in self.order:
            if not self.is_open(number):
                continue
            try:
                held.enter_context(claimed(self.claim(number), watch))
            except (Held, FileNotFoundError):
                continue
            if self.is_open(number):
                return number
            held.close()
        return None

    def claim(self, number: int) -> Path:
        """The file by which a process holds a job."""
        return self.folder / f"{number}.{CLAIM}"

    def is_open(self, number: int) -> bool:
        """Whether a job is still to be made, or was begun by a process that may be gone."""
        job = self.job(number)
        return job is None or job.state not in OVER

    def job(self, number: int) -> Job | None:
        """The state of a job, None before it has begun."""
        try:
            return Job(**from_json((self.folder / f"{number}.json").read_bytes()))
        except (OSError, ValueError, TypeError):  # being replaced, or not a job's file
            return None

    def put(self, number: int, job: Job) -> None:
        """Writes the state of a job."""
        if self.folder.is_dir():  # else the sweep is over, and its jobs go on alone
            write(self.folder / f"{number}.json", json.dumps(asdict(job)).encode())

    def jobs(self) -> dict[int, Job]:
        """The jobs that have begun, by number."""
        jobs = {number: self.job(number) for number in range(self.total)}
        return {number: job for number, job in jobs.items() if job is not None}

    def labels(self, state: str) -> list[str]:
        """Labels of the jobs in a state, by number."""
        return [job.label for _, job in sorted(self.jobs().items()) if job.state == state]

    def running(self) -> list[str]:
        """Labels of the jobs that a process holds, maybe of another command."""
        jobs = sorted(self.jobs().items())
        return [
            job.label
            for number, job in jobs
            if job.state == RUNNING and holder_at(self.claim(number)) is not None
        ]

    def stop(self, reason: str = "") -> None:
        """Keeps further jobs of this command from beginning; the first reason is kept."""
        if self.command.is_dir() and not self.stopped:
            write(self.command / STOP, reason.encode())

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called in any process of the command."""
        return (self.command / STOP).exists()

    @property
    def stop_reason(self) -> str:
        """The reason of `stop`, "" for none."""
        return (self.command / STOP).read_text() if self.stopped else ""

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
def open_ledger(
    place: Path,
    overrides: Sequence[Sequence[str]],
    order: Sequence[int] | None = None,
    retries: int = 0,
) -> Iterator[Ledger]:
    """The ledger of a sweep below `place`, that of the same jobs if another command has it open.

    Jobs that start inside the context find it by `Ledger.here`. It is removed with its last
    command; what killed commands left is removed before the first. overrides, order, retries: as
    of `Ledger`; order: None for that of `overrides`.
    """
    place = (place / WITHIN).resolve()
    folder = place / content_hash([list(one) for one in overrides])[:16]
    command = folder / COMMANDS / secrets.token_hex(8)
    numbers = tuple(range(len(overrides)) if order is None else order)
    ledger = Ledger(command, tuple(map(tuple, overrides)), numbers, retries, time.time())
    try:
        with ExitStack() as held:
            with _alone_at(folder):
                if not any(map(_runs, folder.glob(f"{COMMANDS}/*"))):
                    shutil.rmtree(folder, ignore_errors=True)
                command.mkdir(parents=True)
                held.enter_context(claimed(command / CLAIM))
                plan = {k: v for k, v in asdict(ledger).items() if k != "command"}
                write(command / PLAN, json.dumps(plan).encode())
            os.environ[VARIABLE] = str(command)
            try:
                yield ledger
            finally:
                os.environ.pop(VARIABLE, None)
                with _alone_at(folder):
                    shutil.rmtree(command, ignore_errors=True)
                    others = (one / CLAIM for one in folder.glob(f"{COMMANDS}/*"))
                    if all(holder_at(claim) is None for claim in others):
                        shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):  # of another sweep
            place.rmdir()


@contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """Waits until no other command enters or leaves the ledger in `folder`."""
    door = folder.with_name(f"{folder.name}.{CLAIM}")
    while True:
        with ExitStack() as held:
            try:
                door.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(claimed(door))
            except (Held, FileNotFoundError):  # its folder was removed with another sweep
                time.sleep(POLL)
                continue
            try:
                yield
            finally:
                if not folder.exists():
                    door.unlink(missing_ok=True)
            return


def _runs(command: Path) -> bool:
    """Whether a command runs; for one on another machine this waits until that is known."""
    try:
        with claimed(command / CLAIM):
            return False
    except (Held, FileNotFoundError):
        return command.is_dir()
