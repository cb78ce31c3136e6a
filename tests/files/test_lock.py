"""A folder belongs to one process at a time, and is free again when that one is gone; what a kill
leaves half-written goes with the next one that works there."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from hierdiff.files.atomic import ABANDONED, clean_beside, part_of, write
from hierdiff.files.lock import RANKS, Busy, clean, worked_in

HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from hierdiff.files.lock import worked_in
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


WRITE = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from hierdiff.files.atomic import write

    def stopped(descriptor):
        print("writing", flush=True)
        time.sleep(60)

    os.fsync = stopped
    write(Path(sys.argv[1]), b"new")
    """
)


@pytest.fixture
def writer(tmp_path):
    """A process that has written a `.part` in a sub-folder, and not moved it to its place."""
    path = tmp_path / "checkpoints" / "step.safetensors"
    write(path, b"old")
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def parts(folder):
    return list(folder.rglob("*.part"))


def test_a_kill_in_a_write_leaves_the_old_file_and_the_next_one_at_work_cleans(writer, tmp_path):
    assert len(parts(tmp_path)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with worked_in(tmp_path):
        assert not parts(tmp_path)
    assert (tmp_path / "checkpoints" / "step.safetensors").read_bytes() == b"old"


def test_what_is_written_at_this_moment_stays(writer, tmp_path):
    with worked_in(tmp_path):
        assert len(parts(tmp_path)) == 1
    clean(tmp_path)
    assert len(parts(tmp_path)) == 1


def test_what_processes_of_older_versions_left_goes_too(tmp_path):
    for name in (".log.jsonl.4711.part", ".statistics.npz.part"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "mine.part").write_bytes(b"a file of the user's")
    clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.part"]


def test_a_folder_that_is_built_stays_until_nothing_in_it_changes_any_more(tmp_path):
    part = part_of(tmp_path / "entry")
    part.mkdir()
    (part / "images.npy").write_bytes(b"")
    old = time.time() - ABANDONED - 1
    os.utime(part, (old, old))
    clean(tmp_path)
    assert part.exists()
    os.utime(part / "images.npy", (old, old))
    clean(tmp_path)
    assert not part.exists()


def test_a_run_below_is_left_to_who_works_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", ".a.12ab.part"):
        (tmp_path / "run" / name).write_bytes(b"")
    clean(tmp_path)
    assert len(parts(tmp_path)) == 1
    with worked_in(tmp_path / "run"):
        assert not parts(tmp_path)


def test_temporary_names_are_random_and_never_too_long(tmp_path):
    path = tmp_path / ("ü" * 100 + ".json")
    assert part_of(path) != part_of(path)
    write(path, b"x")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_in_a_folder_of_the_user_only_halves_of_this_file_go(writer, tmp_path):
    path = tmp_path / "checkpoints" / "step.safetensors"
    others = [path.with_name(name) for name in (".step.safetensors.part", ".a.12.part")]
    others.append(part_of(path.with_name("step")))
    for other in others:
        other.write_bytes(b"")
    clean_beside(path)
    assert len(parts(tmp_path)) == 4  # one is being written
    writer.kill()
    writer.wait()
    clean_beside(path)
    assert sorted(parts(tmp_path)) == sorted(others)


def test_a_folder_into_which_nothing_was_written_does_not_stay(tmp_path):
    with pytest.raises(ValueError, match="refused"), worked_in(tmp_path / "runs" / "new"):
        raise ValueError("refused")
    assert not (tmp_path / "runs").exists()
    with worked_in(tmp_path / "runs" / "new"):
        (tmp_path / "runs" / "new" / "record.json").touch()
    assert (tmp_path / "runs" / "new" / "record.json").exists()


def test_an_empty_folder_that_was_there_stays(tmp_path):
    with worked_in(tmp_path):
        pass
    assert tmp_path.exists()
