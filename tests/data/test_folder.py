import json
import logging
import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierdiff.data import datasets
from hierdiff.data.cache import SHOWN


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


def test_folders_called_by_numbers_are_classes_in_their_order(tmp_path):
    root = tmp_path / "images"
    for month in range(1, 13):
        paint(root / str(month) / "a.png", "L", month)
    data = build(root, tmp_path, channels=1)
    assert data.class_names == tuple(str(month) for month in range(1, 13))
    assert [data.class_names[label] for label in data.labels] == [
        key.partition("/")[0] for key in data.keys
    ]
    assert data.cond([2]).labels.tolist() == [1] == data.cond(["2"]).labels.tolist()


SPLIT = ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "{test}/cat/3.png")


def parts_of(data):
    return {part: sorted(data.part(part).keys) for part in ("train", "test")}


@pytest.mark.parametrize("base", ["", "pets/", "pets/v1/"])
@pytest.mark.parametrize("test", ["val", "test", "valid", "validation", "Validation"])
def test_train_and_val_are_parts_and_no_classes(tmp_path, test, base):
    keys = [base + key.format(test=test) for key in SPLIT]
    for number, key in enumerate(keys):
        paint(tmp_path / "images" / key, "L", number)
    data = build(tmp_path / "images", tmp_path)
    assert data.class_names == ("cat", "dog")
    assert parts_of(data) == {"train": keys[:3], "test": keys[3:]}
    assert data.part("test").labels.tolist() == [0]
    assert np.shares_memory(data.part("train").images, data.images)
    summary = data.summary()
    for words in (
        "4 images",
        "2 classes (cat, dog)",
        f"train 3, test 1 (folders train and {test})",
    ):
        assert words in summary
    assert "no test image of 1 classes (dog)" in summary


def test_of_val_and_test_one_is_the_test_part_and_the_other_is_left_out_and_said(tmp_path):
    root = tmp_path / "images"
    for key in ("train/a/1.png", "val/a/2.png", "test/a/3.png", "loose.png", "more/a/4.png"):
        paint(root / key)
    data = build(root, tmp_path)
    assert parts_of(data) == {"train": ["train/a/1.png"], "test": ["test/a/3.png"]}
    assert "3 images elsewhere are left out: loose.png, more, val" in data.summary()
    paint(root / "test" / "3.png")
    (root / "test" / "a" / "3.png").unlink()  # now without classes, as those of ImageNet
    assert parts_of(build(root, tmp_path)) == {"train": ["train/a/1.png"], "test": ["val/a/2.png"]}


def test_train_alone_is_no_class_and_is_divided_by_hash(tmp_path):
    root = tmp_path / "images"
    for number in range(20):
        paint(root / "train" / "ab"[number % 2] / f"{number}.png")
    data = build(root, tmp_path)
    assert data.class_names == ("a", "b")
    assert len(data.part("train")) + len(data.part("test")) == 20
    assert "(folder train, a quarter of the names is test, by their hash)" in data.summary()


@pytest.mark.parametrize("names", [("train", "car"), ("test", "val"), ("a", "b", "val")])
def test_folders_that_are_no_split_are_classes(tmp_path, names):
    for name in names:
        paint(tmp_path / "images" / name / "1.png")
    assert build(tmp_path / "images", tmp_path).class_names == tuple(sorted(names))


def test_test_root_is_the_test_part(tmp_path):
    root, own = tmp_path / "images", tmp_path / "held"
    paint(root / "cat" / "1.png", "L", 1)
    paint(root / "dog" / "1.png", "L", 2)
    paint(own / "dog" / "1.png", "L", 3)
    paint(own / "owl" / "1.png", "L", 4)
    data = build(root, tmp_path, test_root=str(own), channels=1)
    assert parts_of(data) == {
        "train": ["cat/1.png", "dog/1.png"],
        "test": ["test_root/dog/1.png", "test_root/owl/1.png"],
    }
    assert data.class_names == ("cat", "dog", "owl")
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert f"train 2, test 2 (data.test_root={own})" in data.summary()
    assert "no training image of 1 classes (owl)" in data.summary()


