import errno
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock

from hierdiff.data.cache import cache_folder, decoded, fingerprint
from hierdiff.files import digest
from hierdiff.files.arrays import read_npz, write_npz
from tests.files.test_reading import damaged


class Source:
    """Images whose pixels are their number; counts how often it is read."""

    def __init__(self):
        self.read = 0

    def __call__(self, number):
        self.read += 1
        if number < 0:
            raise OSError("broken")
        return np.full((1, 2, 2), number, np.uint8), 2


def decode(tmp_path, source, numbers=(3, -1, 5), identity="a"):
    return decoded(
        "numbers",
        numbers,
        source,
        channels=1,
        resolution=2,
        identity=identity,
        cache=tmp_path,
    )


def test_images_are_decoded_once_and_mapped(tmp_path):
    source = Source()
    for _ in range(2):
        found = decode(tmp_path, source)
        assert isinstance(found.images, np.memmap)
        assert found.images[:, 0, 0, 0].tolist() == [3, 5]
        assert found.rows.tolist() == [0, 2]
        assert found.skipped == ("-1: broken",)
    assert source.read == 3


def test_another_identity_is_another_entry(tmp_path):
    source = Source()
    decode(tmp_path, source, identity="a")
    decode(tmp_path, source, identity="b")
    assert source.read == 6


@pytest.mark.parametrize("file", ["images.npy", "index.npz"])
def test_a_truncated_cache_is_made_again(tmp_path, caplog, file):
    source = Source()
    decode(tmp_path, source)
    (path,) = tmp_path.glob(f"numbers-2-*/{file}")
    path.write_bytes(path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        found = decode(tmp_path, source)
    assert "made again" in caplog.text
    assert found.images[:, 0, 0, 0].tolist() == [3, 5]


def test_nothing_half_made_is_left_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of 2 images"):
        decode(tmp_path, Source(), numbers=(-1, -2))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_decoding(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))
    source = Source()
    with pytest.raises(OSError, match="set cache= to another folder") as caught:
        decode(tmp_path, source)
    assert caught.value.errno == errno.ENOSPC
    assert source.read == 0
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_option_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path / "env"))
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert cache_folder() == tmp_path / "env"
    monkeypatch.delenv("HIERDIFF_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hierdiff"


@pytest.mark.parametrize("times", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_any_damage_of_an_entry_makes_it_again(tmp_path, caplog, times):
    """Of each file: never a traceback, never other pixels, rows or sizes."""
    source, chance = Source(), random.Random(0)
    found = decode(tmp_path, source)
    wanted = replace(found, images=found.images.copy())
    (entry,) = tmp_path.glob("numbers-2-*")
    for name in ["images.npy", "index.npz", "images.npy.seal"] * times:
        (entry / name).write_bytes(damaged((entry / name).read_bytes(), chance))
        found = decode(tmp_path, source)
        for part in ("images", "rows", "sizes", "digests"):
            np.testing.assert_array_equal(getattr(found, part), getattr(wanted, part))
        assert found.skipped == wanted.skipped
    assert caplog.text.count("is made again") > 1.5 * times
    assert list(tmp_path.iterdir()) == [entry]


@pytest.mark.parametrize(
    "part, values",
    [
        ("rows", np.array([0, 3])),
        ("rows", np.array([-1, 2])),
        ("rows", np.array([2, 0])),
        ("rows", np.array([0, 2], np.int32)),
        ("rows", np.array([0])),
        ("rows", np.array([0.0, 2.0])),
        ("sizes", np.array([[2, 2], [2, 0]])),
        ("digests", np.zeros((2, 31), np.uint8)),
        ("skipped", np.zeros(3, np.uint8)),
        ("skipped", np.frombuffer(b"null", np.uint8)),
    ],
)
def test_an_index_that_does_not_fit_is_made_again(tmp_path, caplog, part, values):
    source = Source()
    wanted = decode(tmp_path, source)
    (path,) = tmp_path.glob("numbers-2-*/index.npz")
    write_npz(path, read_npz(path) | {part: values})
    found = decode(tmp_path, source)
    assert "is made again" in caplog.text
    assert found.rows.tolist() == wanted.rows.tolist() and found.skipped == wanted.skipped


def test_pixels_that_were_changed_are_seen_once_and_not_looked_for_again(tmp_path, monkeypatch):
    source, checks = Source(), []
    decode(tmp_path, source)
    (path,) = tmp_path.glob("numbers-2-*/images.npy")
    content, about = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + b"\xff")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert decode(tmp_path, source).images[:, 0, 1, 1].tolist() == [3, 5]
    file_digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda *given: checks.append(None) or file_digest(*given)
    )
    for _ in range(3):
        decode(tmp_path, source)
    assert not checks and source.read == 6


def build_all(folder, start, errors, locks):
    os.getpid = lambda: 1  # as in containers that share a volume
    if not locks:
        FileLock.acquire = refused
    start.wait()
    try:
        for identity in "abc":
            found = decode(folder, Source(), identity=identity)
            assert found.images[:, 0, 0, 0].tolist() == [3, 5]
    except BaseException as error:
        errors.put(repr(error))
        raise


def refused(*given, **more):
    raise NotImplementedError("no locks here")


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no-locks"])
@pytest.mark.parametrize("broken", [True, False], ids=["broken", "absent"])
def test_builders_with_one_pid_do_not_hinder_one_another(tmp_path, locks, broken):
    if broken:
        for identity in "abc":
            decode(tmp_path, Source(), identity=identity)
        for path in tmp_path.glob("*/index.npz"):
            path.write_bytes(b"broken")
    fork = multiprocessing.get_context("fork")
    start, errors = fork.Event(), fork.Queue()
    builders = [
        fork.Process(target=build_all, args=(tmp_path, start, errors, locks)) for _ in range(6)
    ]
    for builder in builders:
        builder.start()
    start.set()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0] * 6, errors.get()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_good_entry_is_never_taken_away_for_another(tmp_path, monkeypatch):
    """What another process moved in, while this one decoded, stays."""
    monkeypatch.setattr(FileLock, "acquire", refused)

    class Late(Source):
        def __call__(self, number):
            if not self.read:
                decode(tmp_path, Source())
                (entry,) = tmp_path.glob("numbers-2-*")
                self.inode = entry.stat().st_ino
            return super().__call__(number)

    source = Late()
    assert decode(tmp_path, source).images[:, 0, 0, 0].tolist() == [3, 5]
    (entry,) = tmp_path.iterdir()
    assert entry.stat().st_ino == source.inode


def test_a_cache_that_others_own_is_read(tmp_path, monkeypatch):
    decode(tmp_path, Source())
    (path,) = tmp_path.glob("numbers-2-*/images.npy.seal")
    told = json.loads(path.read_text())["content"]
    digest.write_json(path, {"sha256": told["sha256"]})

    def full(*given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(digest, "write", full)
    source = Source()
    assert decode(tmp_path, source).images[:, 0, 0, 0].tolist() == [3, 5]
    assert source.read == 0


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_another(tmp_path):
    path, other = tmp_path / "a.png", tmp_path / "other"
    path.write_bytes(b"first")
    about = path.stat()
    first = fingerprint(tmp_path, [path])
    assert fingerprint(tmp_path, [path]) == first
    other.write_bytes(b"other")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(path)
    assert fingerprint(tmp_path, [path]) != first
    path.unlink()
    assert fingerprint(tmp_path, [path]) != first
