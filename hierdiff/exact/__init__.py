"""Data whose optimal denoiser is known in closed form, to test samplers and objectives on."""

from hierdiff.exact.gaussian import Joint, Pixel

__all__ = ["Joint", "Pixel"]
