"""Haar bands: known answers, and that a change of one band is seen in that band alone."""

import pytest
import torch
import torch.nn.functional as F

from hierdiff.metrics.extractors import Haar
from hierdiff.metrics.extractors.haar import DETAILS, LOW, PLACES, SCALES, bands
from hierdiff.metrics.sliced import relative_distance


def noise(n=64, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(60, 196, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def distances(fake, real):
    haar = Haar()
    parts = zip(bands(haar(fake)).items(), bands(haar(real)).values(), strict=True)
    return {band: relative_distance(x, y) for (band, x), y in parts}


def blocks(images, scale):
    """Block means of a side of `scale` pixels, enlarged again."""
    small = F.avg_pool2d(images.float(), scale)
    return small.round().byte().repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def test_equal_images_are_at_distance_zero_in_every_band():
    assert set(distances(noise(), noise()).values()) == {0.0}
    assert list(distances(noise(), noise())) == ["2", "4", "8", "Low"]


@pytest.mark.parametrize(("scale", "gone"), [(2, ["2"]), (4, ["2", "4"]), (8, ["2", "4", "8"])])
def test_block_means_take_the_finer_bands_away_and_leave_the_others(scale, gone):
    found = distances(blocks(noise(), scale), noise())
    for band, value in found.items():
        assert value == pytest.approx(1, abs=0.01) if band in gone else value < 0.05


def test_a_blur_is_seen_most_in_the_finest_band():
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = torch.outer(kernel, kernel).expand(3, 1, 3, 3)
    smooth = blocks(noise(), 8)  # of low frequencies, with some noise on it
    real = (smooth.float() + noise(seed=1).float() - 128).clamp(0, 255).byte()
    padded = F.pad(real.float(), (1, 1, 1, 1), mode="reflect")
    blurred = F.conv2d(padded, weight, groups=3).round().byte()
    found = distances(blurred, real)
    assert found["2"] > 0.5 > found["4"] > found["8"] and found["Low"] < 0.1


def test_brightness_is_seen_in_the_band_that_remains_alone():
    found = distances(noise() + 20, noise())
    assert found["Low"] > 0.1 and max(found[str(scale)] for scale in SCALES) < 1e-5


def test_coefficients_are_orthonormal():
    """A block of 8 x 8 is one value of each finer band: all 64 coefficients keep its energy."""
    image = noise(1, 8)
    low, energy = image.double() / 255, 0.0
    filters = Haar().filters.double()
    for _ in SCALES:
        parts = F.conv2d(low.flatten(0, 1)[:, None], filters, stride=2)
        energy += float(parts[:, 1:].square().sum())
        low = parts[None, :, 0]
    total = energy + float(low.square().sum())
    assert total == pytest.approx(float((image.double() / 255).square().sum()), rel=1e-12)


def test_features_are_the_coefficients_at_the_places_of_each_band():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[..., ::2] = 255  # stripes of one pixel: across, and nothing else
    found = bands(Haar()(image))
    assert [tuple(part.shape) for part in found.values()] == [(PLACES, DETAILS)] * 3 + [
        (PLACES, LOW)
    ]
    assert torch.equal(found["2"], torch.tensor([1.0] * 3 + [0.0] * 6).expand(PLACES, -1))
    assert not found["4"].any() and not found["8"].any()
    assert torch.equal(found["Low"], torch.full((PLACES, LOW), 4.0))  # 8 times the mean of 1/2


def test_a_band_of_few_places_has_each_of_them_equally_often():
    image = noise(1, 16)
    low = bands(Haar()(image))["Low"]  # 2 x 2
    values, counts = low.unique(dim=0, return_counts=True)
    assert len(values) == 4 and counts.tolist() == [4] * 4


def test_sides_without_three_levels_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        Haar()(noise(1, 20))


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1.5])
def test_a_set_drawn_together_about_its_mean_is_at_one_minus_the_factor(factor):
    y = torch.randn(200, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    x = y.mean(0) + factor * (y - y.mean(0))
    assert relative_distance(x, y) == pytest.approx(abs(1 - factor), abs=1e-12)
