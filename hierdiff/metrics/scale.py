"""The row that a generative model must beat: a Gaussian with the data's pixel mean and covariance.

The covariance is never formed. With A the centred n x d data and z ~ N(0, I_n),
x = mean + Aᵀ z / sqrt(n - 1) has exactly the sample covariance Aᵀ A / (n - 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hierdiff.images import to_float
from hierdiff.noise import Noise

CHUNK = 1024  # images turned to float at a time


@dataclass(frozen=True)
class PixelGaussian:
    """Keeps the uint8 images that it was fitted to, and their mean in [-1, 1]."""

    images: UInt8[Tensor, "n c *sides"]
    mean: Float[Tensor, "*shape"]

    @staticmethod
    def fit(images: UInt8[Tensor, "n c *sides"]) -> PixelGaussian:
        """The Gaussian with mean and covariance of these images.

        Raises:
            ValueError: below two images.
        """
        if len(images) < 2:
            raise ValueError(f"{len(images)} images have no covariance: fit at least 2")
        total = sum(to_float(chunk).double().sum(dim=0) for chunk in images.split(CHUNK))
        assert isinstance(total, Tensor)
        return PixelGaussian(images, (total / len(images)).float())

    def sample(self, k: int, noise: Noise) -> Float[Tensor, "k c *sides"]:
        """Draws k images on the scale [-1, 1], not clipped, from one `noise` of shape (k, n)."""
        return self.of(noise((k, len(self.images))))

    def of(self, z: Float[Tensor, "k n"]) -> Float[Tensor, "k c *sides"]:
        """The images that these standard normals stand for."""
        x = torch.zeros(len(z), self.mean.numel(), dtype=z.dtype, device=z.device)
        mean = self.mean.to(z)
        for part, rows in zip(z.split(CHUNK, dim=1), self.images.split(CHUNK), strict=True):
            x += part @ (to_float(rows).to(z) - mean).flatten(1)
        return mean + x.reshape(len(z), *mean.shape) / math.sqrt(len(self.images) - 1)
