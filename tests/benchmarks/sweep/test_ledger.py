"""The ledger tells how far a sweep is, whatever process or machine a job runs on."""

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

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
from hierdiff.files.claim import Holder, Watch

NOW = 1000.0


def jobs(number):
    """The overrides of so many jobs."""
    return [[f"seed={seed}"] for seed in range(number)]


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
    with open_ledger(tmp_path, jobs(7)) as found:
        found.put(0, Job("mdm", RUNNING, time.time()))
        assert found.place(0, "mdm") == "job 1 of 7: mdm"
        now, found = time.time(), replace(found, began=time.time() - 720)
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
    with open_ledger(tmp_path, jobs(2)) as found:
        assert Ledger.here() == found and not found.stopped
        subprocess.run([sys.executable, "-c", code], check=True)
        assert found.jobs() == {1: Job("rin", "failed", 1.0, 2.0)}
        assert found.labels(FAILED) == ["rin"] and not found.labels(INTERRUPTED)
        assert found.stopped


def test_a_ledger_goes_away_at_the_end(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_ledger(tmp_path, jobs(2)) as found:
        found.put(0, Job("a", RUNNING, 1.0))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    assert Ledger.here() is None
    found.put(1, Job("b", RUNNING, 1.0))  # of a cluster's job that goes on
    assert not list(tmp_path.iterdir())


def test_commands_of_the_same_jobs_share_a_ledger_and_others_do_not(tmp_path):
    with open_ledger(tmp_path, jobs(2)) as first:
        first.put(0, Job("a", MADE, 1.0, 2.0))
        with open_ledger(tmp_path, jobs(2), order=[1, 0], retries=3) as second:
            assert second.jobs() == first.jobs()
            assert (Ledger.here().order, Ledger.here().retries) == ((1, 0), 3)
            second.stop("user")
            assert second.stopped and not first.stopped
        with open_ledger(tmp_path, jobs(3)) as third:
            assert third.jobs() == {}
        assert first.jobs()
    assert not list(tmp_path.iterdir())


def test_the_ledger_of_a_killed_sweep_is_not_read_and_goes_away(tmp_path):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from benchmarks.sweep.ledger import *\n"
        "with open_ledger(Path(sys.argv[1]), [['seed=0'], ['seed=1']]) as ledger:\n"
        "    ledger.put(0, Job('a', 'failed', 1.0, 2.0))\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with open_ledger(tmp_path, jobs(2)) as ledger:
        assert ledger.jobs() == {}
    assert not list(tmp_path.iterdir())


def test_each_takes_the_next_job_by_order_that_nobody_holds_and_what_a_dead_one_leaves(tmp_path):
    with open_ledger(tmp_path, jobs(4), order=[2, 0, 3, 1]) as ledger, ExitStack() as held:
        ledger.put(0, Job("a", MADE, 1.0, 2.0))
        assert [ledger.take(held, Watch()) for _ in range(4)] == [2, 3, 1, None]
        for number in (2, 3, 1):
            ledger.put(number, Job("a", RUNNING, 1.0))
        assert ledger.take(held, Watch()) is None and len(ledger.running()) == 3
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        ledger.claim(3).write_bytes(replace(Holder.here(), pid=ended.pid, began="1").content())
        assert ledger.take(held, Watch()) == 3


WORKS = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from benchmarks.sweep.ledger import *
place, dies = Path(sys.argv[1]), len(sys.argv) > 2
with open_ledger(place, [[f"seed={n}"] for n in range(12)]) as ledger:
    (place / f"ready{os.getpid()}").touch()
    while len([*place.glob("ready*")]) < 3:  # a later one would begin the sweep anew
        time.sleep(0.01)
    made = 0
    while any(map(ledger.is_open, ledger.order)):
        with ExitStack() as held:
            number = ledger.take(held, Watch())
            if number is None:
                continue
            ledger.put(number, Job(str(number), RUNNING, time.time()))
            if dies and made == 3:
                os._exit(9)
            with open(place / f"made{number}", "a") as file:
                file.write("x")
            ledger.put(number, Job(str(number), MADE, time.time(), time.time()))
            made += 1
"""


def test_processes_share_a_sweep_and_each_job_is_made_once(tmp_path):
    told = [sys.executable, "-c", WORKS, str(tmp_path)]
    processes = [subprocess.Popen([*told, *more]) for more in ([], [], ["dies"])]
    assert sorted(process.wait() for process in processes) in ([0, 0, 9], [0, 0, 0])
    assert len([*tmp_path.glob("ready*")]) == 3
    left = {path.name: path.read_text() for path in tmp_path.iterdir() if path.stat().st_size}
    assert left == {f"made{number}": "x" for number in range(12)}


def test_sweeps_that_begin_and_end_at_once_keep_their_own_ledgers_and_leave_none(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.sweep.ledger import *\n"
        "for i in range(8):\n"
        "    with open_ledger(Path(sys.argv[1]), [[sys.argv[2]]]) as ledger:\n"
        "        ledger.put(0, Job('a', 'made', 1.0, 2.0))\n"
        "        assert ledger.jobs(), 'another sweep removed it'\n"
    )
    sweeps = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), seed]) for seed in "001"]
    assert [sweep.wait() for sweep in sweeps] == [0, 0, 0]
    assert not list(tmp_path.iterdir())
