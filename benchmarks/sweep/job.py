"""A job of a sweep: how it ends, and the record that it leaves."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from benchmarks.sweep import ledger as states
from benchmarks.sweep.finished import finished_record
from benchmarks.sweep.ledger import Job, Ledger
from benchmarks.sweep.process import BUSY, INTERRUPTED, noting_signals, run_process
from hierdiff.results.record import FILE, Record


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
    """The record of a job of this sweep, read from its folder or made in a fresh process.

    None where the job was interrupted or another process works on it. A failure is a record too and
    raises nothing.
    """
    number, label = int(HydraConfig.get().job.num), config["label"]
    ledger, began = Ledger.here(), time.time()
    if ledger is not None and ledger.stopped:
        return None

    def put(state: str) -> None:
        if ledger is not None:
            ended = None if state == states.RUNNING else time.time()
            ledger.put(number, Job(label, state, began, ended))

    try:
        record = finished_record(config, folder)
        if record is not None:
            put(states.PASSED)
            return record
        put(states.RUNNING)
        line = f"job {number + 1}: {label}" if ledger is None else ledger.place(number, label)
        print(line, file=sys.stderr, flush=True)
        state, record = run_apart(config, folder, ledger)
        put(state)
        return record
    except Exception as error:
        print(f"error: {label}: {reason_of(error)}", file=sys.stderr, flush=True)
        put(states.FAILED)
        return None


def run_apart(
    config: Mapping[str, Any], folder: Path, ledger: Ledger | None
) -> tuple[str, Record | None]:
    """Runs a job in a process of its own; its final state and its record."""
    hydra = HydraConfig.get()
    command = [sys.executable, "-m", "benchmarks.run", *hydra.overrides.task]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    with noting_signals(ledger) as interrupts:
        try:
            code, last = run_process(command, ledger, interrupts)
        except Exception as error:  # by submitit, when the time of a job is up
            code, last = 1, reason_of(error)
    stopped = bool(interrupts) or (ledger is not None and ledger.stopped)
    if interrupts and ledger is not None:
        ledger.stop()
    missing = not (folder / FILE).exists()
    if code in (INTERRUPTED, -signal.SIGINT) or (stopped and missing):
        return states.INTERRUPTED, None
    if code == BUSY:
        return states.BUSY, None
    if missing:
        failure_record(config, reason_of_exit(code, last)).write(folder)
    record = Record.read(folder)
    return states.FAILED if record.failure is not None or code else states.MADE, record


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


def failure_record(config: Mapping[str, Any], reason: str) -> Record:
    """The record of a job that ended without numbers; config: of its run."""
    return Record(
        name=config["label"],
        method=config["method"]["name"],
        data=config["data"]["name"],
        budget=config["budget_name"],
        resolutions=tuple(config["method"].get("resolutions", ())),  # of a published one in files
        config=config,
        failure=reason,
    )
