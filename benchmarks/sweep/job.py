"""A job of a sweep: how it ends, and what it leaves."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from benchmarks.sweep import ledger as states
from benchmarks.sweep.finished import finished
from benchmarks.sweep.ledger import Job, Ledger
from benchmarks.sweep.process import BUSY, INTERRUPTED, noticed, run
from hierdiff.results.record import FILE, Record


def looked_at(label: str, look: Callable[[], None]) -> None:
    """A job of a dry sweep: what speaks against it is said, and the next one is looked at."""
    ledger, began = Ledger.here(), time.time()
    try:
        look()
        state = states.PASSED
    except Exception as error:
        print(f"error: {label}: {reason(error)}", file=sys.stderr, flush=True)
        state = states.FAILED
    if ledger is not None:
        ledger.put(int(HydraConfig.get().job.num), Job(label, state, began, time.time()))


def job(options: dict[str, Any], folder: Path) -> Record | None:
    """The record of a job of this sweep, as it is there or made in a fresh process; None where it
    was interrupted or another process is at it. A failure is a record too, and no exception."""
    number, label = int(HydraConfig.get().job.num), options["label"]
    ledger, began = Ledger.here(), time.time()
    if ledger is not None and ledger.stopped:
        return None

    def put(state: str) -> None:
        if ledger is not None:
            ended = None if state == states.RUNNING else time.time()
            ledger.put(number, Job(label, state, began, ended))

    try:
        record = finished(options, folder)
        if record is not None:
            put(states.PASSED)
            return record
        put(states.RUNNING)
        line = f"job {number + 1}: {label}" if ledger is None else ledger.place(number, label)
        print(line, file=sys.stderr, flush=True)
        state, record = apart(options, folder, ledger)
        put(state)
        return record
    except Exception as error:
        print(f"error: {label}: {reason(error)}", file=sys.stderr, flush=True)
        put(states.FAILED)
        return None


def apart(
    options: dict[str, Any], folder: Path, ledger: Ledger | None
) -> tuple[str, Record | None]:
    """How a job ended in a process of its own, and its record."""
    told = HydraConfig.get()
    command = [sys.executable, "-m", "benchmarks.run", *told.overrides.task]
    for source in told.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    with noticed(ledger) as interrupts:
        try:
            code, last = run(command, ledger, interrupts)
        except Exception as error:  # submitit raises one where a job's time is up
            code, last = 1, reason(error)
    stopped = bool(interrupts) or (ledger is not None and ledger.stopped)
    if interrupts and ledger is not None:
        ledger.stop()
    missing = not (folder / FILE).exists()
    if code in (INTERRUPTED, -signal.SIGINT) or (stopped and missing):
        return states.INTERRUPTED, None
    if code == BUSY:
        return states.BUSY, None
    if missing:
        failed(options, ended(code, last)).write(folder)
    record = Record.read(folder)
    return states.FAILED if record.failure is not None or code else states.MADE, record


def ended(code: int, last: str) -> str:
    """Why a job has no record, in one sentence."""
    if code < 0:
        name = signal.Signals(-code).name
        why = " (as the system does where memory runs out)" if name == "SIGKILL" else ""
        return f"killed by {name}{why}"
    return last.removeprefix("error: ") or f"exit code {code}"


def reason(error: Exception) -> str:
    """Of an exception, in one line; the first sentence alone where memory ran out."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {text.partition('. ')[0]}"
    expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
    return text if expected else f"{type(error).__name__}: {text}"


def failed(options: dict[str, Any], reason: str) -> Record:
    """The row of a job that ended without its numbers."""
    return Record(
        name=options["label"],
        method=options["method"]["name"],
        data=options["data"]["name"],
        budget=options["budget_name"],
        resolutions=tuple(options["method"]["resolutions"]),
        config=options,
        failure=reason,
    )
