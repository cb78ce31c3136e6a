"""Reference statistics: kept, shipped, foreign; broken ones are rebuilt and wrong ones refused."""

import logging
import math
import random

import numpy as np
import pytest
import torch

from hierdiff.data import datasets
from hierdiff.metrics import reference as module
from hierdiff.metrics.extractors import RandomConv, extractors
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.frechet import Moments, frechet
from hierdiff.metrics.reference import SHIPPED, read_moments, references, ship, write_moments
from tests.files.test_reading import damaged
from tests.metrics.sets import RESOLUTIONS, images, kept


@pytest.fixture
def extractor():
    return RandomConv(width=12)


UNREAD: list[torch.Tensor] = []  # no image: what is not kept would have to be made of none


def test_kept_statistics_are_used_without_reading_an_image(extractor, tmp_path):
    first = kept(images().split(7), extractor, tmp_path)
    again = kept(UNREAD, extractor, tmp_path)
    for side in RESOLUTIONS:
        assert again[side].hash == first[side].hash
        torch.testing.assert_close(again[side].spectrum, first[side].spectrum, rtol=0, atol=0)
        assert again[side].statistics.sha256 == first[side].statistics.sha256
        assert torch.equal(again[side].statistics.kept, first[side].statistics.kept)


@pytest.mark.parametrize("change", [{"data": "cd" * 32}, {"split": "train"}])
def test_other_data_are_not_read_from_the_same_folder(extractor, tmp_path, change):
    kept([images()], extractor, tmp_path)
    other = kept([images(9)], extractor, tmp_path, **change)
    assert other[16].statistics.n == 9
    assert kept(UNREAD, extractor, tmp_path)[16].statistics.n == 40


