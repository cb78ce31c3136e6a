"""CIFAR and Tiny ImageNet in their own files, and data sets of Hugging Face's library."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hierdiff.data import ImageData, datasets
from hierdiff.data.cifar import arrays_in
from hierdiff.training.feed import Feed
from tests.data import formats
from tests.training.runs import recipe

NAMES = [f"class_{i}" for i in range(10)]


def rows(batch: int, n: int = 4) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(batch)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, n).tolist()


def write_cifar_python(root: Path) -> Path:
    root.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels, labels = rows(number)
        content = {b"data": pixels, b"labels": labels, b"batch_label": b"x"}
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {b"label_names": [name.encode() for name in NAMES]}
    (root / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return root


def write_cifar_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels, labels = rows(number)
        content = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
        (root / f"{name}.bin").write_bytes(content.tobytes())
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return root


def test_both_versions_of_cifar_are_the_same_images(tmp_path):
    python = datasets.build(
        {"name": "cifar", "root": str(write_cifar_python(tmp_path / "cifar-10-batches-py"))}
    )
    write_cifar_binary(tmp_path / "own" / "cifar-10-batches-bin")
    binary = datasets.build({"name": "cifar", "root": str(tmp_path / "own")})
    assert (python.sha256, python.keys) == (binary.sha256, binary.keys)
    pixels, labels = rows(5)
    test = binary.part("test")
    np.testing.assert_array_equal(test.images, pixels.reshape(-1, 3, 32, 32))
    assert test.labels.tolist() == labels and test.class_names == tuple(NAMES)
    assert python.captions[0] == f"a photograph of a class {python.labels[0]}"
    small = datasets.build({"name": "cifar", "root": str(tmp_path / "own"), "resolution": 16})
    assert small.images.shape == (24, 3, 16, 16)


def test_cifar_100_has_fine_labels(tmp_path):
    for number, name in enumerate(("train", "test")):
        pixels, labels = rows(number)
        content = {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [0] * len(labels)}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {b"fine_label_names": [f"{i}".encode() for i in range(100)]}
    (tmp_path / "meta").write_bytes(pickle.dumps(names, protocol=2))
    data = datasets.build({"name": "cifar", "root": str(tmp_path), "classes": 100})
    assert data.labels.tolist() == rows(0)[1] + rows(1)[1] and data.facts["classes"] == 100


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def test_a_pickle_of_anything_but_arrays_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_cifar_python(tmp_path / "cifar")
    (root / "data_batch_3").write_bytes(pickle.dumps({b"data": Harm(), b"labels": []}))
    with pytest.raises(ValueError, match=r"data_batch_3 cannot be read.*system"):
        datasets.build({"name": "cifar", "root": str(root)})
    assert not (tmp_path / "harmed").exists()
    objects = np.array([Harm()], dtype=object)
    (root / "objects").write_bytes(pickle.dumps({b"data": objects}))
    with pytest.raises(pickle.UnpicklingError, match="system"):
        arrays_in(root / "objects")


@pytest.mark.parametrize("size", [0, 100, 3072 * 4])
def test_a_binary_file_that_was_cut_short_is_named(tmp_path, size):
    root = write_cifar_binary(tmp_path / "cifar")
    path = root / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin cannot be read.*3073"):
        datasets.build({"name": "cifar", "root": str(root)})
    with pytest.raises(FileNotFoundError, match="test_batch"):
        datasets.build({"name": "cifar", "root": str(tmp_path)})


def write_tiny_imagenet(root: Path) -> Path:
    """Two classes of two training images and a test image."""
    ids = ("n02", "n01")  # not in their order
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(ids) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tother\n")
    lines = []
    for number, name in enumerate(ids):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for i in range(2):
            (folder / f"{name}_{i}.JPEG").write_bytes(formats.png(10 * number + i, (64, 64)))
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(
            formats.png(10 * number + 5, (64, 64))
        )
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_tiny_imagenet_has_its_classes_and_parts(tmp_path):
    root = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    node = {"name": "tiny_imagenet", "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    data = datasets.build(node)
    assert data.class_names == ("crane", "goldfish")
    assert data.part("train").labels.tolist() == [1, 1, 0, 0]  # by key: n01 comes first
    assert data.part("test").captions == ("a photograph of a crane", "a photograph of a goldfish")
    (root / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val_1\.JPEG.*data\.reading\.broken=skip"):
        datasets.build(node)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("datasets")
    return formats.write_parquet(
        tmp_path_factory.mktemp("hub") / "tables", formats.files(24), shards=3
    )


def huggingface(root: Path, **options: Any) -> ImageData:
    node = {"name": "huggingface", "root": str(root), "resolution": 8}
    reading = {"workers": 0}
    return datasets.build(
        {**node, "cache": str(root.parent / "cache"), "reading": reading, **options}
    )


def seen(data: ImageData, steps: range, ranks: int, images: int = 6) -> list[bytes]:
    """The images of steps in order, as the processes of a run get them."""
    found = {}
    for rank in range(ranks):
        fabric: Any = SimpleNamespace(
            device=torch.device("cpu"), world_size=ranks, global_rank=rank
        )
        feed = Feed(data, fabric, recipe(), images=images, place=(3, 0))
        for step in steps:
            for chunk, batch in feed.chunks(step):
                found[step, chunk] = [one.numpy().tobytes() for one in batch.images]
    return [one for key in sorted(found) for one in found[key]]


def test_the_library_gives_the_same_images_as_the_tables(tables, tmp_path):
    hub = huggingface(tables, key="name")
    own = datasets.build(
        {
            **{"name": "parquet", "root": str(tables), "resolution": 8, "key": "name"},
            **{"cache": str(tmp_path), "reading": {"workers": 0}},
        }
    )
    assert (hub.sha256, hub.keys, hub.captions) == (own.sha256, own.keys, own.captions)
    assert seen(hub.part("train"), range(4), 2) == seen(own.part("train"), range(4), 1)


def test_a_stream_comes_in_the_order_of_its_shards_each_image_once_from_any_step(tables):
    data = huggingface(tables, streaming=True)
    part = data.part("train")
    assert len(part) == 18 and len(set(part.shards.tolist())) == 3
    whole = seen(part, range(6), 1)
    assert seen(part, range(6), 2) == whole
    assert seen(part, range(4, 6), 1) == whole[24:]  # as after a kill
    assert len(set(whole[:18])) == len(set(whole[18:])) == 18 and whole[:18] != whole[18:]
    files = [image.numpy().tobytes() for image in part.batch(torch.arange(18)).images]
    shards = [files[6 * i : 6 * i + 6] for i in range(3)]
    assert all(whole[i : i + 6] in shards for i in range(0, 36, 6))


def test_decoded_images_keep_their_labels_in_the_order_of_another_key(tables):
    def labels(key: str | None) -> dict[bytes, int]:
        data = huggingface(tables, key=key, reading={"workers": 0, "decoded": True})
        images = (image.tobytes() for image in data.images)
        return dict(zip(images, data.labels.tolist(), strict=True))

    assert labels(None) == labels("name")


def test_what_the_library_cannot_give_is_one_sentence(tables, tmp_path):
    with pytest.raises(ValueError, match="no split 'dev': choose from train, validation"):
        huggingface(tables, split="dev")
    with pytest.raises(ValueError, match=r"no column 'picture': set data\.image"):
        huggingface(tables, image="picture")
    with pytest.raises(FileNotFoundError, match=r"data\.allow_download=true"):
        huggingface(tmp_path / "none")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="broken cannot be read by datasets"):
        huggingface(tmp_path / "broken")


def test_the_buffer_of_a_png_is_what_the_table_holds(tables):
    key = next(iter(formats.files(1)))
    data = huggingface(tables, key="name")
    source = data.images.sources[data.keys.index(key)]
    assert io.BytesIO(data.images.decoder.content(source)).read(8) == formats.png(0)[:8]
