"""Fréchet distance between two Gaussians fitted to features, from statistics that stream and merge.

d² = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (Dowson and Landau 1982; Heusel et al. 2017 for
images). Everything here is float64 on the CPU; covariances divide by n - 1; eigenvalues are clipped
at 0 and no multiple of the identity is ever added.

Three routes to tr (S1 S2)^½, exact but for rounding. With A, B the centred features / sqrt(n - 1):

    eigenvalues    sum of sqrt eig(S1^½ S2 S1^½), for two covariances
    factor         sum of sqrt eig(A S2 Aᵀ), when one side has no more images than dimensions
    nuclear-norm   sum of singular values of A Bᵀ, when both have no more images than dimensions
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor

from hierdiff.files import write_npz


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter (sum of outer products about the mean) of a set of features."""

    n: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]

    @staticmethod
    def empty(width: int) -> Moments:
        zeros = torch.zeros(width, width, dtype=torch.float64)
        return Moments(0, zeros[0].clone(), zeros)

    @staticmethod
    def of(features: Float[Tensor, "n d"]) -> Moments:
        """Moments of one batch. ValueError if a feature is not finite."""
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
        return self.merge(Moments.of(features))

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """Divided by n - 1. ValueError below two images."""
        if self.n < 2:
            raise ValueError(f"{self.n} images have no covariance: measure at least 2")
        return self.scatter / (self.n - 1)

    def all_reduce(self) -> Moments:
        """Moments over all processes of the default group; itself where there is no group."""
        if not _distributed():
            return self
        device = _group_device()
        total = torch.tensor([float(self.n)], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        n = int(total.item())
        if n == 0:
            return self
        mean = self.mean.to(device) * (self.n / n)
        dist.all_reduce(mean)
        delta = self.mean.to(device) - mean
        scatter = self.scatter.to(device) + self.n * torch.outer(delta, delta)
        dist.all_reduce(scatter)
        return Moments(n, mean.cpu(), scatter.cpu())


@dataclass
class Statistics:
    """What a distance needs of a stream: its moments, and while n <= d the features themselves."""

    width: int
    moments: Moments = field(init=False)
    features: Float[Tensor, "n d"] | None = field(init=False)

    def __post_init__(self) -> None:
        self.moments = Moments.empty(self.width)
        self.features = torch.empty(0, self.width)

    @staticmethod
    def of(features: Float[Tensor, "n d"]) -> Statistics:
        statistics = Statistics(features.shape[1])
        statistics.add(features)
        return statistics

    @property
    def n(self) -> int:
        return self.moments.n

    def add(self, features: Float[Tensor, "n d"]) -> None:
        _check_widths(self.width, features.shape[1])
        self.moments = self.moments.update(features)
        if self.features is not None:
            new = features.detach().cpu()
            few = self.n <= self.width
            self.features = torch.cat([self.features.to(new.dtype), new]) if few else None

    def factor(self) -> Float64[Tensor, "n d"] | None:
        """A with AᵀA = covariance, or None where there are more images than dimensions."""
        if self.features is None:
            return None
        if self.n < 2:
            raise ValueError(f"{self.n} images have no covariance: measure at least 2")
        return (self.features.double() - self.moments.mean) / math.sqrt(self.n - 1)

    def spectrum(self) -> Float64[Tensor, " k"]:
        """Eigenvalues of the covariance; those that are zero for want of images may be left out."""
        factor = self.factor()
        if factor is None:
            return torch.linalg.eigvalsh(self.moments.covariance).clamp_min(0)
        return torch.linalg.svdvals(factor).square()

    def all_reduce(self) -> Statistics:
        """Statistics over all processes of the default group; itself where there is no group."""
        if not _distributed():
            return self
        whole = Statistics(self.width)
        whole.moments = self.moments.all_reduce()
        whole.features = self._gathered() if whole.n <= self.width else None
        return whole

    def _gathered(self) -> Tensor:
        """The features of all processes; padded, since each may hold another number."""
        assert self.features is not None
        device = _group_device()
        counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(_world())]
        dist.all_gather(counts, torch.tensor([self.n], device=device))
        padded = torch.zeros(max(int(c) for c in counts), self.width, dtype=torch.float64)
        padded[: self.n] = self.features
        rows = [torch.empty_like(padded, device=device) for _ in counts]
        dist.all_gather(rows, padded.to(device))
        joined = torch.cat([row[: int(c)] for row, c in zip(rows, counts, strict=True)])
        return joined.to("cpu", self.features.dtype)

    def to_arrays(self) -> dict[str, np.ndarray]:
        arrays = {"n": np.asarray(self.n), "mean": self.moments.mean.numpy()}
        if self.features is None:
            return arrays | {"scatter": self.moments.scatter.numpy()}
        return arrays | {"features": self.features.numpy()}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Statistics:
        """The inverse of `to_arrays`; KeyError or ValueError if the arrays do not fit together."""
        if "features" in arrays:
            return Statistics.of(torch.from_numpy(arrays["features"]))
        mean = torch.from_numpy(arrays["mean"])
        scatter = torch.from_numpy(arrays["scatter"])
        if scatter.shape != (len(mean), len(mean)):
            raise ValueError(f"scatter of shape {tuple(scatter.shape)} for {len(mean)} means")
        statistics = Statistics(len(mean))
        statistics.moments = Moments(int(arrays["n"]), mean, scatter)
        statistics.features = None
        return statistics

    def save(self, path: Path, identity: str) -> None:
        """An `.npz` without pickle, all of it or nothing."""
        write_npz(path, {"identity": np.asarray(identity), **self.to_arrays()})

    @staticmethod
    def load(path: Path, identity: str) -> Statistics:
        """What `save` wrote. ValueError if the file is broken or holds other statistics."""
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            stored = str(arrays.pop("identity"))
            statistics = Statistics.from_arrays(arrays)
        except FileNotFoundError:
            raise
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
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
    """Squared Fréchet distance of two streams, by the most exact route that their data allow."""
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


