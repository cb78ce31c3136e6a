"""Readers of published latent diffusion for `python -m hierdiff.convert`: autoencoders, networks in
their latents, and both together.
"""

from baselines.latent.readers import (  # noqa: F401  (registers)
    autoencoder,
    diffusers,
    dit,
    ldm,
    sdxl,
    taesd,
)
