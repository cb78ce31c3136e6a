"""A lossy codec's row: what comes back of real images."""

import numpy as np
import pytest
import torch

from benchmarks.measure import reconstructions
from hierdiff.codec import Codec
from hierdiff.levels import down, up
from hierdiff.metrics.features import extractors
from hierdiff.metrics.fidelity import references


class Blocks(Codec):
    """Keeps the block means of 2 x 2 pixels; `exact` keeps everything."""

    lossy = True

    def __init__(self, exact: bool):
        self.exact = exact

    def encode(self, images, noise=None):
        return (images if self.exact else down(images, 4),)

    def decode(self, levels):
        return {8: levels[0] if self.exact else up(levels[0], 8)}

    def shapes(self):
        return ((3, 8, 8),)

    def tail(self, n):
        return self


def rows_of(exact):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    extractor = extractors.build({"name": "random_conv"})
    reference = references([torch.from_numpy(pixels)], extractor, [8], data="d", split="train")[8]
    rows, made = reconstructions(Blocks(exact), pixels, extractor, reference)
    return {row["metric"]: row for row in rows}, torch.from_numpy(pixels), made


def test_an_exact_codec_has_no_distance_and_ssim_1():
    rows, real, made = rows_of(exact=True)
    assert torch.equal(made, real)
    assert rows["SSIM"]["value"] == pytest.approx(1)
    assert rows["rFD-RandomConv"]["value"] == pytest.approx(0, abs=1e-6)


def test_psnr_is_that_of_the_lost_details():
    rows, real, made = rows_of(exact=False)
    errors = (made.double() - real).square().mean((1, 2, 3))
    assert rows["PSNR"]["value"] == pytest.approx(float((10 * (255**2 / errors).log10()).mean()))
    assert rows["SSIM"]["value"] < 0.9 and rows["rFD-RandomConv"]["value"] > 0
    assert all(row["view"] == "native" and row["resolution"] == 8 for row in rows.values())
