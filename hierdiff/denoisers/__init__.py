"""Denoisers: networks from noisy levels, their log-SNRs and conditions to a prediction."""

from hierdiff.denoisers import efficient_unet, rin, unet, uvit  # noqa: F401  (registers)
from hierdiff.denoisers.protocol import (
    Denoiser,
    Joined,
    OneLevelDenoiser,
    Prediction,
    denoisers,
)

__all__ = ["Denoiser", "Joined", "OneLevelDenoiser", "Prediction", "denoisers"]
