"""A sweep: every job of `-m` in a process of its own, failures as rows, progress over the whole.

A crash, a lack of memory or a kill ends one job and not the sweep: what it leaves is a record with
the reason. The same sweep again does what is missing: finished runs are printed, interrupted ones
go on, failed ones are tried again. The launcher is hydra's: one after another by default,
`hydra/launcher=joblib` for several at once on one machine, `submitit_slurm` for a cluster. The same
command on several machines with one file system shares the jobs: each takes the next one that
nobody holds, and what a killed one leaves. Ctrl-C reaches every process of a terminal: jobs end
with a checkpoint, and no further one begins. SIGTERM, SIGHUP and SIGUSR1 are passed on to the job,
and a job whose sweep was killed ends by itself.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from typing_extensions import override

from benchmarks.sweep import ledger as states
from benchmarks.sweep.finished import Unlike, finished_record
from benchmarks.sweep.job import run_next
from benchmarks.sweep.ledger import Job, Ledger, open_ledger
from benchmarks.sweep.order import longest_first, planned_works
from benchmarks.sweep.process import BUSY, INTERRUPTED, noting_signals, of_cluster
from benchmarks.sweep.shared import check_shared, job_options, own_overrides
from hierdiff.config import stop_signals
from hierdiff.options import Natural, check
from hierdiff.results.flat import flat
from hierdiff.results.plain import plain
from hierdiff.training.interrupt import REQUEUE

REFUSED = 2
POLL = 1.0  # seconds between two looks at the jobs of other commands
ONE_BY_ONE, QUEUED = "BasicLauncher", "SlurmLauncher"  # launchers


def in_sweep() -> bool:
    """Whether hydra runs several jobs (`-m`)."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def launch_jobs(main: Callable[[], None]) -> None:
    """Runs `main`, with messages for a launcher that is not installed and for Ctrl-C."""
    check_launcher(sys.argv[1:])
    try:
        main()
    except KeyboardInterrupt:  # between two jobs, or while waiting for those of a cluster
        print("interrupted: the same command goes on; jobs in a queue stay there", file=sys.stderr)
        sys.exit(INTERRUPTED)


def check_launcher(arguments: Sequence[str]) -> None:
    """Exits where `hydra/launcher=` names a launcher that is not installed."""
    for name in (one.partition("=")[2] for one in arguments if one.startswith("hydra/launcher=")):
        plugin = f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher"
        if name != "basic" and not _installed(plugin):
            sys.exit(
                f"error: hydra/launcher={name} is not installed: pip install 'hierdiff[sweep]' "
                f"brings joblib, submitit_slurm and submitit_local; basic is always there"
            )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # there is not even one plugin
        return False


class SweepProgress(Callback):
    """Opens the ledger before the first job, and sums it up after the last.

    Exit code of the sweep: 85 if a cluster stopped it, 130 if a user did, 1 if a job ended without
    its numbers, 2 if a folder has the record of another run, 75 if another process works on a job.

    retries: how often a job is tried again whose failure may pass. longest_first: whether jobs of
    the most planned work begin first; None: where several run at once.
    """

    def __init__(self, retries: int = 0, longest_first: bool | None = None) -> None:
        check(retries, Natural, "hydra.callbacks.sweep.retries")
        self._retries, self._longest_first = retries, longest_first
        self._open = ExitStack()
        self._ledger: Ledger | None = None
        self._dry = False

    def __reduce__(self) -> tuple[type[SweepProgress], tuple[int, bool | None]]:
        # launchers send it to their jobs, which find the ledger themselves
        return SweepProgress, (self._retries, self._longest_first)

    @override
    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        words = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(words, list)
        jobs = jobs_of(words)
        try:
            for line in check_shared(config, jobs):
                print(line, file=sys.stderr)
            runs = composed(config, jobs)
            check_folders(runs)
            finished = finished_labels(runs)
        except ValueError as error:  # before any job begins
            print(f"error: {error}", file=sys.stderr)
            sys.exit(REFUSED)
        self._dry = any(run is not None and run["dry_run"] for run in runs)
        order = self._order(config, runs, finished)
        self._ledger = self._open.enter_context(
            open_ledger(Path(config.hydra.sweep.dir), jobs, order, self._retries)
        )
        atexit.register(self._open.close)  # also where the sweep is interrupted
        for number, label in finished.items():
            now = time.time()
            self._ledger.put(number, Job(label, states.PASSED, now, now))
        if "joblib" in config.hydra.launcher._target_:
            # else the launcher would answer Ctrl-C with SIGKILL to jobs that write a checkpoint,
            # and idle workers, which inherit this, would break its pool
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in stop_signals():
                signal.signal(number, self._stop)

    def _order(
        self, config: Any, runs: Sequence[Mapping[str, Any] | None], finished: Mapping[int, str]
    ) -> Sequence[int]:
        several = not config.hydra.launcher._target_.endswith(ONE_BY_ONE)
        packed = several if self._longest_first is None else self._longest_first
        if self._dry or not packed:
            return range(len(runs))
        missing = [None if number in finished else run for number, run in enumerate(runs)]
        return longest_first(planned_works(missing))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._ledger is not None:
            self._ledger.stop("cluster" if of_cluster([number]) else "user")

    @override
    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        if self._ledger is None:
            return
        if not self._dry and not config.hydra.launcher._target_.endswith(QUEUED):
            finish_with_others(config, self._ledger)
        code, lines = verdict(self._ledger)
        self._open.close()
        for line in lines:
            print(line, file=sys.stderr)
        if code:
            sys.exit(code)


