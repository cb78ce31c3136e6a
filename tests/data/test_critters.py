import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
from scipy.stats import chisquare

from hierdiff.data import datasets
from hierdiff.data.critters import SHA256
from hierdiff.data.critters.law import LAW
from hierdiff.data.critters.words import caption


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def build(place, **options):
    return datasets.build({"name": "critters", "cache": str(place), **options})


def test_the_pixels_are_those_of_the_stated_hash():
    with (
        (files("hierdiff.data.critters") / "critters.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as parts,
    ):
        assert hashlib.sha256(parts["pixels"].tobytes()).hexdigest() == SHA256


def test_there_are_2048_with_14_bodies_as_classes(place):
    data = build(place, resolution=8)
    assert data.images.shape == (2048, 3, 8, 8)
    assert len(data.class_names) == 14
    assert np.array_equal(data.labels, data.attributes["body"])
    assert np.bincount(data.labels).min() > 100
    assert sorted(data.keys) == [f"{seed:04d}" for seed in range(2048)]


def test_a_lower_resolution_is_the_block_mean_of_64(place):
    fine, coarse = build(place, resolution=64).images, build(place, resolution=32).images
    means = fine.reshape(2048, 3, 32, 2, 32, 2).mean((3, 5), dtype=np.float32)
    assert np.abs(means - coarse).max() <= 0.5


@pytest.mark.parametrize("resolution", [0, 24, 128])
def test_a_side_that_does_not_divide_64_is_refused(place, resolution):
    with pytest.raises(ValueError, match=f"resolution {resolution} does not divide"):
        build(place, resolution=resolution)


def test_captions_name_their_parts(place):
    data = build(place, resolution=8)
    row = data.keys.index("0000")
    assert data.captions[row] == "a mint blob creature with winking eyes and a sad mouth, on rust"
    row = data.keys.index("0001")
    assert data.captions[row] == (
        "a silver leaning creature with big eyes, a straight mouth and a crown on its head, "
        "on royal blue"
    )


def test_articles_follow_the_vowel():
    values = {"body_colour": "apricot", "body": "dome", "eyes": "four", "mouth": "open"}
    assert caption(values | {"top": "none", "background": "teal"}) == (
        "an apricot dome creature with four eyes and an open mouth, on teal"
    )


def test_different_parts_never_share_a_caption():
    names = json.loads((files("hierdiff.data.critters") / "names.json").read_text("utf-8"))
    base = {name: values[-1] for name, values in names.items()}
    for part in ("body", "body_colour", "eyes", "mouth", "top", "background"):
        captions = {caption(base | {part: value}) for value in names[part]}
        assert len(captions) == len(names[part])


def test_the_accent_is_known_exactly_where_there_is_a_top(place):
    data = build(place, resolution=8)
    assert np.array_equal(data.attributes["top"] == 0, data.attributes["accent_colour"] == 0)
    shown = data.attributes["top"] > 0
    accent, body = (
        data.attributes["accent_colour"][shown] - 1,
        data.attributes["body_colour"][shown],
    )
    assert (accent != body).all()


def test_the_law_has_a_frequency_for_each_name_of_each_part(place):
    data = build(place, resolution=8)
    assert data.law is LAW
    assert LAW.sizes == {name: len(names) for name, names in data.attribute_names.items()}


@pytest.mark.parametrize("attribute", LAW.frequencies)
def test_the_shipped_examples_are_as_frequent_as_the_law_says(place, attribute):
    """They are one draw of 2,048: a chi-square test below 0.1 % would speak against the law."""
    data = build(place, resolution=8)
    counts = np.bincount(data.attributes[attribute], minlength=LAW.sizes[attribute])
    expected = len(data) * np.array(LAW.frequencies[attribute])
    assert chisquare(counts, expected).pvalue > 1e-3
    wrong = np.roll(expected, 1) if attribute in ("top", "pattern", "cheeks") else expected
    skewed = wrong * np.linspace(0.7, 1.3, len(wrong))
    assert chisquare(counts, skewed / skewed.sum() * len(data)).pvalue < 1e-3


def test_impossible_pairs_never_occur_in_the_shipped_examples(place):
    attributes = build(place, resolution=8).attributes
    assert len(LAW.impossible) == 12
    for (one, code), (other, its) in LAW.impossible:
        assert (attributes[one] == code).sum() > 100 and (attributes[other] == its).sum() > 80
        assert not ((attributes[one] == code) & (attributes[other] == its)).any()


def test_a_part_of_the_data_keeps_the_law_and_its_own_codes(place):
    data = build(place, resolution=8)
    test = data.part("test")
    assert test.law is LAW
    rows = [data.keys.index(key) for key in test.keys]
    assert np.array_equal(test.attributes["eyes"], data.attributes["eyes"][rows])


def test_labels_tell_the_body_and_captions_six_parts(place):
    silent = build(place, resolution=8)
    assert list(silent.condition_codes) == ["body"]
    assert np.array_equal(silent.condition_codes["body"], silent.labels)
    spoken = build(place, resolution=8, text={"name": "vocabulary"}).condition_codes
    assert set(spoken) == {"body", "body_colour", "eyes", "mouth", "top", "background"}
    for name, codes in spoken.items():
        assert np.array_equal(codes, silent.attributes[name])
