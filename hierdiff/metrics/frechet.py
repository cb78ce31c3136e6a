"""Fréchet distance between two Gaussians fitted to features, from statistics that stream and merge.

d² = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (Dowson and Landau 1982; Heusel et al. 2017 for
images). Everything here is float64 on the CPU; covariances divide by n - 1; eigenvalues are clipped
at 0 and no multiple of the identity is ever added.

Three routes to tr (S1 S2)^½, exact but for rounding. With A, B the centred features / sqrt(n - 1):

    eigenvalues    sum of sqrt eig(S1^½ S2 S1^½), for two covariances
    factor         sum of sqrt eig(A S2 Aᵀ), when one side has no more images than dimensions
    nuclear-norm   sum of singular values of A Bᵀ, when both have no more images than dimensions

The features that a stream keeps are also what the other metrics are made of (kernel, sliced,
neighbours).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from hierdiff.files.arrays import arrays_sha256, read_npz, write_npz
from hierdiff.noise import generator_of

POINTS = 15  # sizes of subsets from which a distance is extrapolated


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter (sum of outer products about the mean) of a set of features.

    n is infinite where mean and covariance are stated and not estimated; scatter is then the
    covariance itself.
    """

    n: float
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]

    @staticmethod
    def empty(width: int) -> Moments:
        """Moments of no features of this width."""
        zeros = torch.zeros(width, width, dtype=torch.float64)
        return Moments(0, zeros[0].clone(), zeros)

    @staticmethod
    def of(features: Float[Tensor, "n d"]) -> Moments:
        """Moments of one batch of features.

        Raises:
            ValueError: where a feature is NaN or infinite.
        """
        x = features.detach().to("cpu", torch.float64)
        if not torch.isfinite(x).all():
            bad = int((~torch.isfinite(x).all(dim=1)).sum())
            raise ValueError(
                f"{bad} of {len(x)} images have features that are not finite: "
                f"look for NaN in the images or in the extractor"
            )
        if len(x) == 0:
            return Moments.empty(x.shape[1])
        mean = x.mean(dim=0)
        centred = x - mean
        return Moments(len(x), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of the union, pairwise (Chan, Golub and LeVeque 1983): safe with a large mean."""
        _check_widths(len(self.mean), len(other.mean))
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        delta = other.mean - self.mean
        between = torch.outer(delta, delta) * (self.n * other.n / n)
        mean = self.mean + delta * (other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + between)

    def update(self, features: Float[Tensor, "n d"]) -> Moments:
        """Moments with one more batch of features; errors as in `of`."""
        return self.merge(Moments.of(features))

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """Scatter divided by n - 1.

        Raises:
            ValueError: below two images.
        """
        if self.n < 2:
            raise ValueError(f"{self.n} images have no covariance: measure at least 2")
        return self.scatter if math.isinf(self.n) else self.scatter / (self.n - 1)

    @property
    def trace(self) -> Float64[Tensor, ""]:
        """Of the covariance."""
        return self.scatter.trace() / (1 if math.isinf(self.n) else self.n - 1)


@dataclass
class Statistics:
    """Of a stream: its moments, and the features of up to `keep` images (of `width`, while n <= d).

    Of a longer stream those images stay whose numbers in it hash lowest: a choice at random that
    depends on nothing else. `rows` are the numbers of the images that are kept. group: of how many
    images in order all stay or none, such as the frames of a clip (but for a last, cut one).
    """

    width: int
    keep: int = 0
    group: int = 1
    moments: Moments = field(init=False)
    _parts: list[tuple[Tensor, Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.moments = Moments.empty(self.width)
        self._parts = []

    @staticmethod
    def of(features: Float[Tensor, "n d"], keep: int = 0) -> Statistics:
        """Statistics of one batch of features."""
        statistics = Statistics(features.shape[1], keep)
        statistics.add(features)
        return statistics

    @staticmethod
    def stated(
        mean: Float64[Tensor, " d"], covariance: Float64[Tensor, "d d"], n: float = math.inf
    ) -> Statistics:
        """Statistics from moments alone; n: images behind them, infinite for an exact Gaussian."""
        statistics = Statistics(len(mean))
        scatter = covariance if math.isinf(n) else covariance * (n - 1)
        statistics.moments = Moments(n, mean, scatter)
        return statistics

    @staticmethod
    def joined(
        moments: Moments, rows: Int[Tensor, " k"], features: Float[Tensor, "k d"], keep: int = 0
    ) -> Statistics:
        """Statistics of a stream that others have seen in parts.

        rows: numbers of the images whose features they kept; of each part as many as there were,
        or its `limit`.
        """
        statistics = Statistics(len(moments.mean), keep)
        statistics.moments = moments
        if statistics.limit:
            statistics._parts = [(rows, features)]
        return statistics

    def with_features(self, other: Statistics) -> Statistics:
        """These moments with the features that `other` keeps, of images of the same distribution.

        Raises:
            ValueError: for another width.
        """
        _check_widths(self.width, other.width)
        both = Statistics(self.width, other.keep)
        both.moments, both._parts = self.moments, list(other._parts)
        return both

    @property
    def n(self) -> float:
        """Number of images: an integer, or infinity."""
        return self.moments.n

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Adds the next features of the stream.

        Raises:
            ValueError: for another width, or NaN.
        """
        _check_widths(self.width, features.shape[1])
        first = int(self.n)
        self.moments = self.moments.update(features)
        rows = torch.arange(first, first + len(features))
        self._parts.append((rows, features.detach().cpu()))
        if sum(len(rows) for rows, _ in self._parts) > 2 * self.limit:
            self._compact()

    @property
    def kept(self) -> Float[Tensor, "k d"]:
        """The features that stay in memory, in the order of the stream."""
        return self._compact()[1]

    @property
    def rows(self) -> Int[Tensor, " k"]:
        """Positions in the stream of the features that stay, ascending."""
        return self._compact()[0]

    def sample(self, m: int) -> Float[Tensor, "m d"]:
        """Returns m of the features that stay (all where there are fewer), always the same ones."""
        rows, kept = self._compact()
        return kept if m >= len(kept) else kept[_lowest(rows // self.group, m)]

    @property
    def limit(self) -> int:
        """How many features stay at most."""
        return max(self.keep, self.width) if self.n <= self.width else self.keep

    def _compact(self) -> tuple[Tensor, Tensor]:
        """The kept rows and features as one tensor each, no more than may be kept."""
        if not self._parts:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, self.width)
        parts = [part for part in self._parts if len(part[0])] or self._parts[:1]
        rows, kept = (torch.cat(column) for column in zip(*parts, strict=True))
        if len(rows) > self.limit:
            chosen = _lowest(rows // self.group, self.limit)
            rows, kept = rows[chosen], kept[chosen]
        self._parts = [(rows, kept)]
        return rows, kept

    @property
    def features(self) -> Float[Tensor, "n d"] | None:
        """All features where there are no more than dimensions, else None."""
        return self.kept if self.n <= self.width and len(self.kept) == self.n else None

    def factor(self) -> Float64[Tensor, "n d"] | None:
        """A with AᵀA = covariance, or None where there are more images than dimensions.

        Raises:
            ValueError: below two images.
        """
        features = self.features
        if features is None:
            return None
        if self.n < 2:
            raise ValueError(f"{self.n} images have no covariance: measure at least 2")
        return (features.double() - self.moments.mean) / math.sqrt(self.n - 1)

    def spectrum(self) -> Float64[Tensor, " k"]:
        """Eigenvalues of the covariance; those that are zero for want of images may be left out."""
        factor = self.factor()
        if factor is None:
            return torch.linalg.eigvalsh(self.moments.covariance).clamp_min(0)
        return torch.linalg.svdvals(factor).square()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for a file; `from_arrays` reads them."""
        return {
            "n": np.asarray(self.n),
            "mean": self.moments.mean.numpy(),
            "scatter": self.moments.scatter.numpy(),
            "keep": np.asarray(self.keep),
            "rows": self.rows.numpy(),
            "features": self.kept.numpy(),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Statistics:
        """The inverse of `to_arrays`.

        Raises:
            ValueError: where the arrays do not fit together; KeyError where one is absent.
        """
        mean, scatter, rows, features = (
            torch.from_numpy(arrays[name]) for name in ("mean", "scatter", "rows", "features")
        )
        d, n = len(mean), float(arrays["n"])
        if scatter.shape != (d, d) or features.shape != (len(rows), d):
            raise ValueError(
                f"scatter {tuple(scatter.shape)}, features {tuple(features.shape)} and "
                f"{len(rows)} rows for {d} means"
            )
        statistics = Statistics(d, int(arrays["keep"]))
        statistics.moments = Moments(n if math.isinf(n) else int(n), mean, scatter)
        if len(rows) != min(n, statistics.limit):
            raise ValueError(f"{len(rows)} features of {n:g} images")
        statistics._parts = [(rows, features)]
        return statistics

    @property
    def sha256(self) -> str:
        """SHA-256 of all arrays, as hexadecimal digits."""
        return arrays_sha256(self.to_arrays())

    def save(self, path: Path, identity: str) -> None:
        """Writes an `.npz` without pickle, as a whole or not at all."""
        about = {"identity": np.asarray(identity), "sha256": np.asarray(self.sha256)}
        write_npz(path, {**about, **self.to_arrays()})

    @staticmethod
    def load(path: Path, identity: str) -> Statistics:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: where there is no file.
            ValueError: where the file is damaged or holds statistics of another identity.
        """
        try:
            arrays = read_npz(path)
            stored, digest = str(arrays.pop("identity")), str(arrays.pop("sha256"))
            if digest != arrays_sha256(arrays):
                raise ValueError("its content does not match its sha256")
            statistics = Statistics.from_arrays(arrays)
        except FileNotFoundError:
            raise
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"{path} holds no statistics ({error}): delete it") from error
        if stored != identity:
            raise ValueError(f"{path} holds statistics of {stored!r}, not of {identity!r}")
        return statistics


@dataclass(frozen=True)
class Distance:
    """A squared Fréchet distance and the route by which it was computed."""

    value: float
    route: str


def distance(a: Statistics, b: Statistics) -> Distance:
    """Squared Fréchet distance of two streams, by the most exact route that their data allow.

    Raises:
        FloatingPointError: where the result is infinite.
        ValueError: for different widths, or fewer than two images.
    """
    _check_widths(a.width, b.width)
    a_factor, b_factor = a.factor(), b.factor()
    if a_factor is not None and b_factor is not None:
        root = torch.linalg.matrix_norm(a_factor @ b_factor.T, ord="nuc")
        return Distance(_assemble(a.moments, b.moments, root), "nuclear-norm")
    if a_factor is None and b_factor is None:
        return Distance(frechet(a.moments, b.moments), "eigenvalues")
    factor, many = (a_factor, b) if a_factor is not None else (b_factor, a)
    assert factor is not None
    root = _sqrt_trace(factor @ many.moments.covariance @ factor.T)
    return Distance(_assemble(a.moments, b.moments, root), "factor")


def frechet(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance by symmetric eigenvalues; about 1e-6 relative where n <= d."""
    _check_widths(len(a.mean), len(b.mean))
    values, vectors = torch.linalg.eigh(a.covariance)
    half = vectors * values.clamp_min(0).sqrt()  # S1^½ up to a rotation, which keeps eigenvalues
    return _assemble(a, b, _sqrt_trace(half.T @ b.covariance @ half))


def sizes_of(n: int) -> list[int]:
    """Sizes of the subsets for `at_infinity`: up to `POINTS`, evenly spaced from n / 4 to n."""
    return sorted({round(size) for size in np.linspace(max(2, n / 4), n, POINTS).tolist()})


def at_infinity(features: Float[Tensor, "n d"], reference: Statistics, seed: int = 0) -> float:
    """FD extrapolated to infinitely many generated images (Chong and Forsyth, arXiv 1911.07023).

    The bias of a distance is nearly proportional to 1 / N: the result is the intercept of a
    least-squares line through the distances of random subsets over 1 / N. The bias of the reference
    stays. May be below zero.

    Raises:
        ValueError: below 8 images.
    """
    if len(features) < 8:
        raise ValueError(f"{len(features)} images cannot be extrapolated: measure at least 8")
    inverse, values = [], []
    for size in sizes_of(len(features)):
        generator = generator_of(seed, "subset", size)
        chosen = torch.randperm(len(features), generator=generator)[:size]
        inverse.append(1 / size)
        values.append(distance(Statistics.of(features[chosen]), reference).value)
    return float(np.polynomial.Polynomial.fit(inverse, values, 1).convert().coef[0])


def noise_floor(
    spectrum: Float64[Tensor, " k"] | Moments, n1: float, n2: float = math.inf
) -> float:
    """Expected squared distance of two samples, of n1 and n2 images, from the same Gaussian.

    spectrum: eigenvalues of its covariance. The Bures metric expanded to second order about equal
    covariances: (1/n1 + 1/n2) (sum_i l_i + 1/2 sum_ij l_i l_j (1 + [i = j]) / (l_i + l_j)).
    Print it beside a distance; do not subtract it. Where n is below the effective dimension of the
    features the expansion is too low.
    """
    if isinstance(spectrum, Moments):
        return noise_floor(torch.linalg.eigvalsh(spectrum.covariance), n1, n2)
    values = spectrum[spectrum > 0]
    pairs = torch.outer(values, values) / (values[:, None] + values[None, :])
    bures = (pairs.sum() + pairs.diagonal().sum()) / 2
    return (1 / n1 + 1 / n2) * float(values.sum() + bures)


def _assemble(a: Moments, b: Moments, root: Tensor) -> float:
    """|m1 - m2|² + tr S1 + tr S2 - 2 root, at least 0 (rounding may give less).

    Raises:
        FloatingPointError: where it is not finite; max(0, NaN) would hide it as 0.
    """
    shift = (a.mean - b.mean).square().sum()
    value = float(shift + (a.trace + b.trace) - 2 * root)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the Fréchet distance of {a.n:g} and {b.n:g} images is {value}: their moments are not "
            f"finite, or too large"
        )
    return max(0.0, value)


def _sqrt_trace(symmetric: Float64[Tensor, "k k"]) -> Tensor:
    """Trace of M^½, for a positive semi-definite M that is symmetric up to rounding."""
    return torch.linalg.eigvalsh((symmetric + symmetric.T) / 2).clamp_min(0).sqrt().sum()


def _lowest(rows: Int[Tensor, " k"], m: int) -> Int[Tensor, " m"]:
    """Places of the m rows whose hash (splitmix64) is lowest, in order."""
    z = (rows.numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(np.sort(np.argsort(z ^ (z >> np.uint64(31)), kind="stable")[:m]))


def _check_widths(a: int, b: int) -> None:
    if a != b:
        raise ValueError(
            f"features of width {a} and {b} cannot be compared: use one extractor for both"
        )
