"""The degradation of BSRGAN: JPEG against Pillow's, kernels in closed form, and properties."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import degradation
from baselines.degradation import (
    BRIGHTNESS,
    BSR,
    COLOUR,
    degradations,
    gaussian_blur,
    jpeg,
    resized,
)
from hierdiff.noise import per_example
from tests import tiny


def smooth(b=2, side=64, channels=3, seed=0):
    """Images in [-1, 1] of a few waves."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij")
    a = torch.rand(b, channels, 4, 1, 1, generator=generator)
    waves = torch.sin(6 * a[:, :, 0] * x + 5 * a[:, :, 1] * y + 6 * a[:, :, 2])
    return (waves * (0.2 + 0.6 * a[:, :, 3])).clamp(-0.9, 0.9)


def pillow(x, quality):
    """What Pillow reads back of a JPEG file, (c, h, w) in [0, 1], and its tables."""
    pixels = (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    mode = Image.fromarray(pixels.squeeze())
    mode.save(file, "JPEG", quality=quality, subsampling=2)
    read = Image.open(file)
    array = np.asarray(read)
    array = array[..., None] if array.ndim == 2 else array
    return torch.tensor(array).permute(2, 0, 1) / 255, read.quantization


@pytest.mark.parametrize("quality", [10, 30, 75, 95])
def test_jpeg_is_that_of_libjpeg(quality):
    grey = smooth(1, 40, 1)[0] / 2 + 0.5
    wanted, _ = pillow(grey, quality)
    error = (jpeg(grey[None], quality)[0] - wanted) * 255  # libjpeg rounds its integer transform
    assert error.abs().max() < 6 and error.square().mean().sqrt() < 0.8
    colour = smooth(1, 48, 3)[0] / 2 + 0.5
    wanted, tables = pillow(colour, quality)
    error = (jpeg(colour[None], quality)[0] - wanted) * 255  # it also interpolates colours
    assert error.square().mean().sqrt() < 2.5
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    for own, table in zip((BRIGHTNESS, COLOUR), tables.values(), strict=True):
        assert [min(255, max(1, int((q * percent + 50) // 100))) for q in own] == list(table)


def test_jpeg_of_the_best_quality_changes_little_and_of_the_worst_much():
    x = smooth(2, 40, 1) / 2 + 0.5
    best, worst = ((jpeg(x, quality) - x).abs() for quality in (100, 1))
    assert best.max() < 3 / 255 and worst.mean() > 5 / 255


def test_a_blur_spreads_a_point_with_its_variances_along_its_axes():
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[..., 20, 20] = 1
    out = gaussian_blur(x, (4.0, 1.0), math.pi / 6)[0, 0]
    y, z = torch.meshgrid(*[torch.arange(41.0, dtype=torch.float64) - 20] * 2, indexing="ij")
    moments = [(out * u * v).sum().item() for u, v in ((z, z), (y, y), (y, z))]
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    wanted = [4 * c**2 + s**2, 4 * s**2 + c**2, (4 - 1) * c * s]
    assert moments == pytest.approx(wanted, rel=1e-4)
    assert float(out.sum()) == pytest.approx(1)


def test_a_shifted_blur_moves_the_centre_of_a_block_to_its_first_pixel():
    ramp = torch.arange(32.0, dtype=torch.float64).expand(1, 1, 32, 32)
    out = gaussian_blur(ramp, (1.0, 1.0), shift=1.5)[..., ::4, ::4]
    inside = out[0, 0, 4, 2:6]
    torch.testing.assert_close(inside, torch.arange(8.0, 24.0, 4, dtype=torch.float64) + 1.5)


def test_a_blur_of_no_width_and_a_constant_image_change_nothing():
    x = smooth(1, 16)
    torch.testing.assert_close(gaussian_blur(x, (0.0, 0.0)), x, atol=1e-6, rtol=0)
    flat = torch.full((1, 3, 5, 7), 0.25)
    torch.testing.assert_close(gaussian_blur(flat, (3.0, 8.0), 1.0), flat)


@pytest.mark.parametrize("mode", range(3))
def test_every_resize_keeps_a_constant(mode):
    flat = torch.full((1, 3, 12, 12), 0.25)
    torch.testing.assert_close(
        resized(flat, (5, 7), (mode + 0.5) / 3), torch.full((1, 3, 5, 7), 0.25)
    )


@pytest.mark.parametrize("sides", [(16, 16), (32, 32), (8, 8)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_its_images_have_the_sides_stay_in_range_and_keep_the_mean(sides, channels):
    x = smooth(6, 64, channels)
    out = BSR()(x, sides, tiny.noise(0))
    assert out.shape == (6, channels, *sides) and out.dtype == x.dtype
    assert float(out.min()) >= -1 and float(out.max()) <= 1
    assert (out.mean((1, 2, 3)) - x.mean((1, 2, 3))).abs().max() < 0.08
    assert (out - torch.nn.functional.adaptive_avg_pool2d(x, sides)).std() > 0.01


def test_it_is_a_function_of_the_noise_alone():
    x = smooth(3)
    first, again, other = (BSR()(x, (16, 16), tiny.noise(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_example_does_not_depend_on_its_batch():
    x = smooth(3)
    together = BSR()(x, (16, 16), per_example([5, 6, 7]))
    alone = BSR()(x[1:2], (16, 16), per_example([6]))
    torch.testing.assert_close(together[1:2], alone)


def test_the_light_variant_is_nearer_to_the_mean_of_the_pixels():
    x = smooth(8)
    mean = torch.nn.functional.adaptive_avg_pool2d(x, 16)
    light = BSR(blur=0.25, noise=(2, 8), quality=(80, 95))
    errors = [(one(x, (16, 16), tiny.noise(0)) - mean).square().mean() for one in (light, BSR())]
    assert errors[0] < errors[1] / 2


def test_the_wanted_sides_are_reached_by_the_second_reduction(monkeypatch):
    """And the six steps come in every order."""
    calls = []
    monkeypatch.setattr(
        degradation,
        "resized",
        lambda x, sides, u: (calls.append(tuple(sides)), resized(x, sides, u))[1],
    )
    for seed in range(20):
        calls.clear()
        BSR()(smooth(1, 32), (16, 16), tiny.noise(seed))
        assert calls[-1] == (16, 16)


def test_its_numbers_suffice_and_its_noise_has_the_published_widths():
    x = torch.zeros(40, 3, 8, 8)
    out = BSR(blur=0, noise=(25, 25), quality=(100, 100))(x, (8, 8), tiny.noise(0))
    stds = out.flatten(1).std(1) * 127.5
    assert 8 < float(stds.median()) < 28  # a reduction after it may average it


def test_on_the_meta_device_it_has_a_shape():
    x = torch.empty(2, 3, 32, 32, device="meta")
    out = BSR()(x, (8, 8), lambda shape: torch.empty(tuple(shape), device="meta"))
    assert out.shape == (2, 3, 8, 8) and out.is_meta


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"noise": [5, 2]}, r"noise \[5, 2\]: give \[lowest, highest\]"),
        ({"quality": [0, 50]}, "quality"),
        ({"quality": [90, 50]}, r"give \[lowest, highest\]"),
        ({"blur": -1}, "blur"),
    ],
)
def test_options_out_of_range_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        degradations.build({"name": "bsr", **options})
