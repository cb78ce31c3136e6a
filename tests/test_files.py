"""A folder belongs to one process at a time, and is free again when that one is gone."""

import subprocess
import sys
import textwrap

import pytest

from hierdiff.files import RANKS, Busy, worked_in

HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from hierdiff.files import worked_in
    with worked_in(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
    """
)


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused(holder, tmp_path):
    with pytest.raises(Busy, match="another process works in"), worked_in(tmp_path):
        pytest.fail("two processes work in one folder")


def test_a_killed_process_lets_go(holder, tmp_path):
    holder.kill()
    holder.wait()
    with worked_in(tmp_path):
        pass


def test_a_folder_is_free_after_use_and_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), worked_in(tmp_path):
        _ = 1 / 0
    with worked_in(tmp_path):
        pass


@pytest.mark.parametrize("rank", RANKS)
def test_only_the_first_process_of_a_group_asks(rank, holder, tmp_path, monkeypatch):
    monkeypatch.setenv(rank, "1")
    with worked_in(tmp_path):
        pass
