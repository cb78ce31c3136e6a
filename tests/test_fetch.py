"""Packages are fetched once, whole, and by one process; nothing is fetched here."""

import subprocess
import threading
import time

import pytest

from hierdiff import fetch
from hierdiff.data import packages


@pytest.fixture
def calls(monkeypatch):
    """A package of one file, and how often it was fetched."""
    calls = []

    def get(folder):
        calls.append(folder.name)
        time.sleep(0.02)
        (folder / "file").write_text("whole")

    monkeypatch.setitem(
        packages.SOURCES, "toy", (get, lambda cache: cache / "sources" / "toy", "toy")
    )
    return calls


def test_many_processes_fetch_once(tmp_path, calls):
    threads = [threading.Thread(target=packages.fetch, args=("toy", tmp_path)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (tmp_path / "sources" / "toy" / "file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "sources").iterdir()] == ["toy"]


def test_what_was_fetched_meanwhile_without_the_lock_stays(tmp_path, calls, monkeypatch):
    get, *rest = packages.SOURCES["toy"]

    def late(folder):
        get(folder)
        place = tmp_path / "sources" / "toy"
        place.mkdir()
        (place / "file").write_text("first")

    monkeypatch.setitem(packages.SOURCES, "toy", (late, *rest))
    assert (packages.fetch("toy", tmp_path) / "file").read_text() == "first"


@pytest.mark.parametrize(
    "error",
    [EOFError("cut short"), OSError("no room"), subprocess.CalledProcessError(1, ["npm"])],
)
def test_a_failure_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, error):
    def get(folder):
        (folder / "half").write_text("")
        raise error

    place = (get, lambda cache: cache / "sources" / "toy", "toy")
    monkeypatch.setattr(packages, "SOURCES", {"toy": place})
    monkeypatch.setattr(fetch, "DATASETS", ("toy",))
    monkeypatch.setattr("sys.argv", ["fetch", "toy", "--cache", str(tmp_path)])
    assert fetch.main() == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert list((tmp_path / "sources").iterdir()) == []


def test_the_command_knows_every_dataset_that_can_be_fetched():
    assert set(fetch.DATASETS) == set(packages.SOURCES)
