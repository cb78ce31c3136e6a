"""The embedded clips, and folders of clips."""

import hashlib
import os

import numpy as np
import pytest
import torch
from PIL import Image

from hierdiff.data import datasets
from hierdiff.data.buckets import training_view
from hierdiff.data.clips import drawing as draw
from hierdiff.data.clips.make import main


def build(place, **options):
    return datasets.build({"cache": str(place / "cache"), **options})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def few(monkeypatch):
    """16 of the clips, which are drawn in a moment."""
    monkeypatch.setattr("hierdiff.data.clips.COUNT", 16)
    monkeypatch.setattr("hierdiff.data.clips.make.COUNT", 16)
    digests = (hashlib.sha256(draw.draw(seed).tobytes()).digest() for seed in range(16))
    digest = hashlib.sha256(b"".join(digests)).hexdigest()
    for module in ("", ".drawing", ".make"):
        monkeypatch.setattr(f"hierdiff.data.clips{module}.SHA256", digest)


@pytest.mark.slow
def test_the_clips_are_those_of_the_stated_hash(capsys):
    main([])
    assert "as they are meant" in capsys.readouterr().out


def test_another_drawing_is_refused_by_the_command_and_on_loading(few, monkeypatch, tmp_path):
    usual = draw.draw

    def other(seed):
        return usual(seed) ^ (seed == 7)

    monkeypatch.setattr("hierdiff.data.clips.make.draw", other)
    monkeypatch.setattr("hierdiff.data.clips.draw", other)
    with pytest.raises(SystemExit, match="clips were drawn with sha256"):
        main([])
    for _ in range(2):  # also once they are in the cache
        with pytest.raises(ValueError, match="draw them on another machine by python -m"):
            build(tmp_path, name="clips", resolution=[2, 8, 8])


def test_fewer_frames_are_every_second_one_and_a_side_is_the_first_frame(place, few):
    whole = build(place, name="clips")
    assert whole.images.shape == (16, 3, 16, 32, 32)
    assert np.array_equal(whole.images[0], draw.draw(int(whole.keys[0])))
    half = build(place, name="clips", resolution=[8, 32, 32])
    assert np.array_equal(half.images, whole.images[:, :, ::2])
    still = build(place, name="clips", resolution=16)
    blocks = whole.images[:, :, 0].reshape(16, 3, 16, 2, 16, 2)
    assert np.abs(blocks.mean((3, 5)) - still.images).max() <= 0.5


@pytest.mark.parametrize("resolution", [[5, 32, 32], [32, 32, 32], [8, 32, 16], 24, [2, 8, 8, 8]])
def test_a_resolution_that_does_not_divide_is_refused(place, resolution):
    with pytest.raises(ValueError, match="does not divide that: choose"):
        build(place, name="clips", resolution=resolution)


def test_the_class_is_the_motion_and_the_caption_names_all_parts(place, few):
    data = build(place, name="clips", resolution=8, text={"name": "vocabulary"})
    row = data.keys.index("0000")
    assert data.captions[row] == (
        "a lime round creature with two eyes that walks left, on raspberry"
    )
    assert data.class_names[data.labels[row]] == "walks left"
    assert data.part("train").batch(torch.tensor([0])).cond.tokens is not None


def test_every_part_is_as_frequent_as_every_other():
    parts = [draw.parts_of(seed) for seed in range(draw.COUNT)]
    for name, names in draw.NAMES.items():
        counts = np.bincount([one[name] for one in parts], minlength=len(names))
        expected = draw.COUNT / len(names)
        assert (np.abs(counts - expected) < 4 * expected**0.5).all()
    codes = np.array([[one[name] for name in draw.NAMES] for one in parts])
    assert np.abs(np.corrcoef(codes.T) - np.eye(len(draw.NAMES))).max() < 0.15


@pytest.mark.parametrize("seed", range(6))
def test_every_clip_moves_and_stays_in_its_frame(seed):
    clip = draw.draw(seed).astype(int)
    assert np.abs(np.diff(clip, axis=1)).max() > 50
    edges = np.concatenate([clip[..., 0], clip[..., -1], clip[:, :, 0]], axis=-1)
    assert (edges == edges[..., :1]).all()


def test_a_folder_of_written_clips_is_the_same_data(place, few, tmp_path):
    main([str(tmp_path / "clips")])
    drawn = build(place, name="clips", resolution=[16, 16, 16])
    root = str(tmp_path / "clips")
    data = build(place, name="folder", root=root, resolution=[16, 16, 16])
    assert (len(data), data.skipped) == (16, ())
    assert set(data.class_names) <= set(drawn.class_names)
    for row, key in enumerate(data.keys):
        other = drawn.keys.index(key.removesuffix(".webp").rpartition("/")[2])
        assert np.array_equal(data.images[row], drawn.images[other])
        assert data.captions[row] == drawn.captions[other]
        assert data.class_names[data.labels[row]] == drawn.class_names[drawn.labels[other]]
    streamed = build(
        place,
        name="folder",
        root=root,
        resolution=[16, 16, 16],
        reading={"decoded": False, "workers": 0},
    )
    assert np.array_equal(streamed.images[np.arange(16)], data.images)
    assert streamed.sha256 == data.sha256


