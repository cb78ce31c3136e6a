import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierdiff.data import datasets


def build(root, tmp_path, **options):
    node = {"name": "folder", "root": str(root), "resolution": 4, "cache": str(tmp_path / "cache")}
    return datasets.build(node | options)


def paint(path: Path, mode="RGB", colour: object = "red", size=(8, 8), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def zoo(tmp_path):
    """One image of every form, each of one colour."""
    root = tmp_path / "zoo"
    paint(root / "rgb.png")
    paint(root / "rgb.jpg", quality=95)
    paint(root / "wide.bmp", size=(12, 8))
    paint(root / "grey.png", "L", 100)
    paint(root / "greyalpha.png", "LA", (100, 255))
    paint(root / "rgba.webp", "RGBA", (255, 0, 0, 0), lossless=True)
    paint(root / "palette.gif", "P", 0)
    paint(root / "bits.png", "1", 1)
    paint(root / "cmyk.jpg", "CMYK", (0, 255, 255, 0), quality=95)
    deep = np.full((8, 8), 25700, np.uint16)
    Image.fromarray(deep).save(root / "deep.png")
    Image.fromarray(deep).save(root / "deep.tif")
    return root


def test_every_format_gives_its_colour(zoo, tmp_path):
    data = build(zoo, tmp_path)
    colours = {key: data.images[row, :, 2, 2] for row, key in enumerate(data.keys)}
    red, grey, white = [255, 0, 0], [100] * 3, [255] * 3
    expected = {
        "rgb.png": red,
        "rgb.jpg": red,
        "wide.bmp": red,
        "grey.png": grey,
        "greyalpha.png": grey,
        "rgba.webp": white,
        "palette.gif": [0, 0, 0],
        "bits.png": white,
        "cmyk.jpg": red,
        "deep.png": grey,
        "deep.tif": grey,
    }
    assert set(colours) == set(expected)
    for key, colour in expected.items():
        np.testing.assert_allclose(colours[key].astype(int), colour, atol=4, err_msg=key)
    assert data.skipped == ()


def test_a_broken_file_is_named_skipped_and_counted(zoo, tmp_path, caplog):
    (zoo / "broken.png").write_bytes((zoo / "rgb.png").read_bytes()[:40])
    (zoo / "text.jpg").write_text("not an image")
    paint(zoo / "small.png", size=(3, 3))
    with caplog.at_level(logging.WARNING):
        data = build(zoo, tmp_path)
    assert len(data) == 11
    assert len(data.skipped) == 3
    for name in ("broken.png", "text.jpg", "small.png"):
        assert str(zoo / name) in caplog.text
    assert build(zoo, tmp_path).skipped == data.skipped


def test_rows_stay_with_their_keys_when_files_are_skipped(tmp_path):
    root = tmp_path / "images"
    for value in range(0, 200, 10):
        paint(root / f"{value:03d}.png", "L", value)
    (root / "005.png").write_text("broken")
    (root / "195.png").write_text("broken")
    data = build(root, tmp_path, channels=1)
    assert [int(key[:3]) for key in data.keys] == data.images[:, 0, 0, 0].tolist()


def test_classes_are_sorted_folders_and_loose_files_have_none(tmp_path):
    root = tmp_path / "images"
    paint(root / "dog" / "1.png")
    paint(root / "cat" / "1.png")
    paint(root / "cat" / "more" / "2.png")
    paint(root / "loose.png")
    (root / "empty").mkdir()
    data = build(root, tmp_path)
    assert data.class_names == ("cat", "dog")
    assert dict(zip(data.keys, data.labels.tolist(), strict=True)) == {
        "dog/1.png": 1,
        "cat/1.png": 0,
        "cat/more/2.png": 0,
        "loose.png": -1,
    }


def test_a_flat_folder_has_no_labels(zoo, tmp_path):
    data = build(zoo, tmp_path)
    assert data.labels is None
    assert data.facts == {"channels": 3, "classes": 0}


def test_captions_go_to_their_images_and_the_rest_has_none(zoo, tmp_path):
    (zoo / "captions.jsonl").write_text(
        json.dumps({"file": "grey.png", "caption": "a grey square"}) + "\n\n"
    )
    data = build(zoo, tmp_path, text={"name": "vocabulary"})
    captions = dict(zip(data.keys, data.captions, strict=True))
    assert captions["grey.png"] == "a grey square"
    assert captions["rgb.png"] == ""
    mask = data.batch(torch.arange(len(data))).cond.mask
    assert mask.sum(1).tolist() == [3 if key == "grey.png" else 0 for key in data.keys]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", ":1 is no caption"),
        ('{"file": "grey.png"}', ":1 is no caption"),
        ('{"file": "grey.png", "caption": 3}', "must be strings"),
        ('{"file": "elsewhere.png", "caption": "x"}', "names no image"),
    ],
)
def test_a_wrong_captions_file_is_an_error_with_its_line(zoo, tmp_path, line, message):
    (zoo / "captions.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        build(zoo, tmp_path)


def test_a_missing_an_empty_and_an_unreadable_folder_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        build(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        build(tmp_path / "empty", tmp_path)
    (tmp_path / "empty" / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"none of 1 images could be read.*a\.png"):
        build(tmp_path / "empty", tmp_path)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".npy"]


def test_the_scale_of_the_original_is_handed_on_when_asked_for(tmp_path):
    root = tmp_path / "images"
    paint(root / "a.png", size=(8, 12))
    paint(root / "b.png", size=(20, 30))
    data = build(root, tmp_path, scalars=["scale"])
    assert data.facts["scalars"] == ("scale",)
    scale = data.batch(torch.arange(2)).cond.scalars["scale"]
    assert dict(zip(data.keys, scale.tolist(), strict=True)) == {"a.png": 8.0, "b.png": 20.0}


def test_a_changed_file_is_decoded_again(tmp_path):
    root = tmp_path / "images"
    paint(root / "a.png", "L", 10)
    assert build(root, tmp_path).images[0, 0, 0, 0] == 10
    paint(root / "a.png", "L", 200, size=(16, 16))
    assert build(root, tmp_path).images[0, 0, 0, 0] == 200


def test_a_link_back_up_does_not_hang_the_listing(tmp_path):
    root = tmp_path / "images"
    paint(root / "a" / "1.png")
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    assert build(root, tmp_path).keys == ("a/1.png",)