def test_a_test_root_within_the_root_is_taken_out_of_it(tmp_path):
    root = tmp_path / "images"
    for key in ("cat/1.png", "held/cat/2.png"):
        paint(root / key)
    data = build(root, tmp_path, test_root=str(root / "held"))
    assert data.class_names == ("cat",) and data.skipped == ()
    assert parts_of(data) == {"train": ["cat/1.png"], "test": ["test_root/cat/2.png"]}
    for other in (root, tmp_path):
        with pytest.raises(ValueError, match="test_root=.* holds data.root"):
            build(root, tmp_path, test_root=str(other))
    with pytest.raises(FileNotFoundError, match=r"set data\.test_root to one that does"):
        build(root, tmp_path, test_root=str(tmp_path / "none"))


def test_the_folder_without_images_is_the_one_that_is_named(tmp_path):
    full, empty = tmp_path / "full", tmp_path / "empty"
    paint(full / "cat" / "1.png")
    empty.mkdir()
    for root, test_root in ((full, empty), (empty, full), (empty, None)):
        with pytest.raises(FileNotFoundError, match=f"{empty} holds no image"):
            build(root, tmp_path, test_root=test_root)


def test_a_class_without_a_readable_image_is_none_and_said(tmp_path, caplog):
    root = tmp_path / "images"
    paint(root / "cat" / "1.png")
    paint(root / "dog" / "1.png")
    (root / "cow").mkdir()
    (root / "cow" / "1.png").write_bytes(b"")
    data = build(root, tmp_path)
    assert data.class_names == ("cat", "dog")
    assert "no class for cow" in caplog.text


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("Cat", "cat", "dog"), ["'Cat' and 'cat'"]),
        (("Stra\u00dfe", "STRASSE"), ["'STRASSE' and 'Stra\u00dfe'"]),
        (("red fox", "red  fox", "fox"), ["'red  fox' and 'red fox'"]),
        (("cat", "cats"), []),
    ],
)
def test_classes_that_look_alike_are_two_and_said(tmp_path, caplog, names, told):
    for name in names:
        paint(tmp_path / "images" / name / "1.png")
    data = build(tmp_path / "images", tmp_path)
    assert len(data.class_names) == len(names)
    assert [line for line in caplog.messages if "told apart" in line] == [
        f"{data.name}: classes {pair} are told apart: give them one name if they are one"
        for pair in told
    ]


