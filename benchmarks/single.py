"""One run of the benchmark: trained, sampled and measured, its record written, its row printed."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import naming as naming  # registers
from benchmarks import phases
from benchmarks.measure.kept import FILE as MEASURING
from benchmarks.measure.kept import remove_kept
from benchmarks.plan.table import plan_table
from benchmarks.ready import Ready, check_folder, ready
from benchmarks.settings import Settings, check_run_names, settings_of
from benchmarks.sweep import job as sweeping
from benchmarks.sweep.launch import in_sweep
from benchmarks.sweep.process import BUSY
from benchmarks.sweep.retry import may_pass, set_aside
from benchmarks.tables.beside import beside
from benchmarks.tables.formats.terminal import rich_table, terminal_text
from benchmarks.tables.table import tabulate
from hierdiff.config import one_line, print_whole
from hierdiff.files.lock import Busy, worked_in
from hierdiff.processes import leads
from hierdiff.results.record import FILE, Record
from hierdiff.training.interrupt import REQUEUE, Interrupted

log = logging.getLogger(__name__)


def run_one(config: dict[str, Any]) -> None:
    """One run, or one job of a sweep.

    Raises:
        Interrupted: where a user ends it; the exit code is `REQUEUE` where a cluster does.
    """
    check_run_names(config)
    label, folder = str(config["label"]), Path(config["folder"])
    if config["dry_run"]:
        check: Callable[[], None] = lambda: show_plan(settings_of(config))  # noqa: E731
        sweeping.check_job(label, check) if in_sweep() else check()
        return
    if in_sweep():
        record = sweeping.run_job(config, folder)
        if record is not None and record.path is not None:
            show(record, record.path.parent, preset="main")
        return
    check_folder(folder)
    try:
        with worked_in(folder):
            record = make(settings_of(config))
    except Busy as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(BUSY)
    except Interrupted as stop:
        if not stop.requeue:
            raise
        print(one_line(str(stop)), file=sys.stderr)
        sys.exit(REQUEUE)
    show(record, folder)
    for what, place in outputs_of(record, folder).items() if leads() else ():
        console().print(terminal_text(f"{f'{what} ':<9}{place}"), soft_wrap=True)


def show_plan(settings: Settings) -> None:
    """Checks a run and prints its data and its plan."""
    job = ready(settings)
    log.info(job.run.data.summary())
    print_whole(console(), plan_table({str(settings.label): job.plan}))


def make(settings: Settings) -> Record:
    """The record of one run, read or made; a failure is written as a record and raised again.

    Raises:
        FloatingPointError: for weights that are not finite.
        ImportError, OSError, ValueError: as `ready` does.
    """
    job = ready(settings)
    folder, path = settings.place, settings.place / FILE
    if job.record is None and path.exists() and leads():
        log.info("tried again, it had failed: %s", Record.read(path).failure)
        set_aside(folder)
    try:
        return complete_run(job)
    except Exception as error:
        if leads() and not path.exists():
            reason = sweeping.reason_of(error)
            config, again = job.settings.to_config(), may_pass(error)
            sweeping.failure_record(config, reason, folder, may_pass=again).write(folder)
        raise


def complete_run(job: Ready) -> Record:
    """The record of a run, after the phases of it that are missing."""
    settings, record, bench = job.settings, job.record, None
    if record is None:
        if leads():
            print_whole(console(stderr=True), plan_table({str(settings.label): job.plan}))
        bench = phases.train_method(job)
        record = phases.measure(bench)
    else:
        log.info("%s is there: remove it to measure again", settings.place / FILE)
        # of a process that was killed just after it wrote the record
        remove_kept(settings.place / MEASURING)
    analysis = settings.analysis
    if analysis is not None and analysis.name not in record.analysis:
        record = phases.analyse(bench or phases.train_method(job), record, analysis)
    return record


def show(record: Record, folder: Path, preset: str = "all") -> None:
    """Prints the table of a record and of the runs beside it, once for all processes of a run."""
    if leads():
        console().print(rich_table(tabulate(beside(record, folder), preset)))


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or 160 columns in a file."""
    out = Console(stderr=stderr)
    out.width = out.width if out.is_terminal else 160
    return out


def outputs_of(record: Record, folder: Path) -> dict[str, str]:
    """The files and the command with which to look at a run, by kind."""
    lines = {
        "record": f"{folder / FILE}",
        "samples": f"{folder / 'samples.png'} (each level side by side)",
        "loss": f"{folder / 'loss.png'}",
        "table": f"python -m benchmarks.tables {shlex.quote(str(folder.parent))} --format markdown",
    }
    for name, result in record.analysis.items():
        gaps = ", ".join(f"{stage} {gap:+.3g}" for stage, gap in result.get("gap", {}).items())
        lines[name] = f"{folder / f'{name}.png'}{f' (gap {gaps})' if gaps else ''}"
    return lines
