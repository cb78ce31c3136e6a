"""Images that came from elsewhere: one order and one hash whatever holds them, and refusals."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.measure.external import external_images


def pixels(n: int = 12, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def put(folder: Path, images: np.ndarray, names: list[str] | None = None) -> Path:
    """A PNG of each image, `0.png` to `11.png`, which text alone would order otherwise."""
    for i, image in enumerate(images):
        path = folder / (f"{i}.png" if names is None else names[i])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_folder_a_zip_and_an_npz_of_the_same_images_are_the_same(tmp_path):
    images = pixels()
    folder = put(tmp_path / "png", images)
    np.savez(tmp_path / "plain.npz", arr_0=images)
    np.savez_compressed(tmp_path / "small.npz", images)
    places = ["png", "plain.npz", "small.npz", zipped(folder, tmp_path / "a.zip").name]
    for place in places:
        read = external_images(tmp_path / place)
        assert len(read) == 12 and read.resolution == 8 and read.classes is None
        assert read.sha256() == hashlib.sha256(images.tobytes()).hexdigest()
        assert np.array_equal(read.images(7, 11).numpy(), images[7:11].transpose(0, 3, 1, 2))
        assert np.array_equal(read.read(0, 2), images[:2])  # and back again


def sharded(images: np.ndarray, folder: Path, each: int) -> Path:
    """Webdataset's shards `0.tar` and so on, with a class beside each image."""
    folder.mkdir()
    for first in range(0, len(images), each):
        with tarfile.open(folder / f"{first // each}.tar", "w") as archive:
            for number in range(first, min(first + each, len(images))):
                content = io.BytesIO()
                Image.fromarray(images[number]).save(content, "png")
                for name, data in ((f"{number}.png", content.getvalue()), (f"{number}.cls", b"1")):
                    about = tarfile.TarInfo(name)
                    about.size = len(data)
                    archive.addfile(about, io.BytesIO(data))
    return folder


def test_shards_are_the_same_images(tmp_path):
    images = pixels()
    read = external_images(sharded(images, tmp_path / "shards", each=1))  # 10.tar after 9.tar
    assert len(read) == 12 and read.labels == ["1"] * 12 and not read.skipped
    assert read.sha256() == hashlib.sha256(images.tobytes()).hexdigest()
    alone = external_images(sharded(images, tmp_path / "one", each=12) / "0.tar")
    assert alone.sha256() == read.sha256()


def test_what_data_reads_beside_images_is_read_beside_images_from_elsewhere(tmp_path):
    """Captions and classes of a JSON in a shard, and of every table that training data may have."""
    images = put(tmp_path / "png", pixels(2))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (
            ("0.png", (images / "0.png").read_bytes()),
            ("0.json", b'{"text": "a  red owl", "label": 3}'),
            ("1.png", (images / "1.png").read_bytes()),
        ):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    (images / "captions.csv").write_text("file,prompt,label\n.\\0.png,a red owl,3\n")
    for place, label in ((tmp_path / "a.tar", 3), (images, "3")):
        read = external_images(place)
        assert read.captions == ["a red owl", ""] and read.labels == [label, None]
        assert not read.skipped


def test_images_of_one_name_or_beside_shards_are_refused_and_not_left_out(tmp_path):
    images = put(tmp_path / "png", pixels(2))
    with tarfile.open(tmp_path / "png" / "a.tar", "w") as archive:
        archive.add(images / "0.png", "0.png")
        archive.add(images / "1.png", "0.png")
    with pytest.raises(ValueError, match="a.tar cannot be read .*holds 0.png twice"):
        external_images(images / "a.tar")
    with pytest.raises(ValueError, match="1 .tar shards and 2 images of their own"):
        external_images(images)
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(images / "0.png", "0.png")
        archive.write(images / "1.png", "0.png")
    with pytest.raises(ValueError, match="a.zip holds 0.png twice"):
        external_images(tmp_path / "a.zip")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_a_shard_that_was_cut_short_is_refused(share, tmp_path):
    shard = sharded(pixels(4), tmp_path / "shards", each=4) / "0.tar"
    with tarfile.open(shard) as archive:
        ends = [one.offset for one in archive][1:]  # at the border of a file nothing else shows
    whole = shard.read_bytes()
    for length in (int(share * len(whole)), *ends):
        shard.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="0.tar cannot be read"):
            external_images(shard)
    shard.write_bytes(whole)
    assert len(external_images(shard)) == 4


