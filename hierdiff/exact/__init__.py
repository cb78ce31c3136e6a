"""Data whose optimal denoiser is known in closed form, to test samplers and objectives on."""

from hierdiff.exact.gaussian import Conditional, Joint, Pixel, exponential
from hierdiff.exact.mixture import Mixture

__all__ = ["Conditional", "Joint", "Mixture", "Pixel", "exponential"]
