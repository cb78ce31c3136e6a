"""A sweep: every job of `-m` in a process of its own, failures as rows, progress over the whole.

A crash, a lack of memory or a kill ends one job and not the sweep: what it leaves is a record with
the reason. The same sweep again does what is missing: finished runs are printed, interrupted ones
go on, failed ones are tried again. The launcher is hydra's: one after another by default,
`hydra/launcher=joblib` for several at once on one machine, `submitit_slurm` for a cluster.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf

from hierdiff.record import FILE, Record

log = logging.getLogger(__name__)

STARTED = "HIERDIFF_SWEEP"  # number of jobs and the time at which the first one began
FAILED: list[str] = []  # labels of the jobs of this process that ended without numbers
INTERRUPTED = 130  # exit code of a run that was asked to stop
BUSY = 75  # exit code of a run whose folder another process works on (EX_TEMPFAIL)


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


class Progress(Callback):
    """Counts the jobs before the first one; the sweep's exit code is 1 where one failed."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        told = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        os.environ[STARTED] = f"{jobs(told)}:{time.time()}"  # type: ignore[arg-type]

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        os.environ.pop(STARTED, None)
        if FAILED:
            print(f"failed: {', '.join(FAILED)}; the same command tries again", file=sys.stderr)
            sys.exit(1)


def jobs(overrides: Sequence[str]) -> int:
    """How many jobs the sweep of these overrides has."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = [one for one in parsed if one.is_sweep_override()]
    return math.prod(len(list(one.sweep_iterator())) for one in swept)


def apart(options: dict[str, Any], folder: Path) -> Record | None:
    """The job's record, made in a fresh process; a failure is a record too, None: another process
    is at it. KeyboardInterrupt where the job was interrupted."""
    told = HydraConfig.get()
    print(place(int(told.job.num), options["label"]), file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.run", *told.overrides.task]
    for source in told.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    code, last = run(command)
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt(f"interrupted: the same command goes on with {folder}")
    if code == BUSY:
        log.warning("%s", last)
        return None
    if not (folder / FILE).exists():
        failed(options, ended(code, last)).write(folder)
    record = Record.read(folder)
    if record.failure is not None or code:
        FAILED.append(record.name)
    return record


def run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and last line of stderr, which passes through as it comes."""
    last = b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while True:
            try:
                while chunk := process.stderr.read1():  # type: ignore[attr-defined]
                    sys.stderr.buffer.write(chunk)
                    sys.stderr.flush()
                    last = (last + chunk)[-4000:]
                break
            except KeyboardInterrupt:  # the job has got it as well, and ends with a checkpoint
                continue
    lines = last.decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return process.returncode, lines[-1].strip() if lines else ""


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


def place(number: int, label: str) -> str:
    """Where the sweep stands: `job 3 of 7: rin; 12 min so far, about 16 min left`."""
    total, _, began = os.environ.get(STARTED, "").partition(":")
    line = f"job {number + 1}{f' of {total}' if total else ''}: {label}"
    if number and total:
        spent = time.time() - float(began)
        left = spent / number * (int(total) - number)
        line += f"; {spent / 60:.0f} min so far, about {left / 60:.0f} min left"
    return line
