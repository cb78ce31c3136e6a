"""What strangers bring: one clear error that names the file and the way out, before training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hierdiff.data import ImageData, datasets
from hierdiff.data.names import named_numbers
from tests.data import formats
from tests.data.formats import example, png, write_tar

KEYS = ("train/black cat/00.png", "train/Käfer/02.png", "train/black cat/04.png")


def shards(root: Path, **options: Any) -> ImageData:
    node = {"name": "webdataset", "root": str(root), "resolution": 8, "cache": str(root / "cache")}
    return datasets.build({**node, "reading": {"workers": 0, **options}})


def examples(*keys: str) -> list[tuple[str, bytes]]:
    return [member for key in keys for member in example(key, png(int(key[-6:-4])))]


def refused(root: Path, *words: str, **options: Any) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        shards(root, **options)
    for word in words:
        assert word in str(caught.value)


def test_a_shard_that_was_cut_short(tmp_path):
    whole = write_tar(tmp_path / "a.tar", examples(*KEYS))
    content = whole.read_bytes()
    for size in (len(content) // 2, 700, 10, 0):
        whole.write_bytes(content[:size])
        refused(tmp_path, "a.tar", "cannot be read", "cut short", "anew")
    whole.write_bytes(gzip.compress(content))
    refused(tmp_path, "a.tar", "it is no plain .tar", "unpack a .tar.gz")


def test_a_broken_image_is_refused_or_skipped(tmp_path):
    members = [*examples(*KEYS), *example("train/Käfer/06.png", png(6)[:90])]
    write_tar(tmp_path / "a.tar", members)
    refused(tmp_path, "1 of 4 images", "a.tar/train/Käfer/06.png", "data.reading.broken=skip")
    data = shards(tmp_path, broken="skip")
    assert len(data) == 3 and "06.png" in data.skipped[0]


def test_a_key_that_is_there_twice(tmp_path):
    write_tar(tmp_path / "a.tar", examples(*KEYS))
    write_tar(tmp_path / "b.tar", examples(KEYS[1]))
    refused(tmp_path, "b.tar", "a.tar", "two images have the key", "rename")
    write_tar(tmp_path / "b.tar", examples("train/Käfer/06.png", "train/Käfer/06.png"))
    refused(tmp_path, "b.tar", "twice", "06")


def test_an_image_without_a_caption(tmp_path):
    write_tar(tmp_path / "a.tar", [*examples(*KEYS), ("train/x/08.png", png(8))])
    refused(tmp_path, "1 of 4", "a.tar/train/x/08.png", "data.reading.uncaptioned=empty")
    data = shards(tmp_path, uncaptioned="empty")
    assert data.captions.count("") == 1 and data.labels.tolist().count(-1) == 1


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a/1.cls", b"0")], ("a.tar", "a/1", "0 images")),
        ([("a/1.png", png(1)), ("a/1.jpg", png(1))], ("a.tar", "a/1", "2 images")),
        ([("a/1.png", png(1)), ("a/1.cls", b"cat")], ("a.tar", "'cat'", "data.class_names")),
        ([("a/1.png", png(1)), ("a/1.cls", b"-3")], ("class -3",)),
        ([("a/1.png", png(1)), ("a/1.json", b"{")], ("a.tar",)),
        ([("a/1.xyz", b"")], ("hold no image",)),
    ],
)
def test_an_example_that_is_none(tmp_path, members, words):
    write_tar(tmp_path / "a.tar", members)
    refused(tmp_path, *words)


def test_json_holds_label_and_caption(tmp_path):
    facts = json.dumps({"label": 1, "caption": " a\nbeetle "}).encode()
    write_tar(tmp_path / "a.tar", [("1.jpg.png", png(1)), ("1.jpg.json", facts), (".x.png", b"")])
    data = shards(tmp_path)
    assert (data.keys, data.captions, data.labels.tolist()) == (("1.jpg.png",), ("a beetle",), [1])
    assert data.class_names == ("0", "1")


def test_a_folder_without_shards(tmp_path):
    refused(tmp_path, "no .tar file", "data.root")


def test_a_zip_that_was_cut_short(tmp_path):
    path = formats.write_zip(tmp_path / "photos.zip", formats.files(4))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        ValueError, match=r"photos\.zip cannot be read .*cut short .*: copy it anew"
    ):
        datasets.build({"name": "folder", "root": str(path), "cache": str(tmp_path)})


def test_a_table_without_the_column_or_cut_short(tmp_path):
    pytest.importorskip("pyarrow")
    root = formats.write_parquet(tmp_path / "tables", formats.files(8))
    node = {"name": "parquet", "root": str(root), "resolution": 8, "cache": str(tmp_path / "c")}
    with pytest.raises(
        ValueError, match=r"train-00000-of-00001.*no column 'picture'.*data\.image.*text"
    ):
        datasets.build({**node, "image": "picture"})
    path = root / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"of-00001\.parquet cannot be read"):
        datasets.build(node)


def test_names_of_classes_that_do_not_fit(tmp_path):
    root = formats.write_tree(tmp_path / "folder", formats.files(8))
    names = tmp_path / "names.txt"
    node = {"name": "folder", "root": str(root), "resolution": 8, "cache": str(tmp_path / "c")}
    names.write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"names\.txt has 3 lines for 2 classes"):
        datasets.build({**node, "class_names": str(names)})
    names.write_text("beetle\ncrane\n")  # as many lines as folders, in their natural order
    data = datasets.build({**node, "class_names": str(names)})
    assert data.class_names == ("beetle", "crane")
    assert data.labels[data.keys.index("train/Käfer/02.png")] == 0


def test_numbers_of_classes_without_a_name_and_below_0():
    with pytest.raises(ValueError, match="class 2 has no name, because 2 are named"):
        named_numbers([0, 2], ["cat", "dog"], "shards")
    with pytest.raises(ValueError, match="class -1 is below 0: leave it out"):
        named_numbers([0, -1], None, "shards")


def test_a_table_of_captions_beats_the_files_beside_the_images(tmp_path):
    root = formats.write_tree(tmp_path / "folder", formats.files(8))
    node = {"name": "folder", "root": str(root), "resolution": 8, "cache": str(tmp_path / "c")}
    assert set(datasets.build(node).captions) == {f"number {i}" for i in range(8)}
    keys = sorted(formats.files(8))
    table = "file_name,text\n" + "".join(f'{key},"of {key[-6:-4]}, quoted"\n' for key in keys)
    (root / "metadata.csv").write_text(table, encoding="utf-8")
    assert set(datasets.build(node).captions) == {f"of {i:02d}, quoted" for i in range(8)}
    beside = datasets.build({**node, "captions": "txt"})
    assert set(beside.captions) == {f"number {i}" for i in range(8)}
    (root / "metadata.csv").write_text("name,words\n1,2\n")
    with pytest.raises(ValueError, match=r"metadata\.csv:1 names the columns name, words"):
        datasets.build(node)
