"""The classifier that ships: what it states is so, its file is checked, and it is made as told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hierdiff.data import datasets
from hierdiff.data.critters.law import LAW
from hierdiff.images import to_uint8
from hierdiff.metrics import make_classifier
from hierdiff.metrics.attributes import AttributeMeter, variation_floor
from hierdiff.metrics.classifier import (
    SHA256,
    SIDES,
    PartClassifier,
    PartNetwork,
    classifier_of,
    network_input,
    weights_path,
)
from hierdiff.metrics.make_classifier import (
    Training,
    accuracies,
    batches,
    disturb,
    shipped_images,
    train_classifier,
    write_classifier,
)
from hierdiff.metrics.reference import levels_of, pooled
from hierdiff.metrics.scale import PixelGaussian
from hierdiff.metrics.weights import sha256
from hierdiff.noise import from_generator, generator_of

CERTAIN = ("body", "body_colour", "background", "top")


@pytest.fixture(scope="module")
def classifier():
    return classifier_of(LAW)


@pytest.fixture(scope="module")
def shipped():
    return shipped_images()


def some(shipped, n):
    images, codes = shipped
    return images[:n], {name: values[:n] for name, values in codes.items()}


def test_it_states_its_accuracy_for_every_attribute_at_every_side(classifier):
    assert list(classifier.accuracy) == [str(side) for side in SIDES]
    assert all(list(found) == list(LAW.frequencies) for found in classifier.accuracy.values())
    for side in ("64", "32"):
        assert min(classifier.accuracy[side][name] for name in CERTAIN) >= 0.98


def test_the_file_is_small_and_says_how_it_was_made():
    assert weights_path("critters").stat().st_size < 1.5e6
    with safe_open(weights_path("critters"), "pt") as file:
        told = json.loads(file.metadata()["training"])
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert told["first_seed"] >= 2048 and told["images"] >= 20_000
    assert set(told) >= {"passes", "learning_rate", "noise", "sides", "drawn_with"}


def test_a_few_shipped_images_are_recognised_as_often_as_stated(classifier, shipped):
    """Within four standard errors of 48 images, at the least one image."""
    found = accuracies(classifier, *some(shipped, 48), sides=(32,))
    for name, value in found["32"].items():
        stated = classifier.accuracy["32"][name]
        error = (stated * (1 - stated) / 48) ** 0.5
        assert abs(value - stated) <= max(4 * error, 1 / 48), name


@pytest.mark.slow
def test_all_shipped_images_are_recognised_exactly_as_often_as_stated(classifier, shipped):
    """But for a few images on the edge of two codes, which kernels of another processor move."""
    found = accuracies(classifier, *shipped)
    for side, stated in classifier.accuracy.items():
        assert found[side] == pytest.approx(stated, abs=2.5 / 2048)


def test_a_file_that_was_changed_is_refused(tmp_path):
    content = bytearray(weights_path("critters").read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match="changed.safetensors has sha256 .* install hierdiff again"
    ):
        PartClassifier.read(tmp_path / "changed.safetensors", SHA256["critters"])


def test_images_are_seen_at_64_px_and_untouched_where_they_have_it():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(network_input(images), images / 127.5 - 1, rtol=0, atol=1e-6)
    for side in (8, 24, 128):
        flat = torch.full((1, 3, side, side), 200, dtype=torch.uint8)
        torch.testing.assert_close(network_input(flat), torch.full((1, 3, 64, 64), 200 / 127.5 - 1))


def test_the_identity_states_name_weights_resize_and_quantisation(classifier):
    assert classifier.identity == (
        f"critters-parts@{SHA256['critters'][:8]} : bilinear-antialias-64 : uint8-round"
    )


def test_the_outputs_of_a_pass_are_the_attributes_of_the_law(classifier, shipped):
    found = classifier.extract(shipped[0][:2])
    assert {name: part.shape[1] for name, part in found.items()} == LAW.sizes == classifier.outputs


@pytest.mark.parametrize("bad", [torch.rand(1, 3, 32, 32), torch.zeros(1, 4, 32, 32).byte()])
def test_what_is_not_uint8_with_one_or_three_channels_is_refused(classifier, bad):
    with pytest.raises((ValueError, TypeError)):
        classifier.extract(bad)


def test_real_images_obey_the_law_and_gaussian_noise_does_not(classifier, tmp_path):
    data = datasets.build({"name": "critters", "resolution": 32, "cache": str(tmp_path)})
    real = torch.from_numpy(data.images[:320].copy())
    fitted = PixelGaussian.fit(torch.from_numpy(data.images[:320].copy()))
    noise = to_uint8(fitted.sample(320, from_generator(generator_of(0))))
    found = {}
    for kind, images in (("real", real), ("gaussian", noise)):
        meter = AttributeMeter(LAW, [32], classifier)
        meter.add({32: images}, {"body": torch.from_numpy(data.attributes["body"][:320])})
        found[kind] = {q.metric: q for q in meter.qualities()}
    floor = variation_floor(LAW, 320)
    assert found["real"]["TV parts"].floor == floor
    assert found["real"]["TV parts"].value < 1.3 * floor < 2 * floor
    assert found["gaussian"]["TV parts"].value > 2 * floor
    assert found["real"]["impossible pairs"].value <= 1 / 96
    assert found["real"]["attribute accuracy"].value > 0.97
    assert found["gaussian"]["attribute accuracy"].value < 0.5


def test_the_disturbance_leaves_a_half_as_it_is_and_moves_the_others_little():
    images = torch.randint(64, 192, (40, 3, 16, 16), dtype=torch.uint8)
    how = Training(noise=0.02)
    moved = disturb(images, how, generator_of(0))
    same = (moved == images).flatten(1).all(1)
    assert 10 < int(same.sum()) < 30
    level = (moved.float() - images.float()).mean((1, 2, 3))
    assert 0 < float(level[~same].abs().mean()) < 6
    assert torch.equal(disturb(images, replace(how, disturbed=0.0), generator_of(0)), images)


def test_a_pass_shows_every_image_once_at_the_stated_sides():
    images = torch.randint(0, 256, (24, 3, 64, 64), dtype=torch.uint8)
    how = Training(batch=8, passes=2, shares=(0.25, 0.25, 0.25, 0.25), disturbed=0.0)
    shown = list(batches(images, how, generator_of(0)))
    order = torch.cat([rows for _, rows in shown])
    assert order[:24].sort().values.tolist() == order[24:].sort().values.tolist() == list(range(24))
    assert order[:24].tolist() != order[24:].tolist()
    x, rows = shown[0]
    for side, mine, of in zip(SIDES, x.split(2), rows.split(2), strict=True):
        torch.testing.assert_close(mine, network_input(pooled(images[of], side)))


def test_what_is_written_reads_back_as_the_network_that_was_trained(tmp_path, monkeypatch, shipped):
    """32 steps at a quarter of the width: the colours of backgrounds are learned by then."""
    images, codes = some(shipped, 64)
    monkeypatch.setattr(make_classifier, "shipped_images", lambda: (images, codes))
    how = Training(passes=16, batch=32, width=8, disturbed=0.0, shares=(0.5, 0.5, 0, 0))
    network = train_classifier(images, codes, how)
    path = tmp_path / "classifier.safetensors"
    found = write_classifier(network, how, path)
    back = PartClassifier.read(path, sha256(path))
    assert back.accuracy == found and back.law == LAW.hash
    assert accuracies(back, images, codes) == found
    assert found["64"]["background"] > 3 / 12
    with torch.no_grad():
        torch.testing.assert_close(back.features(images), network(network_input(images)))


def test_the_network_of_another_width_does_not_fit(tmp_path, monkeypatch):
    network = PartNetwork(sum(LAW.sizes.values()), width=4)
    monkeypatch.setattr(make_classifier, "accuracies", lambda *_: {})
    path = tmp_path / "classifier.safetensors"
    write_classifier(network, Training(width=8), path)
    with pytest.raises(ValueError, match="give the file that the option asks for"):
        PartClassifier.read(path, sha256(path))


def test_levels_of_one_image_are_mostly_recognised_alike(classifier, shipped):
    images = shipped[0][:16]
    found = [
        classifier.extract(x)["background"].argmax(1) for x in levels_of(images, SIDES).values()
    ]
    assert np.mean([(other == found[0]).float().mean() for other in found]) > 0.95
