"""The sliced squared 2-Wasserstein distance of two sets of features, in float64.

Features are projected on random directions; in one dimension the optimal transport of two equally
large sets pairs them in order. The mean squared difference of pairs, mean over directions, is
multiplied by 3 d for the Monge inception distance (MIND; Berthet et al., arXiv 2605.06797), and
divided by the variance of the second set for a distance that needs no unit.
"""

from __future__ import annotations

import math

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
    return 3 * x.shape[1] * float(_sliced(x, y, count, seed)[0].mean())


def relative_distance(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], *, count: int = 64, seed: int = 0
) -> float:
    """Root of the sliced squared 2-Wasserstein distance, over the standard deviation of y along the
    same directions.

    0 for equal sets, |1 - a| where x is y drawn together about its mean by a, so 1 where all of x
    is the mean of y.

    Raises:
        ValueError: unless both sets have the same size and hold something.
    """
    squares, variances = _sliced(x, y, count, seed)
    return math.sqrt(float(squares.mean() / variances.mean()))


def _sliced(
    x: Tensor, y: Tensor, count: int, seed: int
) -> tuple[Float64[Tensor, " count"], Float64[Tensor, " count"]]:
    """For each direction the mean squared difference of sorted projections, and y's variance.

    Raises:
        ValueError: unless both sets have the same size and hold something.
    """
    if len(x) != len(y) or not len(x):
        raise ValueError(f"images are paired in order, got {len(x)} and {len(y)}: take as many")
    x, y = (z.detach().to("cpu", torch.float64) for z in (x, y))
    squares, variances = [], []
    for chunk in directions(x.shape[1], count, seed).split(BLOCK):
        along = (chunk @ y.T).sort(1).values
        squares.append(((chunk @ x.T).sort(1).values - along).square().mean(1))
        variances.append(along.var(1, correction=0))
    return torch.cat(squares), torch.cat(variances)
