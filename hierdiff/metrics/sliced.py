"""MIND, the sliced squared 2-Wasserstein distance of two sets of features, in float64.

Monge inception distance (Berthet et al., arXiv 2605.06797): features are projected on random
directions; in one dimension the optimal transport of two equally large sets pairs them in order.
The mean squared difference of pairs, mean over directions, is multiplied by 3 d.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from hierdiff.noise import generator_of

DIRECTIONS = 1000
BLOCK = 250  # directions at a time


def directions(d: int, count: int = DIRECTIONS, seed: int = 0) -> Float64[Tensor, "count d"]:
    """Unit vectors of d components, uniform on the sphere; float64."""
    generator = generator_of("mind", seed)
    return F.normalize(torch.randn(count, d, generator=generator, dtype=torch.float64), dim=1)


def mind(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, count: int = DIRECTIONS, seed: int = 0
) -> float:
    """Three times d times the mean squared difference of sorted projections (arXiv 2605.06797).

    0 for equal sets. d: width of the features.

    Raises:
        ValueError: unless both sets have the same size and hold something.
    """
    if len(x) != len(y) or not len(x):
        raise ValueError(f"MIND pairs images in order, got {len(x)} and {len(y)}: take as many")
    x, y = (z.detach().to("cpu", torch.float64) for z in (x, y))
    squares = [
        ((chunk @ x.T).sort(1).values - (chunk @ y.T).sort(1).values).square().mean(1)
        for chunk in directions(x.shape[1], count, seed).split(BLOCK)
    ]
    return 3 * x.shape[1] * float(torch.cat(squares).mean())