def test_odd_things_in_a_folder_are_skipped_counted_and_named(tmp_path, caplog):
    root = tmp_path / "images"
    paint(root / "a" / "1.png")
    good = (root / "a" / "1.png").read_bytes()
    inside = root / "a"
    (inside / "dangling.png").symlink_to(tmp_path / "nowhere")
    (inside / "circle.png").symlink_to(inside / "circle.png")
    os.mkfifo(inside / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(inside / "socket.png"))
    (inside / "device.png").symlink_to("/dev/zero")
    (inside / "folder.png").mkdir()
    (inside / "empty.png").write_bytes(b"")
    (inside / "cut.png").write_bytes(good[:-30])
    (inside / "line\nbreak\x1b[31m.png").write_bytes(b"")
    (inside / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    bomb = bytearray(good)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (inside / "bomb.png").write_bytes(bomb)
    os.close(os.open(os.fsencode(inside) + b"/caf\xe9.png", os.O_CREAT))
    (root / "link").symlink_to(inside, target_is_directory=True)
    data = build(root, tmp_path)
    again = build(root, tmp_path)
    assert data.keys == again.keys == ("a/1.png",)
    assert data.class_names == ("a",)
    named = "\n".join(data.skipped)
    for name in (
        "dangling",
        "circle",
        "pipe",
        "socket",
        "device",
        "folder",
        "empty",
        "cut",
        "bomb",
    ):
        assert f"{inside}/{name}.png: " in named
    assert f"{inside}/script.png: " in named
    assert f"{inside}/caf\\udce9.png: its name is no UTF-8" in named
    assert f"{inside}/line\\nbreak\\x1b[31m.png: " in named
    assert f"{root}/link: it is the same folder" in named
    assert len(data.skipped) == 13 and again.skipped == data.skipped
    assert named.isprintable() or set(c for c in named if not c.isprintable()) == {"\n"}
    for line in data.skipped:
        assert line.partition(": ")[0] in caplog.text
    assert "13 skipped: " in data.summary() and "\n" not in data.summary()
    json.dumps([data.skipped, data.keys, data.class_names]).encode()


def test_images_of_rarer_formats_are_read_or_told_of(tmp_path, caplog):
    for name in ("a/1.png", "b/2.tga", "b/3.jfif"):
        paint(tmp_path / "zoo" / name)
    (tmp_path / "zoo" / "b" / "4.heic").write_bytes(b"ftypheic")
    data = build(tmp_path / "zoo", tmp_path)
    assert sorted(data.keys) == ["a/1.png", "b/2.tga", "b/3.jfif"]
    assert data.class_names == ("a", "b") and "b/4.heic" in caplog.text


def test_hidden_and_empty_folders_are_no_classes(tmp_path):
    root = tmp_path / "images"
    paint(root / "a" / "1.png")
    paint(root / ".ipynb_checkpoints" / "1.png")
    paint(root / "a" / ".thumbnails" / "1.png")
    (root / "empty" / "deep").mkdir(parents=True)
    data = build(root, tmp_path)
    assert data.class_names == ("a",) and data.keys == ("a/1.png",) and data.skipped == ()


def test_a_file_that_vanishes_after_the_listing_is_skipped(tmp_path, monkeypatch):
    root = tmp_path / "images"
    for name in "ab":
        paint(root / f"{name}.png")
    walk = os.walk

    def late(*given, **more):
        yield from walk(*given, **more)
        (root / "b.png").unlink()

    monkeypatch.setattr(os, "walk", late)
    data = build(root, tmp_path)
    assert data.keys == ("a.png",)
    assert data.skipped == (f"{root}/b.png: No such file or directory",)


def test_a_folder_that_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    root = tmp_path / "images"
    for name in "ab":
        paint(root / name / "1.png")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    data = build(root, tmp_path)
    assert data.class_names == ("a",)
    assert data.skipped == (f"{root}/b: Permission denied",)


def test_a_link_that_is_mended_is_read(tmp_path):
    root = tmp_path / "images"
    paint(root / "a.png")
    (root / "b.png").symlink_to(tmp_path / "later.png")
    assert len(build(root, tmp_path)) == 1
    paint(tmp_path / "later.png")
    assert len(build(root, tmp_path)) == 2


def test_captions_have_the_lines_and_letters_that_were_written(tmp_path, caplog):
    """A BOM, CRLF, U+2028 and U+0085 in a caption, and names in either Unicode form."""
    root = tmp_path / "images"
    composed, apart = "caf\u00e9.png", "the\u0301.png"
    for name in (composed, apart, "a.png", "b.png", "c/d.png"):
        paint(root / name)
    lines = [
        {"file": "cafe\u0301.png", "caption": "cafe\u0301\u2028noir"},
        {"file": "th\u00e9.png", "caption": "green\u0085tea"},
        {"file": "./a.png", "caption": "first"},
        {"file": "a.png", "caption": "second"},
        {"file": "c\\d.png", "caption": "deep"},
        {"file": "z.png", "caption": "nobody"},
    ]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (root / "captions.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = build(root, tmp_path, text={"name": "vocabulary"})
    assert dict(zip(data.keys, data.captions, strict=True)) == {
        composed: "caf\u00e9\u2028noir",
        apart: "green\u0085tea",
        "a.png": "second",
        "b.png": "",
        "c/d.png": "deep",
    }
    assert "café" in data.text.words
    assert f"{root}/captions.jsonl:4 and 3" in caplog.text
    assert "1 lines name no image" in caplog.text
    assert "captions for 4" in data.summary()


@pytest.mark.parametrize(
    "content, message",
    [
        (b'\n{"file": "a.png", "caption": "caf\xe9"}', "captions.jsonl:2 is no UTF-8"),
        ('{"file": "a.png", "caption": "x"}'.encode("utf-16"), "captions.jsonl:1 is no UTF-8"),
        (b'{"file": "a.png", "caption": "\\ud83d"}', "captions.jsonl:1: .*half a character"),
        (b"[" * 100_000, "captions.jsonl:1 is no caption"),
    ],
)
def test_captions_that_are_no_text_are_an_error_with_their_line(tmp_path, content, message):
    root = tmp_path / "images"
    paint(root / "a.png")
    (root / "captions.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build(root, tmp_path)


def test_each_part_may_have_its_captions(tmp_path):
    root, own = tmp_path / "images", tmp_path / "held"
    for where, name in ((root / "train", "a"), (root / "val", "b"), (own, "c")):
        paint(where / f"{name}.png")
        line = {"file": f"{name}.png", "caption": name}
        (where / "captions.jsonl").write_text(json.dumps(line))
    assert build(root, tmp_path).captions == ("a", "b")
    assert build(root, tmp_path, test_root=str(own)).captions == ("a", "c")


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.symlink_to(path.with_name("absent")),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
    ],
    ids=["dangling link", "pipe", "folder"],
)
def test_captions_that_cannot_be_read_are_an_error_with_the_way_out(tmp_path, put):
    paint(tmp_path / "photos/1.png")
    put(tmp_path / "photos/captions.jsonl")
    with pytest.raises(OSError, match=r"captions .* cannot be read .*data\.captions=FILE"):
        build(tmp_path / "photos", tmp_path)


def test_a_log_names_no_more_skipped_files_than_a_person_reads(tmp_path, caplog):
    for number in range(SHOWN + 3):
        paint(tmp_path / "images" / f"{number:02}.png", size=(3, 3))
    paint(tmp_path / "images" / "whole.png", size=(8, 8))
    for _ in range(2):  # when they are read, and when that is known
        caplog.clear()
        data = build(tmp_path / "images", tmp_path)
        lines = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert len(data.skipped) == SHOWN + 3 and len(lines) == SHOWN + 1
        assert "3 more" in lines[-1]


def labelled(root: Path, table: str, content: str, places=("1.png", "2.png", "3.png")) -> Path:
    for place in places:
        paint(root / place)
    (root / table).write_text(content)
    return root


@pytest.mark.parametrize(
    ("table", "content", "names", "labels", "options"),
    [
        ("metadata.csv", "file_name,label\n1.png,dog\n3.png,cat\n", ("cat", "dog"), [1, -1, 0], {}),
        ("metadata.csv", "file_name,label\n1.png,1\n2.png,0\n3.png,\n", ("0", "1"), [1, 0, -1], {}),
        ("metadata.jsonl", '{"file": "2.png", "class": -1}\n{"file": "1.png", "class": 2}\n',
         ("0", "1", "2"), [2, -1, -1], {}),
        ("metadata.jsonl", '{"file": "2.png", "class": 1}', ("a cat", "a dog"), [-1, 1, -1],
         {"class_names": "a cat\na dog\n"}),
    ],
)  # fmt: skip
def test_a_table_gives_classes_where_no_folder_does(
    tmp_path, table, content, names, labels, options
):
    root = labelled(tmp_path / "images", table, content)
    if options:
        (tmp_path / "names.txt").write_text(options["class_names"])
        options = {"class_names": str(tmp_path / "names.txt")}
    data = build(root, tmp_path, **options)
    found = dict(zip(data.keys, data.labels.tolist(), strict=True))
    assert data.class_names == names
    assert [found[f"{i}.png"] for i in (1, 2, 3)] == labels


def test_a_table_that_agrees_with_the_folders_says_nothing_new(tmp_path):
    places = ("cat/1.png", "dog/2.png")
    for number, table in enumerate(("cat/1.png,cat\ndog/2.png,dog", "cat/1.png,7\ndog/2.png,3")):
        root = labelled(tmp_path / str(number), "metadata.csv", f"file,label\n{table}\n", places)
        assert build(root, tmp_path).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("cat/1.png,dog", "cat/1.png is in folder cat, and its table gives it the class 'dog'"),
        ("cat/1.png,0\ndog/2.png,0", "dog/2.png is in folder dog, .* class '0', .* folder cat"),
    ],
)
def test_a_table_that_contradicts_the_folders_is_refused(tmp_path, table, message):
    places = ("cat/1.png", "dog/2.png")
    root = labelled(tmp_path / "images", "metadata.csv", f"file,label\n{table}\n", places)
    with pytest.raises(ValueError, match=message):
        build(root, tmp_path)


