"""The builder of references: what it prints, keeps, writes and refuses."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.references import (
    build_references,
    reference_line,
    reference_settings,
    write_references,
)
from hierdiff.files.arrays import read_npz, write_npz
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.reference import read_moments, references
from tests.training.runs import images


@pytest.fixture
def extractor():
    return RandomConv(width=12)


def test_a_line_says_data_split_resolution_operator_count_and_hash(extractor, tmp_path):
    data = images(40)
    made = build_references(data, "all", extractor, [8, 4], tmp_path)
    line = reference_line(data.name, "all", extractor, made[4])
    assert f"{data.name} all 4 px block-mean: 40 images, ref={made[4].hash}, random_conv@" in line
    assert line.endswith(f"sha256 {made[4].statistics.sha256}")
    again = build_references(data, "all", extractor, [8, 4], tmp_path)
    assert reference_line(data.name, "all", extractor, again[4]) == line
    assert build_references(data, "train", extractor, [8], tmp_path)[8].statistics.n < 40


def test_every_resolution_gets_its_file_and_the_file_comes_back(extractor, tmp_path):
    made = build_references(images(40), "all", extractor, [8, 4], tmp_path / "kept")
    paths = write_references(tmp_path / "out.npz", made, {"data": "critters"})
    assert [path.name for path in paths] == ["out-8.npz", "out-4.npz"]
    assert read_moments(paths[1], extractor, 4).statistics.n == 40
    (alone,) = write_references(tmp_path / "one.npz", {8: made[8]}, {})
    assert alone.name == "one.npz"
    with pytest.raises(ValueError, match="is no .npz"):
        write_references(tmp_path / "out.json", made, {})


def test_the_moments_of_clips_say_how_many_frames_they_are_of_and_how_many_a_clip_has(
    extractor, tmp_path
):
    """Read as clips of another length, or as a number of clips, they would count wrongly."""
    clips = torch.randint(0, 256, (5, 3, 8, 16, 16), dtype=torch.uint8)
    (made,) = references([clips], extractor, [(8, 16, 16)], data="0", split="all").values()
    assert ": 5 clips of 8 frames, " in reference_line("squares", "all", extractor, made)
    (path,) = write_references(tmp_path / "clips.npz", {(8, 16, 16): made}, {})
    arrays = read_npz(path)
    assert (int(arrays["n"]), int(arrays["frames"])) == (40, 8)
    assert read_moments(path, extractor, (8, 16, 16)).statistics.n == 40
    for change in ({"n": np.asarray(5)}, {"frames": np.asarray(4)}, {"frames": np.asarray(1)}):
        write_npz(tmp_path / "other.npz", {**arrays, **change})
        with pytest.raises(ValueError, match="clips of 8 frames: write `n`, the number of all fr"):
            read_moments(tmp_path / "other.npz", extractor, (8, 16, 16))


def test_a_resolution_that_does_not_divide_the_data_is_refused(extractor, tmp_path):
    with pytest.raises(ValueError, match="3 does not divide"):
        build_references(images(40), "all", extractor, [8, 3], tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("resolutions", 16, "resolutions=16: resolutions takes a list of"),
        ("resolutions", [16.5], "resolutions takes a list"),
        ("split", 3, "split takes a text"),
        ("ship", "yes", "ship takes true or false"),
        ("output", "out.json", "output=out.json is no .npz"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_is_computed(option, value, message):
    options = {"resolutions": [16, 8], "split": "train", "ship": False, "output": "a.npz"}
    reference_settings(options)
    with pytest.raises(ValueError, match=message):
        reference_settings({**options, option: value})


@pytest.mark.slow
def test_the_command_prints_writes_and_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "benchmarks.reference", "data.resolution=16"]
    command += ["resolutions=[16,8]", "measure.extractor={name: random_conv}"]
    environment = {**os.environ, "JAXTYPING_DISABLE": "1", "HIERDIFF_CACHE": str(tmp_path)}

    def run(*options):
        return subprocess.run([*command, *options], env=environment, capture_output=True, text=True)

    ended = run(f"output={tmp_path / 'a.npz'}")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("critters train 16 px block-mean: 1513 images, ref=")
    assert [line.split()[0] for line in lines[2:]] == [
        str(tmp_path / "a-16.npz"),
        str(tmp_path / "a-8.npz"),
    ]
    assert run().stdout.splitlines() == lines[:2]
    wrong = run("split=valid")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: unknown part 'valid'")
