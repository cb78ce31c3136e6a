"""Samples are read by others' readers: shards by webdataset, an `.npz` by NumPy alone."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from hierdiff.files import samples
from hierdiff.files.samples import write_array, write_metadata, write_shards

FACTS = [
    {"image": 0, "seed": 7, "class": "owl", "class_index": 2, "caption": "a f\u00e9e"},
    {"image": 1, "seed": 7, "class": None, "class_index": None, "caption": ""},
    {"image": 2, "seed": 7, "class": "cat", "class_index": 0, "caption": None},
]


def pixels(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, channels), dtype=np.uint8)


def test_an_npz_is_that_of_adm_with_captions_and_seeds(tmp_path: Path):
    write_array(tmp_path / "a.npz", pixels(), FACTS)
    read = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert np.array_equal(read["arr_0"], pixels())
    assert read["arr_1"].tolist() == [2, -1, 0] and read["seeds"].tolist() == [7, 7, 7]
    assert read["captions"].tolist() == ["a f\u00e9e", "", ""]
    write_array(tmp_path / "b.npz", pixels(), [{}, {}, {}])
    assert np.load(tmp_path / "b.npz").files == ["arr_0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_metadata_has_the_names_of_image_folders(tmp_path: Path):
    write_metadata(tmp_path, ["0.png", "1.png", "2.png"], FACTS)
    lines = (tmp_path / "metadata.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[0]) == {
        **{"file_name": "0.png", "image": 0, "seed": 7, "class": "owl", "label": 2},
        "text": "a f\u00e9e",
    }
    assert json.loads(lines[2]) == {
        **{"file_name": "2.png", "image": 2, "seed": 7, "class": "cat", "label": 0}
    }


@pytest.mark.parametrize("channels", [3, 1])
def test_webdataset_reads_the_shards(channels: int, tmp_path: Path, monkeypatch):
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setattr(samples, "SHARD", 2)
    names = write_shards(tmp_path, pixels(channels), FACTS)
    assert names == ["000000.tar", "000001.tar"]
    paths, kind = [str(tmp_path / name) for name in names], {3: "rgb8", 1: "l8"}[channels]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
        read = list(
            webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode(kind)
        )
        gc.collect()
    assert [one["__key__"] for one in read] == ["000000", "000001", "000002"]
    for one, image in zip(read, pixels(channels), strict=True):
        assert np.array_equal(one["png"], image.squeeze())
    assert [one.get("cls") for one in read] == [2, None, 0]
    assert [one.get("txt") for one in read] == ["a f\u00e9e", "", None]
    assert read[0]["json"]["seed"] == 7 and read[0]["json"]["text"] == "a f\u00e9e"


def test_the_same_samples_give_the_same_bytes(tmp_path: Path):
    for place in ("a", "b"):
        write_shards(tmp_path / place, pixels(), FACTS)
    one, other = ((tmp_path / place / "000000.tar").read_bytes() for place in "ab")
    assert one == other
