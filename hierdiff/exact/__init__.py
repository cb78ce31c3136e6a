"""Data whose optimal denoiser is known in closed form, to test samplers and objectives on."""

from hierdiff.exact.gaussian import Joint, Pixel
from hierdiff.exact.mixture import Mixture

__all__ = ["Joint", "Mixture", "Pixel"]