def test_a_broken_file_is_rebuilt_with_a_warning(extractor, tmp_path, caplog):
    kept([images()], extractor, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    again = kept([images()], extractor, tmp_path)
    assert again[16].statistics.n == 40 and "computed again" in caplog.text
    kept(UNREAD, extractor, tmp_path)


def test_any_damage_of_kept_statistics_is_found_and_they_are_computed_again(extractor, tmp_path):
    wanted, chance = kept([images()], extractor, tmp_path), random.Random(0)
    paths = sorted(tmp_path.iterdir())
    for number in range(30):
        path = paths[number % len(paths)]
        path.write_bytes(damaged(path.read_bytes(), chance))
        again = kept([images()], extractor, tmp_path)
        for side in RESOLUTIONS:
            assert again[side].statistics.sha256 == wanted[side].statistics.sha256


def test_any_damage_of_a_foreign_reference_is_one_sentence_or_no_damage(extractor, tmp_path):
    path, chance = tmp_path / "moments.npz", random.Random(0)
    write_moments(path, kept([images()], extractor)[16], {})
    content, wanted = path.read_bytes(), read_moments(path, extractor, 16).statistics.moments
    refused = 0
    for _ in range(60):
        path.write_bytes(damaged(content, chance))
        try:
            found = read_moments(path, extractor, 16).statistics.moments
            assert torch.equal(found.mean, wanted.mean)
            assert torch.equal(found.covariance, wanted.covariance)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 30


def test_an_empty_split_is_refused(extractor):
    with pytest.raises(ValueError, match="split 'test' gave 0 reference images"):
        kept([], extractor)


def stated(folder, by, file="stats.npz", **changes):
    """A file as pytorch-fid writes it, of some real images."""
    moments = Moments.of(by(images()))
    arrays = {"mu": moments.mean.numpy(), "sigma": moments.covariance.numpy()} | changes
    np.savez(folder / file, **{k: v for k, v in arrays.items() if v is not None})
    return folder / file, moments


@pytest.mark.parametrize("more", [{}, {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}])
def test_foreign_moments_give_the_distance_to_them(extractor, tmp_path, caplog, more):
    """With and without the spatial moments of ADM's files."""
    path, moments = stated(tmp_path, extractor, **more)
    found = read_moments(path, extractor, 16)
    assert "its moments count as exact" in caplog.text and math.isinf(found.statistics.n)
    meter = FidelityMeter(extractor, {16: found})
    meter.add({16: images(30, seed=1)})
    row = meter.qualities()[0]
    expected = frechet(Moments.of(extractor(images(30, seed=1))), moments)
    assert row.value == pytest.approx(expected, rel=1e-6)
    assert row.n_reference is None and f"ref=stats.npz@{found.hash[-12:]} : " in str(row.identity)
    own = kept([images()], extractor)[16]
    assert own.hash not in str(row.identity)


def test_a_foreign_reference_has_no_features_to_compare_with(extractor, tmp_path):
    found = read_moments(stated(tmp_path, extractor)[0], extractor, 16)
    FidelityMeter(extractor, {16: found}, ["fd", "fd_infinity", "consistency"])
    with pytest.raises(ValueError, match="metric 'pr' compares with features .* moments alone"):
        FidelityMeter(extractor, {16: found}, ["fd", "pr"])


def test_spatial_moments_are_read_where_the_extractor_has_such_features(tmp_path):
    from tests.metrics.test_fidelity import WithLogits

    extractor = WithLogits()
    spatial = {"mu_s": np.arange(12.0), "sigma_s": np.eye(12)}
    found = read_moments(stated(tmp_path, extractor, **spatial)[0], extractor, 16)
    assert found.others["spatial"].moments.mean.tolist() == list(range(12))
    plain = read_moments(stated(tmp_path, extractor, "plain.npz")[0], extractor, 16)
    with pytest.raises(ValueError, match="'sfid' needs spatial statistics"):
        FidelityMeter(extractor, {16: plain}, ["sfid"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": None}, "lacks mu or sigma"),
        ({"mu": np.zeros(5)}, "the extractor gives 12 features"),
        ({"sigma": np.triu(np.ones((12, 12)))}, "no covariance"),
        ({"mu": np.full(12, np.nan)}, "not finite"),
        ({"mu": np.array([None] * 12)}, "no .npz of moments"),
        ({"extractor": "another"}, "is for extractor 'another'"),
        ({"resolution": "32"}, "is for resolution '32', not '16'"),
    ],
)
def test_a_foreign_file_that_does_not_fit_is_refused(extractor, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_moments(stated(tmp_path, extractor, **change)[0], extractor, 16)


def test_what_is_no_file_or_no_npz_is_refused(extractor, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        read_moments(tmp_path / "none.npz", extractor, 16)
    (tmp_path / "bad.npz").write_bytes(b"PK not really")
    with pytest.raises(ValueError, match="no .npz of moments"):
        read_moments(tmp_path / "bad.npz", extractor, 16)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="no .npz of moments"):
        read_moments(tmp_path / "one.npy", extractor, 16)


def test_written_moments_come_back_with_their_count_and_nothing_to_warn_of(
    extractor, tmp_path, caplog
):
    own = kept([images()], extractor)[16]
    write_moments(tmp_path / "mine.npz", own, {"data": "noise"})
    found = read_moments(tmp_path / "mine.npz", extractor, 16)
    assert not caplog.text and found.statistics.n == 40
    assert torch.equal(found.statistics.moments.mean, own.statistics.moments.mean)
    covariance = found.statistics.moments.covariance
    torch.testing.assert_close(covariance, own.statistics.moments.covariance, rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="is for extractor 'random_conv@"):
        read_moments(tmp_path / "mine.npz", RandomConv(width=12, seed=1), 16)


def test_shipped_features_give_the_statistics_that_reading_gives(
    extractor, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    read = kept(images().split(32), extractor)  # batches of the protocol are 16
    paths = [ship(r, data="ab" * 32, split="test", extractor=extractor) for r in read.values()]
    found = kept(UNREAD, extractor)
    for side in RESOLUTIONS:
        assert found[side].statistics.sha256 == read[side].statistics.sha256
    assert kept([images(9)], extractor, data="cd" * 32)[16].statistics.n == 9
    for path in paths:
        path.write_bytes(path.read_bytes()[:-30])
    with caplog.at_level(logging.WARNING):
        assert kept([images(9)], extractor)[16].statistics.n == 9
    assert "is damaged and is not used" in caplog.text


def test_a_part_of_the_features_is_not_shipped(extractor, monkeypatch):
    monkeypatch.setitem(module.KEPT, "features", 20)
    with pytest.raises(ValueError, match="20 of 40 features"):
        ship(kept([images()], extractor)[16], data="d", split="test", extractor=extractor)


@pytest.fixture(scope="module")
def lite0():
    return extractors.build({"name": "efficientnet_lite0"})


@pytest.fixture(scope="module")
def critters():
    return datasets.build({"name": "critters", "resolution": 32})


@pytest.mark.parametrize(
    ("side", "trace"), [(16, 83.8132), pytest.param(32, 94.7592, marks=pytest.mark.slow)]
)
def test_the_default_run_needs_no_training_image(lite0, critters, side, trace):
    train = critters.part("train")
    found = references(UNREAD, lite0, [side], data=train.sha256, split="train")[side].statistics
    assert found.n == len(found.kept) == len(train)
    assert float(found.moments.trace) == pytest.approx(trace, abs=1e-3)
    assert len(list(SHIPPED.glob("reference-*.npz"))) == 2
    assert all(path.stat().st_size < 4.1e6 for path in SHIPPED.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 16])
def test_shipped_features_are_those_of_the_embedded_images(lite0, critters, side):
    train = critters.part("train")
    shipped = references(UNREAD, lite0, [side], data=train.sha256, split="train")[side]
    rows = [0, 1, 700, len(train) - 1]
    pixels = module.pooled(torch.from_numpy(train.images[rows].copy()), side)
    found = lite0(pixels)
    torch.testing.assert_close(found, shipped.statistics.kept[rows], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_real_images_are_as_far_from_the_shipped_reference_as_when_it_was_made(lite0, critters):
    """512 test images at 16 px: FD 9.42458, measured 2026-11 on the protocol's batches."""
    train, test = critters.part("train"), critters.part("test")
    refs = references(UNREAD, lite0, [16], data=train.sha256, split="train")
    meter = FidelityMeter(lite0, refs, ["fd", "kd"])
    for chunk in torch.from_numpy(test.images[:512].copy()).split(64):
        meter.add({16: module.pooled(chunk, 16)})
    values = {row.metric: row.value for row in meter.qualities()}
    assert values["FD-EffLite0"] == pytest.approx(9.42458, rel=1e-3)
    assert values["KD-EffLite0"] == pytest.approx(-0.00028, abs=2e-5)