def write(path, values, **options):
    """Frames of one grey each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.new("L", (8, 8), value) for value in values]
    first.save(path, save_all=True, append_images=others, duration=100, **options)


def test_every_form_of_a_clip_is_read(place, tmp_path):
    values = list(range(0, 120, 20))
    write(tmp_path / "a.gif", values)
    write(tmp_path / "b.png", values)
    write(tmp_path / "c.webp", values, lossless=True)
    for number, value in enumerate(values):
        write(tmp_path / "walk" / "d" / f"{number + 5}.png", [value])  # 5 ... 10: natural order
    options = {"name": "folder", "root": str(tmp_path), "resolution": [2, 4, 4]}
    data = build(place, **options, channels=1)
    assert sorted(data.keys) == ["a.gif", "b.png", "c.webp", "walk/d"]
    assert data.class_names == ("walk",)
    for row in range(4):
        assert data.images[row, 0, :, 0, 0].tolist() == [40, 60]
    apart = build(place, **options, channels=1, reading={"decoded": True, "every": 3})
    assert apart.images[3, 0, :, 0, 0].tolist() == [20, 80]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_equal_frames_that_a_writer_merged_are_as_many_as_they_were(place, tmp_path, suffix):
    values = [0, 60, 60, 60, 120, 120]
    write(tmp_path / f"a.{suffix}", values, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.n_frames == 3
    options = {"name": "folder", "root": str(tmp_path), "resolution": [6, 4, 4]}
    assert build(place, **options, channels=1).images[0, 0, :, 0, 0].tolist() == values


def test_what_is_no_clip_is_named(place, tmp_path):
    write(tmp_path / "short.gif", [0, 100])
    write(tmp_path / "long.gif", [0, 100, 200])
    options = {"name": "folder", "root": str(tmp_path), "resolution": [3, 4, 4]}
    data = build(place, **options)
    assert data.keys == ("long.gif",)
    assert "short.gif: it has 2 frames and 3 are needed" in data.skipped[0]
    with pytest.raises(ValueError, match="2 frames and 3 are needed.*broken=skip"):
        build(place, **options, reading={"decoded": True, "broken": "refuse"})
    write(tmp_path / "odd" / "1.png", [0])
    for number in (2, 3):
        Image.new("L", (9, 8)).save(tmp_path / "odd" / f"{number}.png")
    assert any("differ in size" in line for line in build(place, **options).skipped)
    with pytest.raises(ValueError, match=r"choose a side such as 32, or \[frames, side, side\]"):
        build(place, **options | {"resolution": [3, 4, 8]})


def test_a_zip_of_clips_is_the_folder(place, tmp_path):
    import shutil

    write(tmp_path / "in" / "cat" / "a.gif", [0, 100])
    for number in range(2):
        write(tmp_path / "in" / "dog" / "b" / f"{number}.png", [100 * number])
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in")
    options = {"name": "folder", "resolution": [2, 4, 4]}
    data = build(place, **options, root=str(tmp_path / "in"))
    zipped = build(place, **options, root=os.fspath(tmp_path / "all.zip"))
    assert zipped.sha256 == data.sha256 and set(data.keys) == {"cat/a.gif", "dog/b"}


def test_varied_clips_leave_out_frames_and_say_their_rate(place, few):
    whole = build(place, name="clips")
    data = build(place, name="clips", resolution=[4, 32, 32], scalars=["fps"], varied=True)
    rates = training_view(data)
    assert rates.keys == whole.keys and set(rates.scalars["fps"]) == {8.0, 4.0, 2.0}
    for clip, source, rate in zip(rates.images, whole.images, rates.scalars["fps"], strict=True):
        assert np.array_equal(clip, source[:, :: int(8 / rate)][:, :4])
    plain = build(place, name="clips", resolution=[4, 32, 32], scalars=["fps"])
    assert set(plain.scalars["fps"]) == {2.0} and set(whole.scalars) == set()
    assert np.array_equal(data.images, plain.images) and set(data.scalars["fps"]) == {2.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"scalars": ["scale"]},
        {"resolution": 32, "varied": True},
        {"resolution": 32, "scalars": ["fps"]},
    ],
)
def test_a_rate_of_images_and_other_scalars_are_refused(place, wrong):
    with pytest.raises(ValueError, match="the one scalar is fps, and both are of clips of"):
        build(place, name="clips", **wrong)