def test_numbers_and_names_are_not_mixed(tmp_path):
    root = labelled(tmp_path / "images", "metadata.csv", "file,label\n1.png,cat\n2.png,1\n")
    with pytest.raises(ValueError, match="classes 'cat' and '1': write names, or numbers"):
        build(root, tmp_path)


def test_numbers_in_a_table_agree_with_folders_that_are_called_by_them(tmp_path):
    root = tmp_path / "images"
    lines = [{"file": f"{number}/a.png", "label": number} for number in (3, 7)]
    for line in lines:
        paint(root / line["file"])
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert build(root, tmp_path).class_names == ("3", "7")


def test_a_resolution_above_that_of_all_images_is_one_line(tmp_path, caplog):
    for number in range(4):
        paint(tmp_path / "images" / f"{number}.png", size=(3, 3))
    with pytest.raises(ValueError, match="none of 4 images could be read; the first: ") as error:
        build(tmp_path / "images", tmp_path)
    assert "\n" not in str(error.value) and not caplog.records


@pytest.mark.parametrize(("most", "dark"), [(255, True), (4095, True), (65535, False)])
def test_images_of_another_range_than_their_file_are_told(tmp_path, caplog, most, dark):
    draw = np.random.default_rng(0)
    for i in range(20):
        pixels = draw.integers(0, most + 1, (8, 8)).astype(np.uint16)
        (tmp_path / "deep").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"deep/{i}.png")
    build(tmp_path / "deep", tmp_path)
    assert ("as good as black" in caplog.text) is dark


@pytest.mark.parametrize("decoded", [True, False])
def test_copies_on_both_sides_of_the_split_are_told(tmp_path, caplog, decoded):
    for i in range(8):
        paint(tmp_path / f"train/{i}.png", colour=(40 * i, 0, 200))
        paint(tmp_path / f"test/{i}.png", colour=(40 * i, 0, 200 if i < 3 else 100))
    build(
        tmp_path / "train", tmp_path, test_root=str(tmp_path / "test"), reading={"decoded": decoded}
    )
    assert "3 of 8 test images are trained on too, as copies" in caplog.text


def test_a_file_that_holds_no_image_says_so_the_same_way_each_time(tmp_path, caplog):
    for i in range(12):
        paint(tmp_path / f"zoo/{i}.png", colour=(20 * i, 0, 200))
    (tmp_path / "zoo/12.png").write_bytes(b"")
    (tmp_path / "zoo/13.png").write_bytes(b"no image")
    first, second = build(tmp_path / "zoo", tmp_path).skipped
    assert first.endswith("12.png: it is empty")
    assert second.endswith("13.png: 8 bytes of no format that is known")
