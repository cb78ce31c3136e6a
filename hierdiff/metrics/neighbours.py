"""What nearest neighbours among features say, in float64: manifolds, and copies of training images.

The manifold of a set is the union of balls around its points, each as large as the distance to the
k-th nearest other point. Distances that differ by rounding alone are equal, and a point on the
surface of a ball is in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, UInt8
from scipy.special import betaln
from torch import Tensor

from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.reference import Reference, feature_batches

BLOCK = 1024  # rows of a distance matrix at a time
ROUNDING = 1e-12  # of the mean squared length of a centred feature


def precision_recall(
    real: Float[Tensor, "m d"], fake: Float[Tensor, "n d"], k: int = 3
) -> tuple[float, float]:
    """Share of fakes in the manifold of reals, and of reals in that of fakes, in [0, 1].

    Kynkäänniemi et al., arXiv 1904.06991.

    Raises:
        ValueError: where a set has k images or fewer.
    """
    x, y = _centred(real, fake)
    precision = torch.cat([inside.any(1) for inside in _inside(y, x, k)])
    recall = torch.cat([inside.any(1) for inside in _inside(x, y, k)])
    return float(precision.double().mean()), float(recall.double().mean())


def density_coverage(
    real: Float[Tensor, "m d"], fake: Float[Tensor, "n d"], k: int = 5
) -> tuple[float, float]:
    """Density and coverage of fakes.

    Density: balls of reals around a fake, over k (0 or more). Coverage: share of reals with a fake
    in their ball, in [0, 1]. Naeem et al., arXiv 2002.09797. For two large samples of one
    distribution: 1, and 1 - 2^-k.

    Raises:
        ValueError: where a set has k images or fewer.
    """
    x, y = _centred(real, fake)
    balls = torch.zeros((), dtype=torch.int64)
    covered = torch.zeros(len(x), dtype=torch.bool)
    for inside in _inside(y, x, k):
        balls += inside.sum()
        covered |= inside.any(0)
    return float(balls) / (k * len(y)), float(covered.double().mean())


def clipped_density_coverage(
    real: Float[Tensor, "m d"], fake: Float[Tensor, "n d"], k: int = 5
) -> tuple[float, float]:
    """Clipped density and clipped coverage, both in [0, 1]: about 1 for samples of the same
    distribution, and the share of good samples in a mixture with bad ones.

    Salvy, Talbot and Thirion, arXiv 2507.01761. Density: balls of reals that hold a fake, no larger
    than the median ball, over k and at most 1; mean over fakes, over the same of the reals
    themselves, at most 1. Coverage: fakes in the ball of a real, over k and at most 1; mean over
    reals, turned into the share of n good fakes from which it is expected (`expected_coverage`,
    linear between whole fakes), at most 1.

    Raises:
        ValueError: where there are k reals or fewer.
    """
    x, y = _centred(real, fake)
    reach = _reach(x, k)
    median = reach.sqrt().quantile(0.5).square()
    small = reach.clamp_max(median)
    good = torch.cat([inside.sum(1) for inside in _within(y, x, small)])
    own = torch.cat([inside.sum(1) - 1 for inside in _within(x, x, small)])  # not by its own ball
    density = good.double().clamp_max(k).mean() / own.double().clamp_max(k).mean()
    covered = torch.zeros(len(x), dtype=torch.int64)
    for inside in _within(y, x, reach):
        covered += inside.sum(0)
    coverage = float(covered.double().clamp_max(k).mean()) / k
    expected = expected_coverage(len(x), len(y), k)
    share = np.interp(coverage, expected, np.linspace(0, 1, len(expected)))
    return min(1.0, float(density)), float(share)


def expected_coverage(m: int, n: int, k: int) -> Float64[np.ndarray, " _"]:
    """The mean over reals of min(fakes in the ball, k) / k, expected for 0 to n fakes of the
    distribution of the m reals (arXiv 2507.01761).

    The ball to the k-th nearest of m - 1 others holds a share of the distribution that is
    Beta(k, m - k); the number J of fakes in it is beta-binomial, and
    E min(J, k) = k - sum over j < k of (k - j) P(J = j).
    """
    fakes, j = np.arange(n + 1)[:, None], np.arange(k)
    possible = j <= fakes
    rest = np.where(possible, fakes - j, 0)
    logs = betaln(k + j, m - k + rest) - betaln(k, m - k)
    logs -= np.log(fakes + 1) + betaln(rest + 1, j + 1)  # the binomial coefficient
    lost = np.where(possible, (k - j) * np.exp(logs), 0).sum(1)
    return 1 - lost / k


def nearest(
    of: Float[Tensor, "n d"], among: Float[Tensor, "m d"], k: int = 1
) -> tuple[Float64[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Euclidean distances to the k nearest points of `among`, and their indices, nearest first.

    Raises:
        ValueError: where `among` has fewer than k points.
    """
    if len(among) < k:
        raise ValueError(f"{len(among)} images have no {k} nearest: take k={len(among)} or less")
    x, y = _centred(of, among)
    blocks = [squares.topk(k, dim=1, largest=False) for squares in _squares(x, y)]
    return (
        torch.cat([part.values for part in blocks]).sqrt(),
        torch.cat([part.indices for part in blocks]),
    )


def nearest_images(
    images: UInt8[Tensor, "n c h w"], extractor: Extractor, reference: Reference, k: int = 1
) -> tuple[Float[Tensor, "n k"], Tensor]:
    """Feature distances to the k nearest real images, and their positions in the reference, nearest
    first.

    Positions count the stream from which the reference was computed (of the training part, its
    rows).
    """
    features = torch.cat([parts["features"] for parts in feature_batches(extractor, images)])
    distances, places = nearest(features, reference.statistics.kept, k)
    return distances, reference.statistics.rows[places]


def _inside(
    points: Float64[Tensor, "n d"], centres: Float64[Tensor, "m d"], k: int
) -> Iterator[Bool[Tensor, "_b m"]]:
    """For each point the balls that contain it, in blocks of points."""
    return _within(points, centres, _reach(centres, k))


def _reach(centres: Float64[Tensor, "m d"], k: int) -> Float64[Tensor, " m"]:
    if len(centres) <= k:
        raise ValueError(f"{len(centres)} images have no {k}-th nearest other: measure more")
    # the image itself is the nearest of k + 1
    return torch.cat([s.kthvalue(k + 1, dim=1).values for s in _squares(centres, centres)])


def _within(
    points: Float64[Tensor, "n d"], centres: Float64[Tensor, "m d"], reach: Float64[Tensor, " m"]
) -> Iterator[Bool[Tensor, "_b m"]]:
    """For each point the balls of this squared radius that contain it, in blocks of points."""
    reach = reach + ROUNDING * centres.square().sum(1).mean()
    for squares in _squares(points, centres):
        yield squares <= reach


def _squares(
    x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]
) -> Iterator[Float64[Tensor, "_b m"]]:
    """Squared distances, block by block of x."""
    lengths = y.square().sum(1)
    for rows in x.split(BLOCK):
        squares = rows.square().sum(1)[:, None] + lengths - 2 * rows @ y.T
        yield squares.clamp_min_(0)


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both moved by the mean of y: distances stay, rounding gets less."""
    x, y = (z.detach().to("cpu", torch.float64) for z in (x, y))
    mean = y.mean(0)
    return x - mean, y - mean