def test_classes_are_folders_in_natural_order_or_labels(tmp_path):
    images = pixels(4)
    put(tmp_path / "png", images, ["2/10.png", "2/11.png", "11/0.png", "11/1.png"])
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=np.array([0, 0, 1, 1]))
    read = [external_images(tmp_path / place) for place in ("png", "a.npz")]
    assert [one.classes for one in read] == [2, 2]
    assert read[0].sha256() == read[1].sha256()


def beside(folder: Path) -> None:
    """Captions and classes of 0.png to 2.png in three forms; 1.png has its caption twice."""
    (folder / "0.txt").write_text("a red owl\n", encoding="utf-8")
    (folder / "0.cls").write_text("3")
    lines = [
        {"file_name": "1.png", "text": "a wrong one", "label": 1},
        {"file_name": "2.png", "caption": "a fe\u0301e"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "1.txt").write_text("a blue owl")


def test_captions_and_classes_stand_beside_images(tmp_path):
    folder = put(tmp_path / "png", pixels(4))
    beside(folder)
    for place in (folder, zipped(folder, tmp_path / "a.zip")):
        read = external_images(place)
        assert read.captions == ["a red owl", "a blue owl", "a f\u00e9e", ""]
        assert read.labels == ["3", 1, None, None] and read.classes == 2
        assert not read.skipped
    np.savez(tmp_path / "a.npz", arr_0=pixels(4), captions=np.array(["a", "b", "", "d"]))
    assert external_images(tmp_path / "a.npz").captions == ["a", "b", "", "d"]
    one_of_three = np.eye(3, dtype=int)[[2, 0, 0, 1]]
    np.savez(tmp_path / "a.npz", arr_0=pixels(4), arr_1=one_of_three)
    assert external_images(tmp_path / "a.npz").labels == [2, 0, 0, 1]


def test_labels_of_an_array_are_a_column_or_a_row_and_minus_one_is_no_class(tmp_path):
    for labels in (np.array([2, -1, 0]), np.array([[2], [-1], [0]])):
        np.savez(tmp_path / "a.npz", arr_0=pixels(3), arr_1=labels)
        read = external_images(tmp_path / "a.npz")
        assert read.labels == [2, None, 0] and read.classes == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "9.png", "text": "a"}', "metadata.jsonl:1 names 9.png, which is no image"),
        ('{"text": "a"}', "metadata.jsonl:1 is no caption"),
        ("a cat", "metadata.jsonl:1 is no caption"),
        ('{"file_name": "0.png", "text": 3}', "file and caption must be strings"),
        ('{"file_name": "0.png", "label": true}', "class must be a name or a whole number"),
    ],
)
def test_metadata_that_is_none_is_refused_with_its_line(line, message, tmp_path):
    put(tmp_path, pixels(2))
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        external_images(tmp_path)


