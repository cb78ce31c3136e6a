"""elpv and fluent_emoji, from small folders of the same form as their packages."""

import os

import numpy as np
import pytest

from hierdiff.data import datasets, elpv, fluent_emoji
from tests.data.samples import write_cells, write_emoji


@pytest.fixture
def cells(tmp_path):
    return write_cells(tmp_path / "elpv")


@pytest.fixture
def emoji(tmp_path):
    return write_emoji(tmp_path / "emoji")


def test_cells_have_one_channel_and_their_class(cells, tmp_path):
    data = datasets.build(
        {"name": "elpv", "root": str(cells), "resolution": 64, "cache": str(tmp_path / "c")}
    )
    assert data.images.shape == (24, 1, 64, 64)
    by_key = {
        key: data.class_names[label] for key, label in zip(data.keys, data.labels, strict=True)
    }
    assert by_key["cell0"] == "mono intact"
    assert by_key["cell1"] == "poly possibly defective"
    assert by_key["cell2"] == "poly defective"
    assert data.captions[data.keys.index("cell2")] == (
        "a photograph of a polycrystalline solar cell, defective"
    )
    assert (data.images[data.keys.index("cell2")] == 20).all()


def test_without_package_or_folder_the_way_out_is_one_command(tmp_path, monkeypatch):
    monkeypatch.setattr(elpv, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install elpv-dataset==1\.0\.0\.post1"):
        elpv.elpv(cache=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m hierdiff\.fetch fluent_emoji"):
        fluent_emoji.fluent_emoji(cache=tmp_path)


@pytest.mark.parametrize("name", ["elpv", "fluent_emoji"])
def test_a_wrong_folder_and_a_resolution_above_the_source_are_errors(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        datasets.build({"name": name, "root": str(tmp_path), "cache": str(tmp_path)})
    with pytest.raises(ValueError, match="choose at most"):
        datasets.build({"name": name, "root": str(tmp_path), "resolution": 512})


def test_emoji_lie_on_white_with_their_caption_and_group(emoji, tmp_path):
    data = datasets.build(
        {"name": "fluent_emoji", "root": str(emoji), "resolution": 16, "cache": str(tmp_path / "c")}
    )
    captions = dict(zip(data.keys, data.captions, strict=True))
    assert len(captions) == 42
    assert captions["1f407"] == "waving hand 7"
    assert captions["1f407-1f3fb"] == "waving hand 7: light"
    assert captions["2764"] == "red heart"
    assert data.groups[data.keys.index("1f407-1f3fb")] == "1f407"
    assert data.class_names == ("smileys-emotion", "people-body")
    assert (data.images[data.keys.index("2764")] == 255).all()
    assert data.images[data.keys.index("1f600")][:, 8, 8].tolist() == [0, 0, 255]


def test_emoji_without_skin_tones_are_the_bases_alone(emoji, tmp_path):
    node = {"name": "fluent_emoji", "root": str(emoji), "cache": str(tmp_path / "c")}
    data = datasets.build(node | {"skin_tones": False, "resolution": 16})
    assert not [key for key in data.keys if "-" in key]
    assert np.bincount(data.labels).tolist() == [2, 20]


def test_odd_files_of_a_package_are_skipped_and_named(cells, emoji, tmp_path):
    (cells / "images" / "cell3.png").unlink()
    (cells / "images" / "cell4.png").unlink()
    os.mkfifo(cells / "images" / "cell4.png")
    heart = emoji / "fluent-emoji-3d" / "assets" / "2764-fe0f.webp"
    heart.unlink()
    heart.symlink_to(tmp_path / "nowhere")
    node = {"name": "elpv", "root": str(cells), "resolution": 8, "cache": str(tmp_path / "c")}
    data = datasets.build(node)
    assert len(data) == 22
    assert [line.partition(": ")[2] for line in sorted(data.skipped)] == [
        "No such file or directory",
        "no regular file",
    ]
    data = datasets.build(node | {"name": "fluent_emoji", "root": str(emoji)})
    assert data.skipped == (f"{heart}: No such file or directory",) and "2764" not in data.keys


@pytest.mark.parametrize(
    "line", ["images/a.png 0.5", "images/a.png x mono", "images/a.png 1.0 tri"]
)
def test_a_wrong_line_of_labels_is_named(cells, tmp_path, line):
    with (cells / "labels.csv").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"labels\.csv:26 is none of"):
        datasets.build(
            {"name": "elpv", "root": str(cells), "resolution": 8, "cache": str(tmp_path)}
        )


@pytest.mark.slow
def test_the_installed_photographs_are_those_of_the_paper(tmp_path):
    pytest.importorskip("elpv_dataset")
    data = datasets.build({"name": "elpv", "resolution": 8, "cache": str(tmp_path)})
    assert np.bincount(data.labels).tolist() == [588, 117, 56, 313, 920, 178, 50, 402]
    assert data.skipped == ()
