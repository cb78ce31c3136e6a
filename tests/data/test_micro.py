"""Micro-conditions: what folders and critters tell of how an image was made."""

import numpy as np
import pytest
import torch

from hierdiff.data import datasets
from hierdiff.data.buckets import resolutions_of, training_view
from hierdiff.data.critters import _corner, _drawn
from hierdiff.data.micro import SCALARS
from tests.data.test_folder import build as folder
from tests.data.test_folder import paint


def critters(tmp_path, **options):
    return datasets.build({"name": "critters", "cache": str(tmp_path), "resolution": 16, **options})


def told(data, row=0):
    scalars = data.batch(torch.tensor([row])).cond.scalars
    return {name: float(value) for name, value in scalars.items()}


def test_a_folder_tells_the_size_of_the_original_and_where_the_middle_was_cut_out(tmp_path):
    paint(tmp_path / "images" / "a.png", size=(40, 20))
    data = folder(tmp_path / "images", tmp_path, resolution=10, scalars=SCALARS)
    assert told(data) == {
        "scale": 20,
        "original_height": 20,
        "original_width": 40,
        "crop_top": 0,
        "crop_left": 5,  # of 10 x 20 px, to which it was shrunk
        "target_height": 10,
        "target_width": 10,
    }
    assert data.facts["scalars"] == tuple(sorted(SCALARS))


def test_scalars_that_are_not_known_are_refused(tmp_path):
    paint(tmp_path / "images" / "a.png", size=(40, 20))
    with pytest.raises(ValueError, match=r"folder has no scalar \['crop'\]: it knows \['scale'"):
        folder(tmp_path / "images", tmp_path, scalars=["crop"])
    with pytest.raises(ValueError, match=r"critters has no scalar \['size'\]"):
        critters(tmp_path, scalars=["size"])
    reading = {"decoded": False, "crop": "adm_random"}
    with pytest.raises(ValueError, match=r"data.scalars=\['crop_top'\]: .* draws crops anew"):
        folder(tmp_path / "images", tmp_path, scalars=["crop_top"], reading=reading)


def test_varied_critters_are_cut_in_training_and_measured_whole(tmp_path):
    names = ["original_height", "crop_top", "crop_left"]
    plain, data = critters(tmp_path, scalars=names), critters(tmp_path, scalars=names, varied=True)
    assert told(plain) == {"original_height": 64, "crop_top": 0, "crop_left": 0}
    for part in ("train", "test"):
        whole, measured = plain.part(part), data.part(part)
        assert np.array_equal(measured.images, whole.images) and told(measured) == told(plain)
    varied = training_view(data)
    assert varied.keys == plain.keys and not np.array_equal(varied.images, plain.images)
    scalars = varied.scalars
    sides, counts = np.unique(scalars["original_height"], return_counts=True)
    assert sides.tolist() == [16, 32, 64] and counts.min() > 600
    assert scalars["crop_top"].max() == scalars["crop_left"].max() == 4  # of 20 px
    assert (scalars["crop_top"] == 0).mean() < 0.6
    assert data.sha256 != plain.sha256 and resolutions_of(data) == []


def test_conditions_and_cuts_of_training_leave_the_reference_as_it_is(tmp_path):
    plain = critters(tmp_path)
    told = critters(tmp_path, varied=True, scalars=["original_height"])
    other = critters(tmp_path, buckets={"multiple": 8})  # windows of the drawings
    shas = [data.part("train").reference_sha256 for data in (plain, told, other)]
    assert shas[0] == plain.part("train").sha256 == shas[1] != shas[2]


def test_a_varied_critter_is_cut_out_where_it_is_told(tmp_path):
    """At a scale of 1 a crop is a shift."""
    whole = critters(tmp_path, resolution=64).images
    cut = training_view(critters(tmp_path, resolution=64, varied=True))
    seeds = [int(key) for key in cut.keys]
    largest = [row for row, seed in enumerate(seeds) if _drawn(seed)[0] == 64]
    near = [row for row in largest if _drawn(seeds[row])[1].side < 1 / 17]  # 64 px, nothing is cut
    assert near and all(_corner(seeds[row], 64) == (0, 0) for row in near)
    assert np.array_equal(cut.images[near], whole[near])
