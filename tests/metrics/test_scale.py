"""The Gaussian row has the data's mean and covariance."""

import pytest
import torch

from hierdiff.images import to_float
from hierdiff.metrics import scale
from hierdiff.metrics.scale import PixelGaussian
from hierdiff.noise import from_generator, from_tensors


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_unit_normals_one_by_one_give_the_sample_covariance_exactly(monkeypatch, chunk):
    """The map z -> x - mean has the rows of A / sqrt(n - 1); their Gram sum is the covariance."""
    monkeypatch.setattr(scale, "CHUNK", chunk)
    data = images(10)
    gaussian = PixelGaussian.fit(data)
    rows = gaussian.sample(10, from_tensors([torch.eye(10, dtype=torch.float64)]))
    rows = (rows - gaussian.mean).flatten(1)
    covariance = torch.cov(to_float(data).double().flatten(1).T)
    torch.testing.assert_close(rows.T @ rows, covariance, rtol=1e-5, atol=1e-6)


def test_without_noise_the_mean_image_comes_out():
    data = images(7)
    found = PixelGaussian.fit(data).sample(2, lambda shape: torch.zeros(tuple(shape)))
    torch.testing.assert_close(found, to_float(data).mean(dim=0).expand(2, -1, -1, -1))


def test_many_samples_have_the_moments_of_the_data():
    data = images(50)
    noise = from_generator(torch.Generator().manual_seed(0), dtype=torch.float64)
    found = PixelGaussian.fit(data).sample(20_000, noise).flatten(1)
    pixels = to_float(data).double().flatten(1)
    deviation = pixels.var(dim=0).max().sqrt()
    assert (found.mean(dim=0) - pixels.mean(dim=0)).abs().max() < 5 * deviation / 20_000**0.5
    error = (torch.cov(found.T) - torch.cov(pixels.T)).abs().max()
    assert error < 6 * deviation**2 * (2 / 20_000) ** 0.5


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="fit at least 2"):
        PixelGaussian.fit(images(1))
