"""The same images are the same data in every format, in every process and worker, at every step."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hierdiff.data import ImageData, datasets
from hierdiff.data import parquet as tables
from hierdiff.data.encoded import EncodedImages
from hierdiff.data.parquet import TABLES, Columns, read_cell, read_table
from hierdiff.data.split import files_in
from hierdiff.training.feed import Feed
from tests.data import formats
from tests.training.runs import recipe

FORMATS = ("encoded folder", "zip", "webdataset", "parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def nodes(place: Path) -> dict[str, dict[str, Any]]:
    pytest.importorskip("pyarrow")
    return formats.write_all(place, formats.files())


def built(node: dict[str, Any], cache: Path, **options: Any) -> ImageData:
    return datasets.build({"resolution": 8, "cache": str(cache), **node, **options})


def said(data: ImageData) -> tuple[Any, ...]:
    return data.sha256, data.keys, data.captions, data.class_names, data.labels.tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_data(nodes, place, name):
    folder, other = built(nodes["folder"], place / "cache"), built(nodes[name], place / "cache")
    assert said(other) == said(folder)
    assert other.part("train").sha256 == folder.part("train").sha256
    assert (other.facts, other.class_names) == (folder.facts, formats.CLASSES)
    assert isinstance(other.images, EncodedImages) and isinstance(folder.images, np.memmap)
    np.testing.assert_array_equal(other.images[:], folder.images)
    np.testing.assert_array_equal(other.part("test").images[2:5], folder.part("test").images[2:5])
    np.testing.assert_array_equal(other.images[np.array([5, 0, 5])], folder.images[[5, 0, 5]])


def fed(data: Any, steps: range, ranks: int, count: int = 1) -> list[str]:
    """Digests of images and labels of each chunk, as the processes of one run get them."""
    found: dict[tuple[int, int], str] = {}
    for rank in range(ranks):
        fabric: Any = SimpleNamespace(
            device=torch.device("cpu"), world_size=ranks, global_rank=rank
        )
        feed = Feed(data, fabric, recipe(accumulate=count), images=12, place=(3, 0))
        for step in steps:
            for chunk, batch in feed.chunks(step):
                parts = (batch.images.numpy().tobytes(), batch.cond.labels.numpy().tobytes())
                found[step, chunk] = hashlib.sha256(b"".join(parts)).hexdigest()
        feed.close()
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize("crop", ["center", "adm_random"])
@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_batches_are_those_of_the_folder_under_one_and_two_processes_from_any_step(
    nodes, place, name, crop
):
    reading = {"workers": 0, "crop": crop}
    options = {"reading": reading, "flip": True}
    folder = built(nodes["encoded folder"], place / "cache", **options).part("train")
    other = built(nodes[name], place / "cache", **options).part("train")
    whole = fed(folder, range(8), 1, 2)
    assert fed(other, range(8), 2, 1) == whole
    assert fed(other, range(5, 8), 1, 2) == whole[10:]  # as after a kill at step 5
    assert len(set(whole)) == len(whole)


def test_batches_of_other_processes_are_those_of_this_one(nodes, place):
    data = built(nodes["webdataset"], place / "cache", reading={"workers": 2, "crop": "adm_random"})
    alone = built(
        nodes["webdataset"], place / "cache", reading={"workers": 0, "crop": "adm_random"}
    )
    assert fed(data, range(3), 1) == fed(alone, range(3), 1)


def test_each_example_comes_once_an_epoch_with_another_crop_and_flip_in_the_next(nodes, place):
    options = {"reading": {"workers": 0, "crop": "adm_random"}, "flip": True}
    part = built(nodes["parquet"], place / "cache", **options).part("train")
    n = len(part)
    seen: list[list[bytes]] = [[], []]
    fabric: Any = SimpleNamespace(device=torch.device("cpu"), world_size=1, global_rank=0)
    feed = Feed(part, fabric, recipe(), images=n // 4, place=(3, 0))
    for step in range(8):
        ((_, batch),) = feed.chunks(step)
        seen[step // 4] += [image.numpy().tobytes() for image in batch.images]
    assert [len(set(epoch)) for epoch in seen] == [n, n]
    assert len(set(seen[0]) & set(seen[1])) < n // 2  # a crop of 8 px has few places


def test_crops_are_refused_where_one_decoded_copy_is_kept(nodes, place):
    with pytest.raises(ValueError, match=r"data\.reading\.decoded=false"):
        built(nodes["folder"], place / "c", reading={"decoded": True, "crop": "adm_random"})


def test_row_groups_are_read_once_where_they_fit_and_one_is_kept_where_not(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    content = formats.files(28)
    root = formats.write_parquet(tmp_path / "tables", content)
    columns = Columns("image", None, None, None)
    rows = [row for path in files_in(root, "root", TABLES) for row in read_table(path, columns)]
    groups = {(row.source.path, row.source.group) for row in rows}
    opened = []

    class Counted(parquet.ParquetFile):
        def read_row_group(self, *given, **more):
            opened.append(given)
            return super().read_row_group(*given, **more)

    monkeypatch.setattr(parquet, "ParquetFile", Counted)
    monkeypatch.setattr(tables, "_groups", OrderedDict())
    in_turn = [*rows[::3], *rows[1::3], *rows[2::3]]
    for _ in range(2):
        assert all(read_cell(row.source) == content[row.key] for row in in_turn)
    assert len(opened) == len(groups) > 3
    monkeypatch.setattr(tables, "KEPT", 1)
    assert all(read_cell(row.source) == content[row.key] for row in in_turn)
    assert len(opened) > 2 * len(groups) and len(tables._groups) == 1


def test_tables_in_folders_of_both_parts_are_these_parts(tmp_path):
    pytest.importorskip("pyarrow")
    formats.write_parquet(tmp_path / "a", formats.files(24))
    for path in (tmp_path / "a").glob("*.parquet"):
        place = tmp_path / "b" / "default" / path.name.partition("-")[0] / "0000.parquet"
        place.parent.mkdir(parents=True)
        path.rename(place)
    data = built({"name": "parquet", "root": str(tmp_path / "b")}, tmp_path / "cache")
    assert data.split == "files train* and val*"
    assert [key.startswith("val/") for key in data.keys] == data.tested.tolist()
