"""Maximum mean discrepancy (Gretton et al. 2012) between two sets of features, in float64.

Kernel distance: polynomial kernel (x.y / d + 1)³ and the unbiased estimate, as in KID (Binkowski et
al., arXiv 1801.01401), without its factor 1000. Its mean is zero for equal distributions, so that
values below zero are legal and are not clipped. Right from small numbers of images on.

CMMD (Jayasumana et al., arXiv 2401.09603): Gaussian kernel of sigma 10 on unit CLIP embeddings, the
biased estimate of its code, times 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hierdiff.noise import generator_of

SUBSETS, SIZE = 100, 1000
SIGMA, FACTOR = 10.0, 1000.0
BLOCK = 1024  # rows of a kernel matrix at a time

Kernel = Callable[[Tensor, Tensor], Tensor]


def polynomial(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """Kernel (x.y / d + 1)³ of every pair: KID's (arXiv 1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1).pow_(3)


def gaussian(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """Kernel exp(-|x - y|² / (2 sigma²)) of every pair, sigma = 10: CMMD's (arXiv 2401.09603)."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return (-squares / (2 * SIGMA**2)).exp_()


def subset_size(n: int, m: int) -> int:
    """Images in each subset of `kernel_distance`: 1000, or all of the smaller set."""
    return min(SIZE, n, m)


def kernel_distance(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, subsets: int = SUBSETS, seed: int = 0
) -> float:
    """KID without its factor 1000: the mean unbiased estimate over random subsets (arXiv
    1801.01401).

    Subsets have `subset_size(n, m)` images of each set. Every entry of the kernel matrices is
    computed once: with s the 0-1 vector of a subset, its sum over the subset is s K s. May be below
    0.

    Raises:
        ValueError: below two images.
    """
    size = subset_size(len(x), len(y))
    if size < 2:
        raise ValueError(f"{size} images have no kernel distance: measure at least 2")
    x, y = _double(x), _double(y)
    of_x = torch.stack([_chosen(len(x), size, seed, "x", i) for i in range(subsets)])
    of_y = torch.stack([_chosen(len(y), size, seed, "y", i) for i in range(subsets)])
    within = [_sums(polynomial, z, z, s, s) - s @ _diagonal(z) for z, s in ((x, of_x), (y, of_y))]
    across = _sums(polynomial, x, y, of_x, of_y)
    estimates = (within[0] + within[1]) / (size * (size - 1)) - 2 * across / size**2
    return float(estimates.mean())


def cmmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """1000 times the biased squared MMD of unit CLIP embeddings, 0 or more (arXiv 2401.09603)."""
    x, y = _double(x), _double(y)

    def mean(a: Tensor, b: Tensor) -> Tensor:
        ones = [torch.ones(1, len(z), dtype=torch.float64) for z in (a, b)]
        return _sums(gaussian, a, b, *ones)[0] / (len(a) * len(b))

    return FACTOR * float(mean(x, x) + mean(y, y) - 2 * mean(x, y))


def _sums(
    kernel: Kernel,
    x: Float64[Tensor, "n d"],
    y: Float64[Tensor, "m d"],
    of_x: Float64[Tensor, "k n"],
    of_y: Float64[Tensor, "k m"],
) -> Float64[Tensor, " k"]:
    """Sum of the kernel over the pairs of each subset, in blocks of rows."""
    total = torch.zeros(len(of_x), dtype=torch.float64)
    for rows in _blocks(len(x)):
        total += ((of_x[:, rows] @ kernel(x[rows], y)) * of_y).sum(1)
    return total


def _diagonal(x: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    return (x.square().sum(1) / x.shape[1] + 1) ** 3


def _chosen(n: int, size: int, *seed: int | str) -> Float64[Tensor, " n"]:
    """1 for `size` of n images chosen at random, 0 for the others."""
    mask = torch.zeros(n, dtype=torch.float64)
    mask[torch.randperm(n, generator=generator_of("kernel distance", *seed))[:size]] = 1
    return mask


def _blocks(n: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, n, BLOCK))


def _double(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)
