"""What may pass is tried again, what would come again is not, and a record says how often."""

import errno
import signal
import sys

import pytest
import torch

from benchmarks.sweep import job
from benchmarks.sweep.job import Run, failure_record
from benchmarks.sweep.ledger import FAILED, INTERRUPTED, MADE, open_ledger
from benchmarks.sweep.retry import may_pass, set_aside, signal_may_pass, tries_of
from hierdiff.results.record import Record
from hierdiff.training.interrupt import REQUEUE

CONFIG = {
    "label": "a",
    "method": {"name": "mdm", "resolutions": [32, 16]},
    "data": {"name": "critters"},
    "budget_name": "smoke",
}


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (ConnectionResetError("reset by peer"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (MemoryError(), False),
        (ValueError("no option 'drop'"), False),
        (FloatingPointError("the loss is nan"), False),
        (FileNotFoundError("no data"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ImportError("no module"), False),
    ],
)
def test_failures_of_a_machine_may_pass_and_refusals_do_not(error, again):
    assert may_pass(error) is again


def test_a_crash_may_pass_and_a_kill_as_of_a_lack_of_memory_does_not():
    assert signal_may_pass(-signal.SIGSEGV)
    assert not signal_may_pass(-signal.SIGKILL) and not signal_may_pass(1)


def fails(tmp_path, may_pass, *, until):
    """Makes a run that fails before some try; its ledger's state, record and number of tries."""
    run, tries = Run(["label=a"], CONFIG, tmp_path / "a"), []

    def apart(run, ledger):
        if tries:
            set_aside(run.folder)
        tries.append(tries_of(run.folder))
        failed = len(tries) < until
        record = failure_record(CONFIG, "it broke", run.folder, may_pass=may_pass)
        record.write(run.folder)
        return (FAILED if failed else MADE), Record.read(run.folder)

    with (
        pytest.MonkeyPatch.context() as patch,
        open_ledger(tmp_path, [["a=1"]], retries=2) as open_,
    ):
        patch.setattr(job, "run_apart", apart)
        state, record = job.make(run, open_)
    return state, record.provenance["tries"], len(tries)


@pytest.mark.parametrize(
    ("again", "until", "result"),
    [
        (True, 1, (MADE, 1, 1)),
        (True, 2, (MADE, 2, 2)),
        (True, 9, (FAILED, 3, 3)),
        (False, 9, (FAILED, 1, 1)),
    ],
)
def test_a_run_is_tried_as_often_as_allowed_and_its_record_counts(tmp_path, again, until, result):
    assert fails(tmp_path, again, until=until) == result


@pytest.mark.parametrize(
    ("ends", "state", "reason"),
    [
        (f"sys.exit({REQUEUE})", INTERRUPTED, "cluster"),
        ("signal.signal(USR1, signal.SIG_DFL); os.kill(os.getpid(), USR1)", INTERRUPTED, "cluster"),
        ("sys.exit(130)", INTERRUPTED, ""),
        ("os.kill(os.getpid(), signal.SIGSEGV)", FAILED, ""),
    ],
)
def test_a_job_that_a_cluster_stops_ends_its_sweep_to_be_requeued(
    tmp_path, monkeypatch, ends, state, reason
):
    told = [sys.executable, "-c", f"import os, signal, sys; USR1 = signal.SIGUSR1; {ends}"]
    monkeypatch.setattr(job, "command_of", lambda run: told)
    with open_ledger(tmp_path, [["a=1"]]) as ledger:
        run = Run(["a=1"], CONFIG, tmp_path / "a")
        assert job.run_apart(run, ledger)[0] == state
        assert ledger.stop_reason == reason


def test_under_submitit_a_stopped_job_is_put_back_as_by_its_own_signal(tmp_path, monkeypatch):
    def requeued(number, frame):
        raise SystemExit("requeued")

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    before = signal.signal(signal.SIGUSR2, requeued)
    try:
        with (
            open_ledger(tmp_path, [["a=1"]]) as ledger,
            pytest.raises(SystemExit, match="requeued"),
        ):
            job.requeue(ledger)
    finally:
        signal.signal(signal.SIGUSR2, before)
