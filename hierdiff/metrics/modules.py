"""The metrics of our tables as `torchmetrics.Metric`, for anybody's training or evaluation loop.

    from hierdiff.metrics.modules import FrechetDistance

    fd = FrechetDistance(extractor={"name": "efficientnet_lite0"})
    for images in real_loader:                # uint8, b c h w
        fd.update(images, real=True)
    for images in samples:
        fd.update(images, real=False)
    fd.compute()                              # tensor(43.1, dtype=torch.float64)

Numbers are those of a record on the same images: one table (`hierdiff.metrics.table`) makes both.
Several metrics of one extractor in one pass are `Fidelity(["fd", "kd", "dc"])`. Processes that
share the images, image i of process p being number i * processes + p (`DistributedSampler` without
shuffling), find what one process would. `reset(real=False)` keeps the real images; a `reference`
from a file (`read_moments`) takes their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.frechet import Moments, Statistics
from hierdiff.metrics.quality import NATIVE
from hierdiff.metrics.reference import Reference, feature_batches
from hierdiff.metrics.table import METRICS, View, check_metrics, check_reference, kept_of
from hierdiff.registry import Later
from hierdiff.resolution import Resolution, resolution_of

DEFAULT = {"name": "efficientnet_lite0"}


class FeatureMetric(Metric):
    """Metrics of features of generated and real images; a subclass writes `compute`.

    metrics: names of `METRICS` that need nothing but images and one extractor. extractor: a
    registered one, or its node `{name: ..., options}`. reference: real images that were measured
    before; `update` takes generated ones alone then. options: of `torchmetrics.Metric`.

    Raises:
        ValueError: for metrics that the extractor or the reference does not support.
    """

    is_differentiable = False
    full_state_update = True
    sides: Tensor

    def __init__(
        self,
        metrics: Sequence[str],
        extractor: Later[Extractor] = DEFAULT,
        reference: Reference | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        self.extractor = extractors.build(extractor)
        check_metrics(metrics, self.extractor)
        able = [
            name
            for name, one in METRICS.items()
            if one.takes in self.extractor.outputs and not one.moving
        ]
        for name in metrics:
            if name not in able:
                raise ValueError(
                    f"metric {name!r} needs more than images and one extractor: choose from "
                    f"{', '.join(able)}"
                )
            if reference is not None:
                check_reference(name, reference)
        if reference is not None and reference.extractor != self.extractor.identity:
            raise ValueError(
                f"the reference is of the extractor {reference.extractor!r}, not of "
                f"{self.extractor.identity!r}: compute it with that"
            )
        self.metrics, self.reference = tuple(metrics), reference
        self._keep = kept_of(metrics)
        self.add_state("sides", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="max")
        for kind in ("fake",) if reference is not None else ("real", "fake"):
            for output in self._keep:
                moments, features, rows = self._states(kind, output)
                empty = _packed(Moments.empty(self.extractor.outputs[output]))
                self.add_state(moments, empty, dist_reduce_fx=_merged)
                self.add_state(features, [], dist_reduce_fx="cat")
                self.add_state(rows, [], dist_reduce_fx="cat")
        self._start()

    @override
    def update(self, images: Tensor, real: bool) -> None:
        """The next images of this process: uint8 (b, c, h, w), c = 1 or 3, all of one size.

        Raises:
            ValueError: for other images, or real ones where there is a reference.
        """
        if real and self.reference is not None:
            raise ValueError("real images are those of the reference: give generated ones alone")
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, where uint8 (b, c, h, w) is "
                f"needed: hierdiff.images.to_uint8 makes it of [-1, 1]"
            )
        sides = torch.tensor(images.shape[2:], device=self.sides.device)
        if self.sides.any() and not torch.equal(sides, self.sides):
            raise ValueError(
                f"images of {sides.tolist()} px after those of {self.sides.tolist()} px: give "
                f"images of one size"
            )
        self.sides = sides
        for parts in feature_batches(self.extractor, images, set(self._keep)):
            for output in self._keep:
                self._add("real" if real else "fake", output, parts[output])

    def values(self) -> dict[str, Float64[Tensor, ""]]:
        """All values by the headings of our tables, such as "FD-EffLite0".

        Raises:
            ValueError: where there are too few images.
        """
        fake = {output: self._statistics("fake", output) for output in self._keep}
        level, reference = self._level, self._measured_reference()
        for name in self.metrics:
            against = reference.of(METRICS[name].takes) if METRICS[name].against else None
            counts = [one.n for one in (fake[METRICS[name].takes], against) if one is not None]
            check_metrics([name], self.extractor, n=int(min(*counts, 2**53)))
        view = View(level, NATIVE, self.extractor, fake, reference)
        return {
            row.metric: torch.tensor(row.value, dtype=torch.float64, device=self.device)
            for name in self.metrics
            for row in METRICS[name].compute(view)
        }

    @override
    def reset(self, real: bool = True) -> None:
        """Forgets all images; real: also the real ones."""
        kept = {
            name: getattr(self, name)
            for name in self._defaults
            if not real and (name == "sides" or name.startswith("real_"))
        }
        super().reset()
        self._start()
        for name, state in kept.items():
            setattr(self, name, state)

    def _states(self, kind: str, output: str) -> tuple[str, str, str]:
        """Names of what is kept of an output: moments, features, and the images' numbers.

        How many stay is in the name: a `MetricCollection` joins metrics of the same states.
        """
        name = f"{kind}_{output}_{self._keep[output]}"
        return f"{name}_moments", f"{name}_features", f"{name}_rows"

    def _start(self) -> None:
        """Gives each list a first entry of the right shape, which a process without images shares
        with the others."""
        for name, default in self._defaults.items():
            if isinstance(default, list):
                output = name.split("_")[1]
                shape = (0, self.extractor.outputs[output]) if name.endswith("_features") else (0,)
                kind = torch.int64 if name.endswith("_rows") else torch.float32
                getattr(self, name).append(torch.empty(shape, dtype=kind, device=self.device))

    def _add(self, kind: str, output: str, features: Tensor) -> None:
        names = self._states(kind, output)
        moments = _unpacked(getattr(self, names[0]))
        first, (rank, world) = int(moments.n), _place()
        rows = torch.arange(first, first + len(features)) * world + rank
        moments = moments.update(features)
        setattr(self, names[0], _packed(moments).to(self.device))
        getattr(self, names[1]).append(features.to(self.device))
        getattr(self, names[2]).append(rows.to(self.device))
        limit = Statistics.joined(moments, rows, features, self._keep[output]).limit
        if sum(map(len, getattr(self, names[2]))) > 2 * limit:
            whole = self._statistics(kind, output)
            setattr(self, names[1], [whole.kept.to(self.device)])
            setattr(self, names[2], [whole.rows.to(self.device)])

    def _statistics(self, kind: str, output: str) -> Statistics:
        moments, features, rows = (getattr(self, name) for name in self._states(kind, output))
        features, rows = dim_zero_cat(features).cpu(), dim_zero_cat(rows).cpu()
        order = rows.argsort()
        return Statistics.joined(
            _unpacked(moments), rows[order], features[order], self._keep[output]
        )

    @property
    def _level(self) -> Resolution:
        return resolution_of([max(1, int(side)) for side in self.sides])

    def _measured_reference(self) -> Reference:
        """The reference that was given, or statistics of the real images so far."""
        if self.reference is not None:
            return self.reference
        real = {output: self._statistics("real", output) for output in self._keep}
        first = real.get("features", next(iter(real.values())))
        identity = self.extractor.identity
        return Reference(self._level, first, "images of this process", identity, real)


class Fidelity(FeatureMetric):
    """Several metrics of one extractor, from one pass: `compute` gives each by its heading."""

    @override
    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """As `values`."""
        return self.values()


class OneMetric(FeatureMetric):
    """One metric of the table, which has one value."""

    metric: ClassVar[str]

    def __init__(
        self,
        extractor: Later[Extractor] = DEFAULT,
        reference: Reference | None = None,
        **options: Any,
    ):
        super().__init__([self.metric], extractor, reference, **options)

    @override
    def compute(self) -> Float64[Tensor, ""]:
        """The value, a scalar in float64."""
        (value,) = self.values().values()
        return value


class PairMetric(OneMetric):
    """One metric of the table, which has two values."""

    higher_is_better = True

    @override
    def compute(self) -> dict[str, Float64[Tensor, ""]]:  # type: ignore[override]
        """Both values by name."""
        return self.values()


class FrechetDistance(OneMetric):
    """Squared Fréchet distance, 0 or more; FID with the extractor `inception`."""

    metric = "fd"
    higher_is_better = False


class FrechetDistanceInfinity(OneMetric):
    """Fréchet distance extrapolated to infinitely many generated images (arXiv 1911.07023)."""

    metric = "fd_infinity"
    higher_is_better = False


class SpatialFrechetDistance(OneMetric):
    """sFID (arXiv 2103.03841), with the extractor `inception`."""

    metric = "sfid"
    higher_is_better = False


class KernelDistance(OneMetric):
    """Kernel distance, about 0 for equal distributions; KID with the extractor `inception`."""

    metric = "kd"
    higher_is_better = False


class MongeDistance(OneMetric):
    """MIND (arXiv 2605.06797), by random projections; 0 or more."""

    metric = "mind"
    higher_is_better = False


class CLIPDiscrepancy(OneMetric):
    """CMMD (arXiv 2401.09603), with the extractor `clip`; 0 or more."""

    metric = "cmmd"
    higher_is_better = False


class PrecisionRecall(PairMetric):
    """Precision and recall in [0, 1] (arXiv 1904.06991)."""

    metric = "pr"


class DensityCoverage(PairMetric):
    """Density, 0 or more, and coverage in [0, 1] (arXiv 2002.09797)."""

    metric = "dc"


class ClippedDensityCoverage(PairMetric):
    """Clipped density and clipped coverage in [0, 1] (arXiv 2507.01761)."""

    metric = "clipped_dc"


def _packed(moments: Moments) -> Float64[Tensor, "d1 d1"]:
    """Count, mean and scatter as one tensor, which processes gather at once."""
    packed = torch.zeros(len(moments.mean) + 1, len(moments.mean) + 1, dtype=torch.float64)
    packed[0, 0], packed[0, 1:], packed[1:, 1:] = moments.n, moments.mean, moments.scatter
    return packed


def _unpacked(packed: Float64[Tensor, "d1 d1"]) -> Moments:
    """The inverse of `_packed`."""
    packed = packed.detach().cpu()
    return Moments(int(packed[0, 0]), packed[0, 1:].clone(), packed[1:, 1:].clone())


def _merged(stacked: Float64[Tensor, "processes d1 d1"]) -> Float64[Tensor, "d1 d1"]:
    """Moments of the union of what the processes have seen."""
    first, *rest = map(_unpacked, stacked)
    for other in rest:
        first = first.merge(other)
    return _packed(first).to(stacked.device)


def _place() -> tuple[int, int]:
    """Number of this process and of all."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
