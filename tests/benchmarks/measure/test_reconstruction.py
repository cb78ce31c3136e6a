"""A lossy codec's row: what comes back of real images."""

import numpy as np
import pytest
import torch

from benchmarks.measure.reconstruction import reconstructions
from hierdiff.codec import Codec
from hierdiff.images import to_float
from hierdiff.levels import down, up
from hierdiff.metrics.extractors import extractors
from hierdiff.metrics.perceptual import Perceptual, perceptuals
from hierdiff.metrics.reference import references


class Blocks(Codec):
    """Keeps the block means of 2 x 2 pixels; `exact` keeps everything."""

    lossy = True
    resolutions = (8,)

    def __init__(self, exact: bool):
        self.exact = exact

    def encode(self, images):
        return (images if self.exact else down(images, 4),)

    def decode(self, levels):
        return {8: levels[0] if self.exact else up(levels[0], 8)}

    def shapes(self):
        return ((3, 8, 8),)

    def tail(self, n):
        return self


class Brightness(Perceptual):
    """Mean absolute difference, so that the mean over images is known."""

    identity = "brightness@0"
    uses_imagenet = False

    def distance(self, a, b):
        return (a - b).abs().mean((1, 2, 3))


def rows_of(exact, perceptual=None):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)
    extractor = extractors.build({"name": "random_conv"})
    reference = references([torch.from_numpy(pixels)], extractor, [8], data="d", split="train")[8]
    rows, made = reconstructions(
        Blocks(exact), torch.from_numpy(pixels), extractor, reference, perceptual
    )
    return {row.metric: row for row in rows}, torch.from_numpy(pixels), made


class Watched(Blocks):
    """Tells whether it computed under autocast."""

    def encode(self, images):
        self.seen = [torch.is_autocast_enabled("cpu")]
        return super().encode(images)

    def decode(self, levels):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return super().decode(levels)


@pytest.mark.parametrize(("precision", "cast"), [("32-true", False), ("bf16-mixed", True)])
def test_reconstructions_are_made_at_the_precision_of_samples(precision, cast):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    extractor, codec = extractors.build({"name": "random_conv"}), Watched(exact=True)
    reference = references([torch.from_numpy(pixels)], extractor, [8], data="d", split="train")[8]
    reconstructions(codec, torch.from_numpy(pixels), extractor, reference, precision=precision)
    assert codec.seen == [cast, cast]


def test_an_exact_codec_has_no_distance_and_ssim_1():
    rows, real, made = rows_of(exact=True)
    assert torch.equal(made, real)
    assert rows["SSIM"].value == pytest.approx(1)
    assert rows["rFD-RandomConv"].value == pytest.approx(0, abs=1e-6)


def test_psnr_is_that_of_the_lost_details():
    rows, real, made = rows_of(exact=False)
    errors = (made.double() - real).square().mean((1, 2, 3))
    assert rows["PSNR"].value == pytest.approx(float((10 * (255**2 / errors).log10()).mean()))
    assert rows["SSIM"].value < 0.9 and rows["rFD-RandomConv"].value > 0
    assert all(row.view == "native" and row.resolution == 8 for row in rows.values())


def test_the_perceptual_distance_is_the_mean_of_pairs_under_the_networks_name():
    rows, real, made = rows_of(exact=False, perceptual=Brightness())
    expected = (to_float(made).double() - to_float(real)).abs().mean()
    assert rows["perceptual"].value == pytest.approx(float(expected), rel=1e-6)
    assert str(rows["perceptual"].identity).startswith("brightness@0 : uint8-round : N=70 : ref=")
    assert rows_of(exact=True, perceptual=Brightness())[0]["perceptual"].value == 0


@pytest.mark.parametrize("perceptual", [None, perceptuals.build({"name": "none"})])
def test_without_a_perceptual_network_there_is_no_such_row(perceptual):
    assert set(rows_of(False, perceptual)[0]) == {"rFD-RandomConv", "PSNR", "SSIM"}


def test_an_infinite_psnr_is_no_row_and_the_log_says_why(caplog):
    assert "PSNR" not in rows_of(exact=True)[0]
    assert "no PSNR: it is infinite" in caplog.text


def test_every_row_says_which_way_is_better_and_that_it_is_one_value():
    rows, _, _ = rows_of(exact=False, perceptual=Brightness())
    better = {metric: row.better for metric, row in rows.items()}
    assert better == {"rFD-RandomConv": "low", "PSNR": "high", "SSIM": "high", "perceptual": "low"}
    assert all(row.values == (row.value,) and row.spread is None for row in rows.values())
