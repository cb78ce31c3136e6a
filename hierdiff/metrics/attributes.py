"""What is drawn, beside how: parts of generated images against the law that real ones are drawn by.

A classifier (`hierdiff.metrics.classifier`) names the parts of every image. Three numbers come of
it: how far the frequencies of parts are from the law, how often an image has parts that exclude
each other, and how often a part is what the condition said. The classifier errs, more at low
resolutions: a value is read beside that of real images, measured in the same way.

Views are those of `quality`: `native` is a level of the method, `pooled` its finest image reduced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, floor, lgamma, log, log1p
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hierdiff.data.law import Law
from hierdiff.levels import Name, Resolution, finest_first, sides_of, size_of, text_of
from hierdiff.metrics.classifier import SHA256, SIDES, classifier_of, unknown
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.frechet import summed
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.quality import HIGH, LOW, NATIVE, POOLED, Place, Quality, row_order
from hierdiff.metrics.reference import extracted, pooled

ATTRIBUTES = "attributes"  # the name under which a benchmark asks for these metrics

Codes = Mapping[str, Int[Tensor, " b"]]


@dataclass(frozen=True)
class Counts:
    """Of images: sums, so that those of batches and of processes merge by addition.

    parts: images by predicted code, one attribute after another; impossible: images with a pair of
    parts that exclude each other. By attribute, asked: images whose condition said its code, right:
    those that have it; conditioned: images whose condition said anything.
    """

    law: Law
    parts: Int[Tensor, " codes"]
    impossible: Int[Tensor, ""]
    asked: Int[Tensor, " attributes"]
    right: Int[Tensor, " attributes"]
    conditioned: Int[Tensor, ""]

    @staticmethod
    def of(law: Law, found: Codes, wanted: Codes | None = None) -> Counts:
        """found: predicted codes; wanted: those that conditions said, -1 for none."""
        b = len(next(iter(found.values())))
        silent = torch.full((b,), -1)
        said = torch.stack([(wanted or {}).get(name, silent) for name in law.frequencies])
        seen = torch.stack([found[name] for name in law.frequencies])
        parts = [torch.bincount(found[name], minlength=k) for name, k in law.sizes.items()]
        excluded = torch.zeros(b, dtype=torch.bool)
        for (one, code), (other, its) in law.impossible:
            excluded |= (found[one] == code) & (found[other] == its)
        return Counts(
            law,
            torch.cat(parts),
            excluded.sum(),
            (said >= 0).sum(1),
            ((said >= 0) & (said == seen)).sum(1),
            (said >= 0).any(0).sum(),
        )

    @property
    def n(self) -> int:
        return int(self.parts.sum()) // len(self.law.frequencies)

    def merge(self, other: Counts) -> Counts:
        return self._of([a + b for a, b in zip(self._sums, other._sums, strict=True)])

    def all_reduce(self) -> Counts:
        """Over all processes of the default group; itself where there is no group."""
        return self._of([summed(x) for x in self._sums])

    @property
    def variations(self) -> dict[str, float]:
        """Total variation of the frequencies from the law, half the sum of |difference|, by
        attribute: 0 to 1."""
        seen = self.parts.double().split(list(self.law.sizes.values()))
        return {
            name: float((counts / self.n - torch.tensor(p, dtype=torch.float64)).abs().sum()) / 2
            for (name, p), counts in zip(self.law.frequencies.items(), seen, strict=True)
        }

    @property
    def accuracies(self) -> dict[str, float]:
        """Share of images with the part that their condition said, by attribute that was said."""
        rows = zip(self.law.frequencies, self.right.tolist(), self.asked.tolist(), strict=True)
        return {name: right / asked for name, right, asked in rows if asked}

    @property
    def _sums(self) -> list[Tensor]:
        return [self.parts, self.impossible, self.asked, self.right, self.conditioned]

    def _of(self, sums: Sequence[Tensor]) -> Counts:
        return Counts(self.law, *sums)


def variation_floor(law: Law, n: int) -> float:
    """Expected mean total variation of n draws of the law itself, classified without error.

    Exact: a count is binomial, whose mean absolute deviation is De Moivre's
    2 m C(n, m) p^m (1 - p)^(n - m + 1) with m = floor(n p) + 1. That parts of an image depend on
    each other does not move an expectation. Where conditions fix a part, its frequencies are those
    of the conditions and not of new draws.
    """
    return fmean(
        sum(_mean_deviation(n, probability) for probability in p) / (2 * n)
        for p in law.frequencies.values()
    )


def _mean_deviation(n: int, p: float) -> float:
    """E|X - n p| of a binomial X."""
    m = floor(n * p) + 1
    if p == 0 or m > n:  # the last only where p = 1, but for rounding
        return 0.0
    ways = lgamma(n + 1) - lgamma(m + 1) - lgamma(n - m + 1)
    return 2 * m * exp(ways + m * log(p) + (n - m + 1) * log1p(-p))


def hindrance(law: Law | None, resolutions: Sequence[Resolution]) -> str | None:
    """Why these metrics cannot be had of images at `resolutions`, None where they can."""
    if law is None:
        return (
            f"metric {ATTRIBUTES!r} compares parts of images with the law that they are drawn by, "
            f"and this data states none: leave the metric out, or take data=critters"
        )
    if law.name not in SHA256:
        return f"metric {ATTRIBUTES!r}: {unknown(law)}"
    if any(len(sides_of(one)) != 2 for one in resolutions):
        return f"metric {ATTRIBUTES!r}: its classifier knows images alone, leave the metric out"
    least = finest_first(resolutions)[-1]
    if min(sides_of(least)) < min(SIDES):
        return (
            f"metric {ATTRIBUTES!r} at {text_of(least)} px: its classifier knows images from "
            f"{min(SIDES)} px on, leave the metric out or measure at larger resolutions"
        )
    return None


def check_attributes(law: Law | None, resolutions: Sequence[Resolution]) -> None:
    """ValueError, in one sentence, where the metrics cannot be had or the classifier is damaged."""
    reason = hindrance(law, resolutions)
    if law is None or reason is not None:
        raise ValueError(reason)
    classifier_of(law)


class AttributeMeter:
    """Streams the images of one method into `Quality` rows of their parts, as `FidelityMeter` does.

    law: of the data; resolutions: at which the finest images are also measured when reduced;
    classifier: its outputs are logits of each attribute, without it the one that ships. rows: what
    an identity says of the conditions (`table.View`). `counts` has what was seen, by place.
    """

    def __init__(
        self,
        law: Law,
        resolutions: Sequence[Resolution],
        classifier: Extractor | None = None,
        rows: str = "",
    ):
        self.law, self.resolutions, self.rows = law, tuple(resolutions), rows
        self.classifier = classifier_of(law) if classifier is None else classifier
        self.counts: dict[Place, Counts] = {}
        self._finest: Place | None = None

    @property
    def identity(self) -> str:
        """classifier@weights : resize : quantisation : law."""
        return f"{self.classifier.identity} : law-{self.law.hash}"

    def add(
        self, levels: Mapping[Name, UInt8[Tensor, "b c _h _w"]], wanted: Codes | None = None
    ) -> None:
        """One batch of a method, {name of a level: images}, finest first.

        wanted: by attribute the codes that the conditions of the images said, -1 for none.
        """
        places = {name: Place.of(name, images) for name, images in levels.items()}
        for place in places.values():
            if place.resolution not in self.resolutions:
                known = [one.resolution for one in places.values()]
                raise ValueError(
                    f"images at {text_of(place.resolution)} px where {list(self.resolutions)} are "
                    f"measured: give the resolutions {finest_first([*known, *self.resolutions])}"
                )
        self._check(wanted or {})
        finest, *_ = levels
        self._finest = places[finest]
        for name, images in levels.items():
            self._count(images, places[name], wanted)
        for one in self.resolutions:
            if size_of(one) < size_of(places[finest].resolution):
                self._count(pooled(levels[finest], one), Place(one, None, POOLED), wanted)

    def qualities(self) -> list[Quality]:
        """Every view, finest level first; a collective call where processes share the work.

        At a method's finest level both views are the same images. No accuracy where nothing
        was conditioned, no impossible pairs where the law has none.
        """
        rows = []
        for place in sorted(self.counts, key=Place.order):
            made = self._rows(place, self.counts[place].all_reduce())
            views = (NATIVE, POOLED) if place == self._finest else (place.view,)
            rows += [replace(row, view=view) for view in views for row in made]
        return sorted(rows, key=row_order)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that the images so far have given, to go on from by `restore`."""
        arrays = {
            f"{place.text()}/{i}": total.numpy()
            for place, counts in self.counts.items()
            for i, total in enumerate(counts._sums)
        }
        finest = [] if self._finest is None else [f"finest/{self._finest.text()}"]
        return {**dict.fromkeys(finest, np.asarray(1)), **arrays}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The state of another meter of the same law; KeyError, ValueError if it is none."""
        finest = [key for key in arrays if key.startswith("finest/")]
        self._finest = next((Place.read(key.removeprefix("finest/")) for key in finest), None)
        state = {key: array for key, array in arrays.items() if key not in finest}
        places = dict.fromkeys(key.rpartition("/")[0] for key in state)
        self.counts = {
            Place.read(place): Counts(
                self.law, *(torch.from_numpy(state[f"{place}/{i}"].copy()) for i in range(5))
            )
            for place in places
        }

    def _rows(self, place: Place, seen: Counts) -> list[Quality]:
        def row(
            metric: str,
            value: float,
            estimator: str,
            *,
            better: str = LOW,
            n: int = seen.n,
            floor: float | None = None,
        ) -> Quality:
            identity = replace(
                self.classifier.made,
                n=n,
                rows=self.rows or None,
                reference=f"law-{self.law.hash}",
                protocol=PROTOCOL,
                estimator=estimator,
            )
            return Quality(
                level=place.name,
                view=NATIVE,
                metric=metric,
                value=value,
                floor=floor,
                n=n,
                n_reference=None,
                identity=identity,
                route=None,
                better=better,
            )

        rows = [
            row(
                "TV parts",
                fmean(seen.variations.values()),
                f"total-variation-mean-of-{len(self.law.frequencies)}",
                floor=variation_floor(self.law, seen.n),
            )
        ]
        if self.law.impossible:
            share = int(seen.impossible) / seen.n
            rows.append(
                row("impossible pairs", share, f"share-of-{len(self.law.impossible)}-pairs")
            )
        if seen.accuracies:
            share = int(seen.right.sum()) / int(seen.asked.sum())
            told = f"accuracy-{'+'.join(seen.accuracies)}"
            n = int(seen.conditioned)
            rows.append(row("attribute accuracy", share, told, better=HIGH, n=n))
        return rows

    def _count(self, images: Tensor, place: Place, wanted: Codes | None) -> None:
        parts = list(extracted(self.classifier, images))
        if not all(bool(part[name].isfinite().all()) for part in parts for name in part):
            raise FloatingPointError(
                f"the classifier of parts gives values that are not finite for images at "
                f"{text_of(place.resolution)} px ({place.view}): its weights or the images hold NaN"
            )
        found = {
            name: torch.cat([part[name].argmax(1) for part in parts]).cpu()
            for name in self.law.frequencies
        }
        counts = Counts.of(self.law, found, wanted)
        before = self.counts.get(place)
        self.counts[place] = counts if before is None else before.merge(counts)

    def _check(self, wanted: Codes) -> None:
        for name, codes in wanted.items():
            if name not in self.law.frequencies:
                raise ValueError(
                    f"codes of {name!r}, which is no attribute of {self.law.name!r}: give those of "
                    f"{', '.join(self.law.frequencies)}"
                )
            low, high, most = int(codes.min()), int(codes.max()), self.law.sizes[name] - 1
            if not -1 <= low <= high <= most:
                raise ValueError(
                    f"codes of {name!r} are from {low} to {high}: give one of 0 to {most} for each "
                    f"image, or -1 for none"
                )
