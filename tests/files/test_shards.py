"""An array in files of some rows each: made once, by whoever is there, and read by rows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hierdiff.files.shards import kept_shards
from tests.training.runs import server

F32 = np.dtype("float32")
ARRAY = np.arange(46, dtype=F32).reshape(23, 2)


def kept(folder: Path, made: list[tuple[int, int]]):
    def make(first: int, stop: int) -> Iterator[np.ndarray]:
        for start in range(first, stop, 2):
            made.append((start, min(start + 2, stop)))
            yield ARRAY[start : min(start + 2, stop)]

    return kept_shards(folder, ARRAY.shape, F32, make, step=2, size=40)  # 4 rows a file


def test_rows_are_those_of_the_array(tmp_path):
    found = kept(tmp_path, [])
    assert (found.shape, len(found), found.dtype) == (ARRAY.shape, 23, F32)
    rows = np.array([22, 0, 3, 4, 4, 21])
    np.testing.assert_array_equal(found[rows], ARRAY[rows])
    np.testing.assert_array_equal(found[3:9], ARRAY[3:9])
    np.testing.assert_array_equal(found[-1], ARRAY[-1])
    np.testing.assert_array_equal(np.concatenate(list(found.batches(5))), ARRAY)
    assert json.loads((tmp_path / "index.json").read_text())["content"]["shape"] == [23, 2]


def test_each_file_is_made_once_and_a_damaged_one_alone_again(tmp_path):
    made: list[tuple[int, int]] = []
    kept(tmp_path, made)
    assert len(made) == 12 and len(list(tmp_path.glob("*-of-00006.npy"))) == 6
    kept(tmp_path, made)
    assert len(made) == 12
    path = tmp_path / "00002-of-00006.npy"
    path.write_bytes(path.read_bytes()[:-3])
    np.testing.assert_array_equal(kept(tmp_path, made)[:], ARRAY)
    assert made[12:] == [(8, 10), (10, 12)]


def die_at(folder: Path, at: int, rank: str) -> None:
    """Makes the array until it comes to a row, and then is killed."""
    os.environ.update(RANK=rank, WORLD_SIZE="2")

    def make(first: int, stop: int) -> Iterator[np.ndarray]:
        for start in range(first, stop):
            if start == at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield ARRAY[start : start + 1]

    kept_shards(folder, ARRAY.shape, F32, make, step=2, size=40)


def test_a_killed_process_loses_the_file_it_was_at_and_another_makes_the_rest(tmp_path):
    for rank, at in (("0", 9), ("1", 14)):  # files 0, 2, 4 are begun by the first, 1, 3, 5
        process = server.Process(target=die_at, args=(tmp_path, at, rank))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name[:5] for path in tmp_path.glob("*.npy")) == ["00000", "00001"]
    made: list[tuple[int, int]] = []
    np.testing.assert_array_equal(kept(tmp_path, made)[:], ARRAY)
    assert min(first for first, _ in made) == 8
    assert not list(tmp_path.glob(".*.part"))


def test_what_cannot_be_made_leaves_no_file(tmp_path):
    def make(first: int, stop: int) -> Iterator[np.ndarray]:
        yield ARRAY[first:stop]
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        kept_shards(tmp_path, ARRAY.shape, F32, make)
    assert not list(tmp_path.glob("*.npy"))
