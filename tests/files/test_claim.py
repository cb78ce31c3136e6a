"""A claim has one holder; it is taken over from one that is gone, and from nobody else."""

import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace

import pytest

from hierdiff.files import claim
from hierdiff.files.claim import STALE, UNREADABLE, Held, Holder, Watch, claimed, holder_at


class Clock:
    """Seconds that pass by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def elsewhere(tmp_path):
    """A claim of a process on another machine, whose clock is an hour behind."""
    path = tmp_path / "claim"
    holder = replace(Holder.here(), machine="another", host="node7", renewed=time.time() - 3600)
    path.write_bytes(holder.content())
    return path, holder


def test_a_claim_is_refused_while_it_is_held_and_free_afterwards(tmp_path):
    path = tmp_path / "claim"
    for _ in range(2):
        with claimed(path):
            assert holder_at(path).pid == os.getpid()
            with pytest.raises(Held, match=f"process {os.getpid()} on "), claimed(path):
                pytest.fail("it has two holders")
        assert holder_at(path) is None
    assert [one.name for one in tmp_path.iterdir()] == ["claim"]


def test_a_process_that_has_ended_here_is_succeeded_at_once(tmp_path):
    path = tmp_path / "claim"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for holder in (
        replace(Holder.here(), pid=ended.pid, began="17"),
        replace(Holder.here(), began="17"),  # its number was given to this process
    ):
        path.write_bytes(holder.content())
        with claimed(path, Watch()):
            assert holder_at(path).token != holder.token


def test_a_holder_elsewhere_is_stale_by_what_was_seen_and_not_by_its_clock(elsewhere):
    path, holder = elsewhere
    clock = Clock()
    watch = Watch(clock)
    for _ in range(3):  # its clock is wrong, and it renews
        with pytest.raises(Held, match="node7"), claimed(path, watch):
            pytest.fail("the holder lives")
        clock.now += STALE - 1
        holder = replace(holder, renewed=holder.renewed + 1)
        path.write_bytes(holder.content())
    with pytest.raises(Held), claimed(path, watch):
        pytest.fail("nobody has watched it for long")
    clock.now += STALE
    with claimed(path, watch):
        assert holder_at(path).token != holder.token


def test_who_waits_is_told_as_soon_as_a_holder_elsewhere_renews(elsewhere, monkeypatch):
    path, holder = elsewhere

    def beat(seconds):
        path.write_bytes(replace(holder, renewed=holder.renewed + 1).content())

    monkeypatch.setattr(claim.time, "sleep", beat)
    with pytest.raises(Held, match="node7"), claimed(path):
        pytest.fail("the holder lives")


def test_a_claim_that_is_let_go_elsewhere_is_free_at_once(elsewhere):
    path, holder = elsewhere
    path.write_bytes(replace(holder, free=True).content())
    with claimed(path, Watch()):
        pass


@pytest.mark.parametrize("content", [b"", b'{"pid": 3}', b"\xff\x00"])
def test_a_file_that_names_no_holder_is_waited_for_and_replaced(tmp_path, content):
    path, clock = tmp_path / "claim", Clock()
    path.write_bytes(content)
    watch = Watch(clock)
    with pytest.raises(Held, match="unknown"), claimed(path, watch):
        pytest.fail("it may be in the making")
    clock.now += UNREADABLE
    with claimed(path, watch):
        assert holder_at(path) is not None


def test_it_is_renewed_in_place_and_the_main_thread_hears_of_its_loss(tmp_path, monkeypatch):
    path, heard = tmp_path / "claim", []
    monkeypatch.setattr(claim, "BEAT", 0.01)
    monkeypatch.setattr(claim._thread, "interrupt_main", heard.append)
    with claimed(path):
        first, inode = holder_at(path), path.stat().st_ino
        while holder_at(path) == first:
            time.sleep(0.01)
        assert holder_at(path).token == first.token and path.stat().st_ino == inode
        other = replace(Holder.here(), machine="another")
        new = tmp_path / "new"
        new.write_bytes(other.content())
        os.replace(new, path)
        while not heard:
            time.sleep(0.01)
    assert asdict(other) == json.loads(path.read_bytes())  # the new holder keeps it


def test_file_systems_without_hard_links_have_claims_too(tmp_path, monkeypatch):
    def refused(*names):
        raise PermissionError("no hard links")

    monkeypatch.setattr(os, "link", refused)
    for _ in range(2):
        with claimed(tmp_path / "claim"), pytest.raises(Held), claimed(tmp_path / "claim"):
            pytest.fail("it has two holders")


def test_a_link_whose_answer_was_lost_is_ours(tmp_path, monkeypatch):
    linked = os.link

    def lost(*names):
        linked(*names)
        raise FileExistsError("the server was asked twice")

    monkeypatch.setattr(os, "link", lost)
    with claimed(tmp_path / "claim"):
        assert holder_at(tmp_path / "claim") is not None


COUNTS = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from hierdiff.files.claim import Held, claimed
    folder, done = Path(sys.argv[1]), 0
    while done < 25:
        try:
            with claimed(folder / "claim"):
                number = int((folder / "number").read_text())
                (folder / "number").write_text(str(number + 1))
                if len(sys.argv) > 2 and done == 10:
                    os._exit(0)  # as if it were killed: it does not let go
                done += 1
        except Held:
            pass
    """
)


def test_processes_that_contend_for_a_claim_and_die_with_it_hold_it_one_at_a_time(tmp_path):
    (tmp_path / "number").write_text("0")
    told = [sys.executable, "-c", COUNTS, str(tmp_path)]
    processes = [subprocess.Popen([*told, *more]) for more in ([], [], ["dies"], ["dies"])]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == str(2 * 25 + 2 * 11)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["claim", "number"]
