"""What nearest neighbours among features say, in float64: manifolds, and copies of training images.

The manifold of a set is the union of balls around its points, each as large as the distance to the
k-th nearest other point. Distances that differ by rounding alone are equal, and a point on the
surface of a ball is in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor

from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.reference import Reference, feature_batches

BLOCK = 1024  # rows of a distance matrix at a time
ROUNDING = 1e-12  # of the mean squared length of a centred feature


def precision_recall(
    real: Float[Tensor, "m d"], fake: Float[Tensor, "n d"], k: int = 3
) -> tuple[float, float]:
    """Share of fakes in the manifold of reals, and of reals in that of fakes, in [0, 1].

    Kynkäänniemi et al., arXiv 1904.06991. ValueError where a set has k images or fewer.
    """
    x, y = _centred(real, fake)
    precision = torch.cat([inside.any(1) for inside in _inside(y, x, k)])
    recall = torch.cat([inside.any(1) for inside in _inside(x, y, k)])
    return float(precision.double().mean()), float(recall.double().mean())


def density_coverage(
    real: Float[Tensor, "m d"], fake: Float[Tensor, "n d"], k: int = 5
) -> tuple[float, float]:
    """Balls of reals around a fake over k (0 or more), share of reals with a fake in their ball
    ([0, 1]).

    Naeem et al., arXiv 2002.09797. For two large samples of one distribution: 1, and 1 - 2^-k.
    ValueError where a set has k images or fewer.
    """
    x, y = _centred(real, fake)
    balls = torch.zeros((), dtype=torch.int64)
    covered = torch.zeros(len(x), dtype=torch.bool)
    for inside in _inside(y, x, k):
        balls += inside.sum()
        covered |= inside.any(0)
    return float(balls) / (k * len(y)), float(covered.double().mean())


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
    """For each point the balls that contain it, in blocks of points.

    Raises:
        ValueError: where there are k centres or fewer.
    """
    if len(centres) <= k:
        raise ValueError(f"{len(centres)} images have no {k}-th nearest other: measure more")
    # the image itself is the nearest of k + 1
    radii = torch.cat([s.kthvalue(k + 1, dim=1).values for s in _squares(centres, centres)])
    reach = radii + ROUNDING * centres.square().sum(1).mean()
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
