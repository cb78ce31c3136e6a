import errno
import logging
import shutil
from collections import namedtuple

import numpy as np
import pytest

from hierdiff.data.cache import cache_folder, decoded


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
