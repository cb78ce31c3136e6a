"""Posterior moments of every image, encoded once into mapped files of the cache folder.

A posterior is sampled afresh at every step; what is kept is no sample. The name of a folder of
shards says whose images it holds, and ends in a hash of the pixels and of the autoencoder (its
layout and all weights): a run that goes on and another run with the same autoencoder find it,
another autoencoder has its own. A run that is killed while it encodes goes on with the shard it was
at, and its processes share them. Files are never removed: delete `moments/` of the cache folder to
make room.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from baselines.latent.autoencoder import Autoencoder
from hierdiff.data.cache import cache_folder

FOLDER = "moments"


def place(
    cache: str | None,
    name: str,
    pixels: str,
    network: Autoencoder,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Path:
    """The folder for images of this name and SHA-256 in the latents of `network`."""
    key = repr((pixels, network.fingerprint(), shape, dtype.str))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_folder(cache) / FOLDER / f"{name}-{shape[-2]}x{shape[-1]}-{digest}"
