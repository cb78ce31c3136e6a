"""The ledger tells how far a sweep is, whatever process or machine a job runs on."""

import shutil
import subprocess
import sys
import time

import pytest

from benchmarks.sweep import ledger
from benchmarks.sweep.ledger import (
    FAILED,
    INTERRUPTED,
    MADE,
    PASSED,
    RUNNING,
    Job,
    Ledger,
    open_ledger,
    seconds_left,
)
from hierdiff.files.lock import LOCK

NOW = 1000.0


def ran(seconds, state=MADE):
    """A job that took some seconds, or runs since then."""
    return Job("a", state, NOW - seconds, None if state == RUNNING else NOW)


@pytest.mark.parametrize(
    ("jobs", "total", "seconds"),
    [
        ([], 3, None),  # nothing is known yet
        ([ran(60, FAILED), ran(0, RUNNING)], 3, None),  # a failure says nothing of the others
        ([ran(60), ran(0, RUNNING)], 4, 180),  # this one and two more
        ([ran(60), ran(120), ran(0, RUNNING)], 4, 180),
        ([ran(0, PASSED), ran(0, PASSED), ran(60), ran(0, RUNNING)], 4, 60),
        ([ran(60), ran(0, RUNNING), ran(30, RUNNING)], 6, (60 + 30 + 3 * 60) / 2),  # two at once
        ([ran(60), ran(0, RUNNING), ran(50, RUNNING)], 3, 60),  # no sooner than the last one
        ([ran(60), ran(0, RUNNING), ran(500, RUNNING)], 3, 60),
        ([ran(60)], 1, 0),
    ],
)
def test_the_time_left_is_that_of_what_is_not_made_yet(jobs, total, seconds):
    assert seconds_left(dict(enumerate(jobs)), total, NOW) == seconds


def test_a_line_says_where_the_sweep_stands(tmp_path):
    with open_ledger(tmp_path, 7) as found:
        found.put(0, Job("mdm", RUNNING, time.time()))
        assert found.place(0, "mdm") == "job 1 of 7: mdm"
        now, found = time.time(), Ledger(found.folder, 7, time.time() - 720)
        found.put(0, Job("mdm", MADE, now - 720, now - 480))
        found.put(1, Job("chen", MADE, now - 480, now))
        found.put(2, Job("rin", RUNNING, now))
        line = "job 3 of 7: rin; 2 done in 12 min, about 30 min left"
        assert found.place(2, "rin") == line


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_a_time_is_told_in_the_unit_that_suits_it(seconds, text):
    assert ledger.duration(seconds) == text


def test_what_a_job_of_another_process_left_is_read(tmp_path):
    code = (
        "from benchmarks.sweep.ledger import *\n"
        "Ledger.here().put(1, Job('rin', 'failed', 1.0, 2.0)); Ledger.here().stop()"
    )
    with open_ledger(tmp_path, 2) as found:
        assert Ledger.here() == found and not found.stopped
        subprocess.run([sys.executable, "-c", code], check=True)
        assert found.jobs() == {1: Job("rin", "failed", 1.0, 2.0)}
        assert found.labels(FAILED) == ["rin"] and not found.labels(INTERRUPTED)
        assert found.stopped


def test_a_ledger_goes_away_at_the_end(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_ledger(tmp_path, 2) as found:
        found.put(0, Job("a", RUNNING, 1.0))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    assert Ledger.here() is None
    found.put(1, Job("b", RUNNING, 1.0))  # of a cluster's job that goes on
    assert not list(tmp_path.iterdir())


def test_the_ledger_of_a_killed_sweep_is_not_read_and_goes_away(tmp_path):
    with open_ledger(tmp_path, 2) as first:
        first.put(0, Job("a", MADE, 1.0, 2.0))
        killed = shutil.copytree(first.folder, first.folder.with_name("killed"))
        (killed / LOCK).unlink()
        with open_ledger(tmp_path, 2) as second:  # beside the first, which is at work
            assert second.jobs() == {}
            assert first.jobs() and not killed.exists()


def test_sweeps_that_begin_and_end_at_once_keep_their_own_ledgers_and_leave_none(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.sweep.ledger import *\n"
        "for i in range(100):\n"
        "    with open_ledger(Path(sys.argv[1]), 1) as ledger:\n"
        "        ledger.put(0, Job('a', 'made', 1.0, 2.0))\n"
        "        assert ledger.jobs(), 'another sweep removed it'\n"
    )
    sweeps = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [sweep.wait() for sweep in sweeps] == [0, 0, 0]
    assert not list(tmp_path.iterdir())