def test_text_beside_an_image_is_utf_8(tmp_path):
    put(tmp_path, pixels(2))
    (tmp_path / "0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="0.txt:1 is no UTF-8 .*: save the file as UTF-8"):
        external_images(tmp_path)


def test_a_folder_around_all_images_is_no_class(tmp_path):
    put(tmp_path / "all", pixels(3), ["samples/0.png", "samples/1.png", "samples/2.png"])
    assert external_images(tmp_path / "all").classes is None
    put(tmp_path / "two", pixels(3), ["all/cat/0.png", "all/cat/1.png", "all/dog/new/2.png"])
    assert external_images(tmp_path / "two").labels == ["cat", "cat", "dog"]


def test_other_files_are_skipped_and_said(tmp_path, caplog):
    put(tmp_path / "png", pixels(3))
    (tmp_path / "png" / "about.txt").write_text("made by hand")
    (tmp_path / "png" / ".hidden").write_text("")
    with caplog.at_level(logging.WARNING):
        read = external_images(tmp_path / "png")
    assert len(read) == 3 and read.skipped == ("about.txt",)
    assert "1 files skipped, no images: about.txt" in caplog.text
    assert external_images(zipped(tmp_path / "png", tmp_path / "a.zip")).skipped == ("about.txt",)


def test_grey_images_have_one_channel(tmp_path):
    grey = pixels(3)[..., :1]
    put(tmp_path / "png", grey)
    np.savez(tmp_path / "a.npz", arr_0=grey)
    for place in ("png", "a.npz"):
        read = external_images(tmp_path / place)
        assert read.shape == (8, 8, 1)
        assert read.images(0, 3).shape == (3, 1, 8, 8)
        assert read.sha256() == hashlib.sha256(grey.tobytes()).hexdigest()


def test_images_of_another_size_or_without_colour_are_named(tmp_path):
    put(tmp_path / "size", pixels(3))
    put(tmp_path / "size", pixels(1, side=6), ["7.png"])
    with pytest.raises(ValueError, match="7.png is 6 x 6 px in colour, 0.png is 8 x 8 px in col"):
        external_images(tmp_path / "size").sha256()
    put(tmp_path / "grey", pixels(3))
    put(tmp_path / "grey", pixels(1)[..., :1], ["7.png"])
    with pytest.raises(ValueError, match="7.png is 8 x 8 px in grey"):
        external_images(tmp_path / "grey").sha256()


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_what_is_damaged_is_said_in_a_sentence(tmp_path):
    put(tmp_path / "png", pixels(3, side=32))
    archive = cut(zipped(tmp_path / "png", tmp_path / "a.zip"))
    with pytest.raises(ValueError, match="a.zip cannot be read .*zip file"):
        external_images(archive)
    np.savez(tmp_path / "a.npz", arr_0=pixels())
    with pytest.raises(ValueError, match="a.npz cannot be read"):
        external_images(cut(tmp_path / "a.npz"))
    cut(tmp_path / "png" / "2.png")
    with pytest.raises(ValueError, match="2.png cannot be read .*: replace it, or remove it"):
        external_images(tmp_path / "png").sha256()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": pixels() / 255}, "arr_0 is float64 .*, where uint8 images"),
        ({"arr_0": pixels().transpose(0, 3, 1, 2)}, r"uint8 \(12, 3, 8, 8\), where .*n, h, w, 3"),
        ({"arr_0": pixels()[:0]}, "where uint8 images"),
        ({"images": pixels()}, "holds images and no arr_0"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "measure.references=.SIDE: FILE. is for moments"),
        (
            {"arr_0": pixels(), "arr_1": np.zeros(3, int)},
            r"arr_1 is of shape \(3,\) for 12 images: give one label",
        ),
        ({"arr_0": pixels(), "arr_1": np.array([None] * 12)}, "cannot be read"),
        ({"arr_0": pixels(), "arr_1": np.arange(12) / 2}, "arr_1 is float64: give whole numbers"),
        ({"arr_0": pixels(), "arr_1": np.full((12, 3), 0.3)}, "a row of arr_1 is not one of k"),
        ({"arr_0": np.asfortranarray(pixels())}, "order is Fortran's"),
    ],
)
def test_arrays_that_are_no_images_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        external_images(tmp_path / "a.npz")


def test_places_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no image: give one that does"):
        external_images(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist: give a folder"):
        external_images(tmp_path / "nowhere")
    (tmp_path / "a.rar").write_bytes(b"")
    with pytest.raises(ValueError, match="is no folder, .npz, .zip or .tar"):
        external_images(tmp_path / "a.rar")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (pixels() // 255, "no pixel is above 1 of 255"),
        (pixels()[[3] * 5], "4 of 5 images are copies of others"),
        (pixels()[[0, 1, 2, 0, 1, 2]], "3 of 6 images are copies of others"),
        (pixels(), ""),
    ],
)
def test_images_that_are_black_or_copies_are_told(images, told, tmp_path, caplog):
    np.savez(tmp_path / "a.npz", arr_0=images)
    external_images(tmp_path / "a.npz").sha256()
    assert told in caplog.text and bool(told) == bool(caplog.text)


def test_a_file_of_several_frames_is_refused_where_its_first_one_was_measured(tmp_path):
    first, *others = map(Image.fromarray, pixels(3))
    first.save(tmp_path / "0.gif", save_all=True, append_images=others)
    with pytest.raises(ValueError, match="0.gif cannot be read .it holds 3 images"):
        external_images(tmp_path)