def frechet_features(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared Fréchet distance by the nuclear norm of A Bᵀ, whatever the number of images."""
    a, b = Moments.of(x), Moments.of(y)
    left = (x.detach().cpu().double() - a.mean) / math.sqrt(a.n - 1)
    right = (y.detach().cpu().double() - b.mean) / math.sqrt(b.n - 1)
    return _assemble(a, b, torch.linalg.matrix_norm(left @ right.T, ord="nuc"))


def noise_floor(
    spectrum: Float64[Tensor, " k"] | Moments, n1: float, n2: float = math.inf
) -> float:
    """Expected squared distance of two samples, of n1 and n2 images, of one and the same Gaussian.

    spectrum: eigenvalues of its covariance. The Bures metric expanded to second order about equal
    covariances: (1/n1 + 1/n2) (sum_i l_i + 1/2 sum_ij l_i l_j (1 + [i = j]) / (l_i + l_j)).
    It is a value to print beside a distance, not to subtract; where n is below the effective
    dimension of the features the expansion reads low.
    """
    if isinstance(spectrum, Moments):
        return noise_floor(torch.linalg.eigvalsh(spectrum.covariance), n1, n2)
    values = spectrum[spectrum > 0]
    pairs = torch.outer(values, values) / (values[:, None] + values[None, :])
    bures = (pairs.sum() + pairs.diagonal().sum()) / 2
    return (1 / n1 + 1 / n2) * float(values.sum() + bures)


def _assemble(a: Moments, b: Moments, root: Tensor) -> float:
    """|m1 - m2|² + tr S1 + tr S2 - 2 root; rounding below zero is cut off."""
    shift = (a.mean - b.mean).square().sum()
    spread = a.scatter.trace() / (a.n - 1) + b.scatter.trace() / (b.n - 1)
    return max(0.0, float(shift + spread - 2 * root))


def _sqrt_trace(symmetric: Float64[Tensor, "k k"]) -> Tensor:
    """tr M^½ of a positive semi-definite M that is symmetric but for rounding."""
    return torch.linalg.eigvalsh((symmetric + symmetric.T) / 2).clamp_min(0).sqrt().sum()


def _check_widths(a: int, b: int) -> None:
    if a != b:
        raise ValueError(
            f"features of width {a} and {b} cannot be compared: use one extractor for both"
        )


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _world() -> int:
    return dist.get_world_size()


def _group_device() -> torch.device:
    """Collectives of gloo take CPU tensors, those of nccl CUDA tensors."""
    return torch.device("cpu" if "gloo" in dist.get_backend() else "cuda")