def finish_with_others(config: Any, ledger: Ledger) -> None:
    """Waits for the jobs that other commands of the sweep hold, and makes those that they leave."""
    with noting_signals(ledger) as interrupts:
        while any(map(ledger.is_open, ledger.order)) and not (interrupts or ledger.stopped):
            if run_next(config, ledger) is None:
                time.sleep(POLL)
        if interrupts:
            ledger.stop("cluster" if of_cluster(interrupts) else "user")


def verdict(ledger: Ledger) -> tuple[int, list[str]]:
    """Exit code of a sweep whose launcher has ended, and lines about the jobs without numbers."""
    elsewhere = ledger.running()
    begun = [label for label in ledger.labels(states.RUNNING) if label not in elsewhere]
    failed = ledger.labels(states.FAILED) + begun
    interrupted, busy = ledger.labels(states.INTERRUPTED), ledger.labels(states.BUSY) + elsewhere
    missing = ledger.total - len(ledger.jobs())
    code, lines = 0, []
    if failed:
        code = 1
        lines.append(f"failed: {', '.join(failed)}; the same command tries again")
    if interrupted or ledger.stopped:
        at = f" in {', '.join(interrupted)}" if interrupted else ""
        code = REQUEUE if ledger.stop_reason == "cluster" else INTERRUPTED
        return code, [*lines, f"interrupted{at}: the same command goes on"]
    if missing:
        code = 1
        lines.append(f"no word of {missing} of {ledger.total} jobs: see their logs and records")
    if busy:
        code = code or BUSY
        lines.append(
            f"busy: another process works on {', '.join(busy)}; wait for it and give the same "
            f"command again"
        )
    return code, lines


def jobs_of(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each job of a sweep, in the order of hydra's basic sweeper."""
    choices = {}
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key = one.get_key_element()
        values = (
            one.sweep_string_iterator()
            if one.is_sweep_override()
            else [one.get_value_element_as_str()]
        )
        choices[key] = [f"{key}={value}" for value in values]
    return list(itertools.product(*choices.values()))


def composed(config: Any, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
    """The options of each job; None where it cannot be composed, which the job itself reports."""
    runs: list[dict[str, Any] | None] = []
    for overrides in jobs:
        try:
            runs.append(job_options(config, own_overrides(config, overrides)))
        except Exception:
            runs.append(None)
    return runs


def check_folders(runs: Sequence[Mapping[str, Any] | None]) -> None:
    """Refuses jobs that share a folder.

    Raises:
        ValueError: names two of them, and the option in which they differ.
    """
    known: dict[Path, Mapping[str, Any]] = {}
    for run in runs:
        if run is None:
            continue
        other = known.setdefault(Path(run["folder"]).absolute(), run)
        if other is run:
            continue
        was, now = (flat(plain(one, "config", free=True)) for one in (other, run))
        keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        differ = (
            f"differ in {keys[0]} ({was.get(keys[0])} and {now.get(keys[0])})"
            if keys
            else "are the same"
        )
        raise ValueError(
            f"two jobs would work in folder={run['folder']}, which {differ}: leave folder=... to "
            f"be named after the options, or name what differs in it (folder=runs/x/${{seed}})"
        )


def finished_labels(runs: Sequence[Mapping[str, Any] | None]) -> dict[int, str]:
    """The labels of the jobs whose record is complete, by number.

    Raises:
        Unlike: where the folder of one has the record of another run.
    """
    labels: dict[int, str] = {}
    digests: dict[str, str] = {}
    for number, run in enumerate(runs):
        if run is None or run["dry_run"]:
            continue
        try:
            record = finished_record(run, Path(run["folder"]), digests)
        except Unlike:
            raise
        except Exception:  # the job itself reports the error
            continue
        if record is not None:
            labels[number] = str(run["label"])
    return labels
