"""Denoisers: networks from noisy levels, their log-SNRs and conditions to a prediction."""

from hierdiff.denoisers import (  # noqa: F401  (registers)
    dit,
    efficient_unet,
    ldm_unet,
    local,
    raphael,
    rin,
    space_time_unet,
    unet,
    uvit,
)
from hierdiff.denoisers.protocol import (
    Backbone,
    Denoiser,
    Joined,
    OneLevelDenoiser,
    Prediction,
    denoisers,
)

__all__ = ["Backbone", "Denoiser", "Joined", "OneLevelDenoiser", "Prediction", "denoisers"]
