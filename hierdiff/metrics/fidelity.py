"""Quality of generated images at every resolution, against real images reduced by one operator.

Two views at a resolution: `native` is the level that a method itself gives there, `pooled` is its
finest image reduced to that resolution. References are real images reduced by the same operator
that makes the training levels: block means of [-1, 1] floats, then rounding to uint8.

A value stands beside its noise floor and the identity under which it may be compared:
extractor@weights : resize : quantisation : N : reference : estimator.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from hierdiff.images import to_float, to_uint8
from hierdiff.levels import down
from hierdiff.metrics.features import Extractor
from hierdiff.metrics.frechet import Statistics, distance, noise_floor

log = logging.getLogger(__name__)

NATIVE, POOLED = "native", "pooled"
BATCH = 16  # float32 kernels round by batch size, so it belongs to the protocol


@dataclass(frozen=True)
class Quality:
    """One distance: where it was measured, what it is, and what it may be compared with.

    floor: what a perfect model would get from as many images (see `noise_floor`).
    """

    resolution: int
    view: str
    metric: str
    value: float
    floor: float
    n: int
    n_reference: int
    identity: str
    route: str


@dataclass(frozen=True)
class Reference:
    """Statistics of real images at one resolution; `hash` stands for data, split and operator."""

    resolution: int
    statistics: Statistics
    hash: str
    extractor: str

    @cached_property
    def spectrum(self) -> Tensor:
        return self.statistics.spectrum()


def pooled(images: UInt8[Tensor, "b c h w"], side: int) -> UInt8[Tensor, "b c s s"]:
    """Images reduced to `side` by block means, as the training levels are, and rounded once."""
    return images if images.shape[-1] == side else to_uint8(down(to_float(images), side))


def levels_of(
    images: UInt8[Tensor, "b c h w"], resolutions: Sequence[int]
) -> dict[int, UInt8[Tensor, "b c _s _s"]]:
    """Real images as a perfect method would give them: {resolution: images}."""
    return {side: pooled(images, side) for side in resolutions}


def references(
    images: Iterable[UInt8[Tensor, "_ c h w"]],
    extractor: Extractor,
    resolutions: Sequence[int],
    *,
    data: str,
    split: str,
    folder: Path | None = None,
) -> dict[int, Reference]:
    """Reference statistics at each resolution, from `folder` where they are kept there.

    images: batches of real images, read only if something is missing; data: sha256 of the images'
    source. A broken file is rebuilt with a warning.
    """
    found: dict[int, Statistics] = {}
    for side in resolutions:
        kept = _kept(folder, _identity(data, split, side, extractor))
        if kept is not None:
            found[side] = kept
    missing = {side: Statistics(extractor.width) for side in resolutions if side not in found}
    if missing:
        for batch in images:
            for side, statistics in missing.items():
                _extract(extractor, pooled(batch, side), statistics)
    for side, statistics in missing.items():
        if statistics.n < 2:
            raise ValueError(
                f"split {split!r} gave {statistics.n} reference images: a distance needs at least 2"
            )
        if folder is not None:
            identity = _identity(data, split, side, extractor)
            statistics.save(_path(folder, identity), identity)
    return {
        side: Reference(side, (found | missing)[side], _hash(data, split, side), extractor.identity)
        for side in resolutions
    }


class FidelityMeter:
    """Streams the images of one method into a `Quality` for each resolution and view."""

    def __init__(self, extractor: Extractor, references: Mapping[int, Reference]):
        for reference in references.values():
            if reference.extractor != extractor.identity:
                raise ValueError(
                    f"reference statistics of {reference.extractor!r} do not fit the extractor "
                    f"{extractor.identity!r}: compute them with it"
                )
        self.extractor = extractor
        self.references = dict(references)
        self.statistics: dict[tuple[int, str], Statistics] = {}

    def add(self, levels: Mapping[int, UInt8[Tensor, "b c _h _w"]]) -> None:
        """One batch of a method, {resolution: images}; the finest is also measured when reduced."""
        for side in levels:
            if side not in self.references:
                raise ValueError(
                    f"images at {side} px have no reference: make references for "
                    f"{sorted({*levels, *self.references}, reverse=True)}"
                )
        finest = max(levels)
        for side, images in levels.items():
            self._extract(images, side, NATIVE)
        for side in self.references:
            if side < finest:
                self._extract(pooled(levels[finest], side), side, POOLED)

    def qualities(self) -> list[Quality]:
        """Every view, finest resolution first; a collective call where processes share the work.

        At a method's finest resolution both views are the same images.
        """
        rows = []
        finest = max((side for side, _ in self.statistics), default=0)
        fewest = min((statistics.n for statistics in self.statistics.values()), default=0)
        if fewest <= self.extractor.width:
            log.info(
                "%s from %d images with %d dimensions: read it beside its floor",
                self.extractor.label, fewest, self.extractor.width,
            )  # fmt: skip
        for (side, view), statistics in sorted(self.statistics.items(), reverse=True):
            whole = statistics.all_reduce()
            rows += [
                self._quality(side, each, whole)
                for each in ((NATIVE, POOLED) if side == finest else (view,))
            ]
        return sorted(rows, key=lambda row: (-row.resolution, row.view))

    def _extract(self, images: Tensor, side: int, view: str) -> None:
        statistics = self.statistics.setdefault((side, view), Statistics(self.extractor.width))
        _extract(self.extractor, images, statistics)

    def _quality(self, side: int, view: str, statistics: Statistics) -> Quality:
        reference = self.references[side]
        found = distance(statistics, reference.statistics)
        n, n_reference = statistics.n, reference.statistics.n
        parts = (
            self.extractor.identity,
            f"N={n}",
            f"ref={reference.hash}",
            f"frechet-{found.route}",
        )
        return Quality(
            resolution=side,
            view=view,
            metric=self.extractor.label,
            value=found.value,
            floor=noise_floor(reference.spectrum, n, n_reference),
            n=n,
            n_reference=n_reference,
            identity=" : ".join(parts),
            route=found.route,
        )


def _extract(extractor: Extractor, images: Tensor, statistics: Statistics) -> None:
    for chunk in images.split(BATCH):
        statistics.add(extractor(chunk))


def _identity(data: str, split: str, side: int, extractor: Extractor) -> str:
    return f"{data} : {split} : {side} : block-mean : {extractor.identity}"


def _hash(data: str, split: str, side: int) -> str:
    return hashlib.sha256(f"{data} : {split} : {side} : block-mean".encode()).hexdigest()[:12]


def _path(folder: Path, identity: str) -> Path:
    return folder / f"reference-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"


def _kept(folder: Path | None, identity: str) -> Statistics | None:
    if folder is None:
        return None
    try:
        return Statistics.load(_path(folder, identity), identity)
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("reference statistics are computed again: %s", error)
        return None
