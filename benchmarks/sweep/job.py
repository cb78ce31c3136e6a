"""A job of a sweep: how it ends, and the record that it leaves."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from benchmarks.settings import check_run_names
from benchmarks.sweep import ledger as states
from benchmarks.sweep.finished import finished_record
from benchmarks.sweep.ledger import Job, Ledger
from benchmarks.sweep.process import BUSY, INTERRUPTED, noting_signals, of_cluster, run_process
from benchmarks.sweep.retry import signal_may_pass, tries_of
from benchmarks.sweep.shared import job_options, own_overrides
from hierdiff.files.claim import Watch, holder_at
from hierdiff.files.lock import LOCK
from hierdiff.results.record import FILE, Record
from hierdiff.training.interrupt import REQUEUE

SAVING = 120  # seconds for the process of a killed sweep to write its checkpoint
WATCH = Watch()  # of jobs that other machines hold, over all jobs that this process runs


@dataclass(frozen=True)
class Run:
    """A run that is made by a process of its own. overrides: of its command; config: composed of
    them; folder: its run folder."""

    overrides: Sequence[str]
    config: Mapping[str, Any]
    folder: Path

    @property
    def label(self) -> str:
        """The name of its row."""
        return str(self.config["label"])


def check_job(label: str, check: Callable[[], None]) -> None:
    """A job of a dry sweep: calls `check` and prints the error, if it raises one."""
    ledger, began = Ledger.here(), time.time()
    try:
        check()
        state = states.PASSED
    except Exception as error:
        print(f"error: {label}: {reason_of(error)}", file=sys.stderr, flush=True)
        state = states.FAILED
    if ledger is not None:
        ledger.put(int(HydraConfig.get().job.num), Job(label, state, began, time.time()))


def run_job(config: Mapping[str, Any], folder: Path) -> Record | None:
    """The record of the next job of this sweep that nobody holds, read from its folder or made in a
    fresh process.

    config, folder: of the job that runs outside of a ledger. None where there is no further job, it
    was interrupted, or another process works in its folder. A failure is a record too and raises
    nothing.
    """
    ledger = Ledger.here()
    if ledger is None:
        run = Run(HydraConfig.get().overrides.task, config, folder)
        print(f"job: {run.label}", file=sys.stderr, flush=True)
        return make(run, None)[1]
    return run_next(HydraConfig.instance().cfg, ledger)


def run_next(config: Any, ledger: Ledger) -> Record | None:
    """As `run_job`; config: with the node of hydra."""
    with ExitStack() as held:
        number = None if ledger.stopped else ledger.take(held, WATCH)
        if number is None:
            return None
        before, began = ledger.job(number), time.time()
        label = " ".join(ledger.overrides[number])

        def put(state: str) -> None:
            ended = None if state == states.RUNNING else time.time()
            ledger.put(number, Job(label, state, began, ended))

        try:
            run = run_of(config, ledger.overrides[number])
            label = run.label
            put(states.RUNNING)
            if before is not None and before.state == states.RUNNING:
                wait_for_orphan(run.folder)
            record = finished_record(run.config, run.folder)
            if record is not None:
                put(states.PASSED)
                return record
            print(ledger.place(number, label), file=sys.stderr, flush=True)
            state, record = make(run, ledger)
            put(state)
            return record
        except Exception as error:
            print(f"error: {label}: {reason_of(error)}", file=sys.stderr, flush=True)
            put(states.FAILED)
            return None


def run_of(config: Any, overrides: Sequence[str]) -> Run:
    """The run of a job; config: with the node of hydra. Errors are those of its composition."""
    own = own_overrides(config, overrides)
    options = job_options(config, own)
    check_run_names(options)
    return Run(own, options, Path(options["folder"]))


def wait_for_orphan(folder: Path) -> None:
    """Waits while the process of a job whose sweep was killed writes its checkpoint."""
    end = time.monotonic() + SAVING
    while holder_at(folder / LOCK) is not None and time.monotonic() < end:
        time.sleep(states.POLL)


def make(run: Run, ledger: Ledger | None) -> tuple[str, Record | None]:
    """The final state and the record of a run, after as many tries as the sweep allows."""
    state, record = run_apart(run, ledger)
    for _ in range(0 if ledger is None else ledger.retries):
        again = state == states.FAILED and record is not None and record.provenance.get("may_pass")
        if record is None or not again:
            break
        print(f"tried again: {run.label}: {record.failure}", file=sys.stderr, flush=True)
        state, record = run_apart(run, ledger)
    return state, record


def run_apart(run: Run, ledger: Ledger | None) -> tuple[str, Record | None]:
    """Runs a job in a process of its own; its final state and its record."""
    with noting_signals(ledger) as interrupts:
        try:
            code, last = run_process(command_of(run), ledger, interrupts)
        except Exception as error:  # by submitit, when the time of a job is up
            code, last = 1, reason_of(error)
    stopped = bool(interrupts) or (ledger is not None and ledger.stopped)
    if ledger is not None and interrupts:
        ledger.stop("cluster" if of_cluster(interrupts) else "user")
    missing = not (run.folder / FILE).exists()
    if code in (REQUEUE, -signal.SIGUSR1) and not stopped:
        requeue(ledger)
        return states.INTERRUPTED, None
    if code in (INTERRUPTED, REQUEUE, -signal.SIGINT) or (stopped and missing):
        return states.INTERRUPTED, None
    if code == BUSY:
        return states.BUSY, None
    if missing:
        reason, again = reason_of_exit(code, last), signal_may_pass(code)
        failure_record(run.config, reason, run.folder, may_pass=again).write(run.folder)
    record = Record.read(run.folder)
    return states.FAILED if record.failure is not None or code else states.MADE, record


def command_of(run: Run) -> list[str]:
    """The command that makes a run alone."""
    command = [sys.executable, "-m", "benchmarks.run", *run.overrides]
    for source in HydraConfig.get().runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    return command


def requeue(ledger: Ledger | None) -> None:
    """After a cluster has stopped a job: a process of submitit is put back into the queue, as by
    submitit's own signal, and ends; otherwise the whole command stops, to be given again."""
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    if "SUBMITIT_EXECUTOR" in os.environ and callable(signal.getsignal(number)):
        signal.raise_signal(number)
    elif ledger is not None:
        ledger.stop("cluster")


def reason_of_exit(code: int, last: str) -> str:
    """Why a job has no record, in one sentence."""
    if code < 0:
        name = signal.Signals(-code).name
        why = " (as the system does where memory runs out)" if name == "SIGKILL" else ""
        return f"killed by {name}{why}"
    return last.removeprefix("error: ") or f"exit code {code}"


def reason_of(error: Exception) -> str:
    """An exception in one line; only the first sentence where memory ran out."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {text.partition('. ')[0]}"
    expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
    return text if expected else f"{type(error).__name__}: {text}"


def failure_record(
    config: Mapping[str, Any], reason: str, folder: Path, *, may_pass: bool = False
) -> Record:
    """The record of a job that ended without numbers.

    config, folder: of its run. may_pass: whether it may end otherwise if it is tried again.
    """
    return Record(
        name=config["label"],
        method=config["method"]["name"],
        data=config["data"]["name"],
        budget=config["budget_name"],
        resolutions=tuple(config["method"].get("resolutions", ())),  # of a published one in files
        config=config,
        provenance={"tries": tries_of(folder), "may_pass": may_pass},
        failure=reason,
    )
