"""Inception score, PSNR and SSIM: known answers through torchmetrics."""

import math

import pytest
import torch

from hierdiff.metrics.extra import inception_score, psnr, ssim

CLASSES = 5


def logits(certainty, classes=CLASSES):
    """Of 40 images, as certain of each class in turn."""
    return certainty * torch.eye(classes).repeat(8, 1)


def test_uniform_predictions_score_one():
    found = inception_score(logits(0.0), splits=1)
    assert found.value == pytest.approx(1, abs=1e-5) and found.spread is None


def test_certain_and_balanced_predictions_score_the_number_of_classes():
    found = inception_score(logits(50.0), splits=1)
    assert found.value == pytest.approx(CLASSES, rel=1e-5) and found.n == 40


def test_the_score_is_the_exponential_of_the_mean_divergence_from_the_marginal():
    given = torch.randn(40, CLASSES, generator=torch.Generator().manual_seed(1))
    p = given.double().softmax(1)
    divergence = (p * (p.log() - p.mean(0).log())).sum(1)
    expected = float(divergence.mean().exp())
    assert inception_score(given, splits=1).value == pytest.approx(expected, rel=1e-5)


def test_the_score_leaves_the_callers_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    inception_score(logits(1.0), splits=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_more_splits_than_images_are_refused():
    with pytest.raises(ValueError, match="40 images cannot be split in 41"):
        inception_score(logits(1.0), splits=41)


def test_psnr_of_an_error_of_one_grey_level_is_48_decibels():
    image = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    assert psnr(image, image + 1) == pytest.approx(20 * math.log10(255), rel=1e-6)


def test_ssim_of_equal_images_is_one_and_falls_with_noise():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    assert ssim(image, image) == pytest.approx(1, abs=1e-6)
    assert ssim(image, image.flip(-1)) < 0.5
