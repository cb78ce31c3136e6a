"""Inception score, PSNR and SSIM: known answers through torchmetrics."""

import math

import pytest
import torch
from torch import nn

from hierdiff.metrics.extra import inception_score, psnr, ssim

CLASSES = 5


class Says(nn.Module):
    """Logits from the first pixel: certain of class `pixel`, or uniform."""

    def __init__(self, certainty):
        super().__init__()
        self.certainty = certainty

    def forward(self, images):
        return self.certainty * torch.eye(CLASSES)[images[:, 0, 0, 0].long()]


def images():
    return (
        torch.arange(CLASSES, dtype=torch.uint8).repeat(8)[:, None, None, None].expand(-1, 3, 2, 2)
    )


def test_uniform_predictions_score_one():
    found = inception_score([images()], Says(0.0), splits=1)
    assert found.value == pytest.approx(1, abs=1e-5) and found.spread is None


def test_certain_and_balanced_predictions_score_the_number_of_classes():
    found = inception_score(images().split(7), Says(50.0), splits=1)
    assert found.value == pytest.approx(CLASSES, rel=1e-5) and found.n == 40


def test_the_score_leaves_the_callers_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    inception_score([images()], Says(1.0), splits=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_psnr_of_an_error_of_one_grey_level_is_48_decibels():
    image = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    assert psnr(image, image + 1) == pytest.approx(20 * math.log10(255), rel=1e-6)


def test_ssim_of_equal_images_is_one_and_falls_with_noise():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    assert ssim(image, image) == pytest.approx(1, abs=1e-6)
    assert ssim(image, image.flip(-1)) < 0.5
