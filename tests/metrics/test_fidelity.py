"""Quality per resolution and view, and reference statistics that are kept."""

import logging

import pytest
import torch

from hierdiff.images import to_float, to_uint8
from hierdiff.levels import pyramid
from hierdiff.metrics.features import RandomConv
from hierdiff.metrics.fidelity import FidelityMeter, levels_of, pooled, references
from hierdiff.metrics.frechet import frechet_features

RESOLUTIONS = (16, 8)


def images(n=40, seed=0, low=0, high=256):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.fixture
def extractor():
    return RandomConv(width=12)


def kept(batches, extractor, folder=None, **changes):
    about = {"data": "ab" * 32, "split": "test", "folder": folder} | changes
    return references(batches, extractor, RESOLUTIONS, **about)


def unread():
    raise AssertionError("read the images although their statistics are kept")
    yield


def measure(extractor, refs, *batches):
    meter = FidelityMeter(extractor, refs)
    for batch in batches:
        meter.add(batch)
    return {(q.resolution, q.view): q for q in meter.qualities()}


def test_references_are_pooled_as_the_training_levels_are():
    real = images()
    for side, level in zip(RESOLUTIONS, pyramid(to_float(real), RESOLUTIONS), strict=True):
        assert torch.equal(pooled(real, side), to_uint8(level))


def test_the_reference_against_itself_is_at_distance_zero_in_every_view(extractor):
    real = images()
    refs = kept([real], extractor)
    found = measure(extractor, refs, *[levels_of(b, RESOLUTIONS) for b in real.split(11)])
    assert set(found) == {(16, "native"), (16, "pooled"), (8, "native"), (8, "pooled")}
    for quality in found.values():
        assert quality.value == pytest.approx(0, abs=1e-6)
        assert quality.floor > 0 and quality.n == quality.n_reference == 40


def test_each_view_measures_its_own_images(extractor):
    real, fine, coarse = images(), images(seed=1, high=200), images(seed=2, low=90)[..., :8, :8]
    found = measure(extractor, kept([real], extractor), {16: fine, 8: coarse})

    def between(x, y):
        return pytest.approx(frechet_features(extractor(x), extractor(y)), rel=1e-6)

    assert found[16, "native"].value == between(fine, real)
    assert found[16, "pooled"].value == between(fine, real)
    assert found[8, "native"].value == between(coarse, pooled(real, 8))
    assert found[8, "pooled"].value == between(pooled(fine, 8), pooled(real, 8))


def test_a_method_of_one_resolution_is_measured_pooled_below_it(extractor):
    found = measure(extractor, kept([images()], extractor), {16: images(seed=1)})
    assert set(found) == {(16, "native"), (16, "pooled"), (8, "pooled")}


def test_the_identity_names_everything_that_changes_the_number(extractor):
    refs = kept([images()], extractor)
    base = measure(extractor, refs, {16: images(30, seed=1)})[16, "native"]
    who, resize, quantisation, n, reference, estimator = base.identity.split(" : ")
    assert (who, n) == (f"random_conv@{extractor.weights}", "N=30")
    assert (resize, quantisation) == ("native", "uint8-round")
    assert (reference, estimator) == (f"ref={refs[16].hash}", "frechet-eigenvalues")
    other = RandomConv(width=12, seed=1)
    changed = [
        measure(extractor, refs, {16: images(31, seed=1)}),
        measure(extractor, kept([images()], extractor, split="train"), {16: images(30)}),
        measure(extractor, kept([images()], extractor, data="cd" * 32), {16: images(30)}),
        measure(other, kept([images()], other), {16: images(30)}),
    ]
    assert len({base.identity, *(m[16, "native"].identity for m in changed)}) == 5


def test_fewer_images_than_dimensions_are_said(extractor, caplog):
    refs = kept([images()], extractor)
    with caplog.at_level(logging.INFO):
        found = measure(extractor, refs, {16: images(10)})
    assert found[16, "native"].route == "factor"
    assert "from 10 images with 12 dimensions" in caplog.text


def test_kept_statistics_are_used_without_reading_an_image(extractor, tmp_path):
    first = kept(images().split(7), extractor, tmp_path)
    again = kept(unread(), extractor, tmp_path)
    for side in RESOLUTIONS:
        assert again[side].hash == first[side].hash
        torch.testing.assert_close(again[side].spectrum, first[side].spectrum, rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"data": "cd" * 32}, {"split": "train"}])
def test_other_data_are_not_read_from_the_same_folder(extractor, tmp_path, change):
    kept([images()], extractor, tmp_path)
    other = kept([images(9)], extractor, tmp_path, **change)
    assert other[16].statistics.n == 9
    assert kept(unread(), extractor, tmp_path)[16].statistics.n == 40


def test_a_broken_file_is_rebuilt_with_a_warning(extractor, tmp_path, caplog):
    kept([images()], extractor, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    again = kept([images()], extractor, tmp_path)
    assert again[16].statistics.n == 40 and "computed again" in caplog.text
    kept(unread(), extractor, tmp_path)


def test_a_level_without_reference_is_refused(extractor):
    meter = FidelityMeter(extractor, kept([images()], extractor))
    with pytest.raises(ValueError, match="images at 32 px have no reference"):
        meter.add({32: images()[:, :, :1, :1].expand(-1, -1, 32, 32)})


def test_references_of_another_extractor_are_refused(extractor):
    with pytest.raises(ValueError, match="do not fit the extractor"):
        FidelityMeter(RandomConv(width=12, seed=1), kept([images()], extractor))


def test_an_empty_split_is_refused(extractor):
    with pytest.raises(ValueError, match="split 'test' gave 0 reference images"):
        kept([], extractor)
