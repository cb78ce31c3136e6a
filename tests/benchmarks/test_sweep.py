"""A sweep goes on after a failure, says why, and does what is missing when it is given again."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks import sweep
from hierdiff.record import Record
from tests.benchmarks.test_run import QUICK


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["method=mdm"], 1),
        (["method=mdm,rin", "data=critters"], 2),
        (["method=mdm,rin", "seed=range(0,3)"], 6),
        (["trainer.lr=choice(1e-3,2e-3)", "+a=[1,2]"], 2),
    ],
)
def test_jobs_are_counted_before_the_first(overrides, count):
    assert sweep.jobs(overrides) == count


def test_the_time_left_is_that_of_the_jobs_so_far(monkeypatch):
    monkeypatch.setenv(sweep.STARTED, f"4:{time.time() - 600}")
    assert sweep.place(0, "mdm") == "job 1 of 4: mdm"
    assert sweep.place(1, "rin") == "job 2 of 4: rin; 10 min so far, about 30 min left"
    monkeypatch.delenv(sweep.STARTED)
    assert sweep.place(1, "rin") == "job 2: rin"  # on another machine


@pytest.mark.parametrize(
    ("code", "last", "reason"),
    [
        (1, "error: no disk", "no disk"),
        (1, "", "exit code 1"),
        (-9, "", "killed by SIGKILL (as the system does where memory runs out)"),
        (-15, "step 3", "killed by SIGTERM"),
    ],
)
def test_a_reason_is_one_sentence(code, last, reason):
    assert sweep.ended(code, last) == reason


def test_the_last_line_of_a_job_is_kept_and_passed_on(capfdbinary):
    code, last = sweep.run([sys.executable, "-c", "import sys; sys.exit('one\\ntwo')"])
    assert (code, last) == (1, "two")
    assert b"one\ntwo" in capfdbinary.readouterr().err


def command(folder, *options):
    place = f"folder={folder}/${{label}}"
    return [sys.executable, "-m", "benchmarks.run", "-m", *QUICK, *options, place]


ENVIRONMENT = {**os.environ, "JAXTYPING_DISABLE": "1"}
BOTH = "method=end_to_end,mdm"


def swept(folder, *options):
    told = command(folder, *options)
    return subprocess.run(told, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_failing_job_is_a_row_and_a_rerun_makes_only_what_is_missing(tmp_path):
    broken = (BOTH, "method.resolutions=[32]")  # mdm's network has two levels
    ended = swept(tmp_path, *broken)
    assert ended.returncode == 1
    assert "job 2 of 2: mdm" in ended.stderr
    assert "nest one network for each" in ended.stdout  # in the table
    made, failed = (Record.read(tmp_path / name) for name in ("end_to_end", "mdm"))
    assert made.failure is None and made.quality
    assert failed.failure is not None and not failed.quality
    before = (tmp_path / "end_to_end" / "record.json").stat().st_mtime_ns
    mended = swept(tmp_path, BOTH)
    assert mended.returncode == 0, mended.stderr
    assert (tmp_path / "end_to_end" / "record.json").stat().st_mtime_ns == before
    assert Record.read(tmp_path / "mdm").failure is None


@pytest.mark.slow
def test_a_killed_sweep_keeps_what_was_finished(tmp_path):
    first = tmp_path / "end_to_end" / "record.json"
    with subprocess.Popen(
        command(tmp_path, BOTH), env=ENVIRONMENT, start_new_session=True
    ) as process:
        while not first.exists() and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, 9)
    kept = first.read_bytes()
    ended = swept(tmp_path, BOTH)
    assert ended.returncode == 0, ended.stderr
    assert first.read_bytes() == kept
    assert Record.read(tmp_path / "mdm").failure is None


@pytest.mark.slow
def test_two_sweeps_into_one_folder_make_whole_records(tmp_path):
    both = [subprocess.Popen(command(tmp_path, BOTH), env=ENVIRONMENT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for name in ("end_to_end", "mdm"):
        record = Record.read(tmp_path / name)
        assert record.failure is None and not record.edited and record.quality
