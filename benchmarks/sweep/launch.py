"""A sweep: every job of `-m` in a process of its own, failures as rows, progress over the whole.

A crash, a lack of memory or a kill ends one job and not the sweep: what it leaves is a record with
the reason. The same sweep again does what is missing: finished runs are printed, interrupted ones
go on, failed ones are tried again. The launcher is hydra's: one after another by default,
`hydra/launcher=joblib` for several at once on one machine, `submitit_slurm` for a cluster.
Ctrl-C reaches every process of a terminal: jobs end with a checkpoint, and no further one begins.
SIGTERM and SIGHUP are passed on to the job, and a job whose sweep was killed ends by itself.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import signal
import sys
import time
from collections.abc import Callable, Sequence
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
from benchmarks.sweep.ledger import Job, Ledger, open_ledger
from benchmarks.sweep.process import BUSY, INTERRUPTED
from benchmarks.sweep.shared import check_shared, job_options, own_overrides
from hierdiff.config import stop_signals

REFUSED = 2


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

    Exit code of the sweep: 130 if it was interrupted, 1 if a job ended without its numbers, 2 if a
    folder has the record of another run, 75 if another process works on a job.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._ledger: Ledger | None = None

    def __reduce__(self) -> tuple[type[SweepProgress], tuple[()]]:
        return (
            SweepProgress,
            (),
        )  # launchers send it to their jobs, which find the ledger themselves

    @override
    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        words = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(words, list)
        jobs = jobs_of(words)
        try:
            lines = check_shared(config, jobs)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(REFUSED)
        for line in lines:
            print(line, file=sys.stderr)
        self._ledger = self._open.enter_context(
            open_ledger(Path(config.hydra.sweep.dir), len(jobs))
        )
        atexit.register(self._open.close)  # also where the sweep is interrupted
        digests: dict[str, str] = {}
        for number, overrides in enumerate(jobs):
            try:
                label = label_if_finished(config, overrides, digests)
            except Unlike as error:  # before any job begins
                print(f"error: {error}", file=sys.stderr)
                sys.exit(REFUSED)
            if label is not None:
                now = time.time()
                self._ledger.put(number, Job(label, states.PASSED, now, now))
        if "joblib" in config.hydra.launcher._target_:
            # else the launcher would answer Ctrl-C with SIGKILL to jobs that write a checkpoint,
            # and idle workers, which inherit this, would break its pool
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in stop_signals():
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Asks the jobs to stop, through the ledger."""
        if self._ledger is not None:
            self._ledger.stop()

    @override
    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        if self._ledger is None:
            return
        code, lines = verdict(self._ledger)
        self._open.close()
        for line in lines:
            print(line, file=sys.stderr)
        if code:
            sys.exit(code)


def verdict(ledger: Ledger) -> tuple[int, list[str]]:
    """Exit code of a sweep whose launcher has ended, and lines about the jobs without numbers."""
    failed = ledger.labels(states.FAILED) + ledger.labels(states.RUNNING)
    interrupted, busy = ledger.labels(states.INTERRUPTED), ledger.labels(states.BUSY)
    missing = ledger.total - len(ledger.jobs())
    code, lines = 0, []
    if failed:
        code = 1
        lines.append(f"failed: {', '.join(failed)}; the same command tries again")
    if interrupted or ledger.stopped:
        begun = f" in {', '.join(interrupted)}" if interrupted else ""
        return INTERRUPTED, [*lines, f"interrupted{begun}: the same command goes on"]
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


def label_if_finished(
    config: Any, overrides: Sequence[str], digests: dict[str, str] | None = None
) -> str | None:
    """The label of a job whose record is complete; None for any other.

    Raises:
        Unlike: where its folder has the record of another run.
    """
    try:
        options = job_options(config, own_overrides(config, overrides))
        folder = Path(options["folder"])
        if options["dry_run"] or finished_record(options, folder, digests) is None:
            return None
        return str(options["label"])
    except Unlike:
        raise
    except Exception:  # the job itself reports the error
        return None
