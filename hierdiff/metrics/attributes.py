"""Content instead of style: parts of generated images against the law that real ones are drawn by.

A classifier (`hierdiff.metrics.classifier`) names the parts of every image. There are three
metrics: how far the frequencies of parts are from the law, how often an image has parts that
exclude each other, and how often a part is the one in the condition, over all parts and, where
conditions state several, for each. The classifier errs, more often at low resolutions: read a value
beside that of real images.

Views are those of `quality`: `native` is a level of the method, `pooled` its finest image reduced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, floor, lgamma, log, log1p
from statistics import fmean

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hierdiff.data.law import Law
from hierdiff.metrics.classifier import SHA256, SIDES, classifier_of, no_classifier
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.quality import (
    FINEST,
    HIGH,
    LOW,
    NATIVE,
    POOLED,
    Place,
    Quality,
    row_order,
)
from hierdiff.metrics.reference import feature_batches, pooled
from hierdiff.resolution import Name, Resolution, finest_first, sides_of, size_of, text_of

ATTRIBUTES = "attributes"  # name of these metrics in a benchmark's list

Codes = Mapping[str, Int[Tensor, " b"]]


@dataclass(frozen=True)
class Counts:
    """Counts over images; those of batches and of processes add up.

    parts: images by predicted code, one attribute after another. impossible: images with a pair of
    parts that exclude each other. conditions: by attribute, images whose condition states its code;
    right: those of them with that code. conditioned: images whose condition states any code.
    """

    law: Law
    parts: Int[Tensor, " codes"]
    impossible: Int[Tensor, ""]
    conditions: Int[Tensor, " attributes"]
    right: Int[Tensor, " attributes"]
    conditioned: Int[Tensor, ""]

    @staticmethod
    def of(law: Law, predictions: Codes, targets: Codes | None = None) -> Counts:
        """Counts of one batch; targets: codes that the conditions state, -1 for none."""
        b = len(next(iter(predictions.values())))
        silent = torch.full((b,), -1)
        target = torch.stack([(targets or {}).get(name, silent) for name in law.frequencies])
        prediction = torch.stack([predictions[name] for name in law.frequencies])
        parts = [torch.bincount(predictions[name], minlength=k) for name, k in law.sizes.items()]
        excluded = torch.zeros(b, dtype=torch.bool)
        for (one, code), (other, its) in law.impossible:
            excluded |= (predictions[one] == code) & (predictions[other] == its)
        return Counts(
            law,
            torch.cat(parts),
            excluded.sum(),
            (target >= 0).sum(1),
            ((target >= 0) & (target == prediction)).sum(1),
            (target >= 0).any(0).sum(),
        )

    @property
    def n(self) -> int:
        """Number of images."""
        return int(self.parts.sum()) // len(self.law.frequencies)

    def merge(self, other: Counts) -> Counts:
        """Counts over both sets of images."""
        return self._of([a + b for a, b in zip(self._sums, other._sums, strict=True)])

    @property
    def variations(self) -> dict[str, float]:
        """Total variation of the frequencies from the law by attribute, half the sum of
        |difference|: 0 to 1.
        """
        by_attribute = self.parts.double().split(list(self.law.sizes.values()))
        return {
            name: float((counts / self.n - torch.tensor(p, dtype=torch.float64)).abs().sum()) / 2
            for (name, p), counts in zip(self.law.frequencies.items(), by_attribute, strict=True)
        }

    @property
    def accuracies(self) -> dict[str, float]:
        """Share of images with the code of their condition, by attribute; those in no condition are
        left out.
        """
        rows = zip(self.law.frequencies, self.right.tolist(), self.conditions.tolist(), strict=True)
        return {name: right / count for name, right, count in rows if count}

    @property
    def _sums(self) -> list[Tensor]:
        return [self.parts, self.impossible, self.conditions, self.right, self.conditioned]

    def _of(self, sums: Sequence[Tensor]) -> Counts:
        return Counts(self.law, *sums)


def variation_floor(law: Law, n: int) -> float:
    """Expected mean total variation of n draws from the law itself, classified without error: 0 to
    1.

    Exact: a count is binomial, with De Moivre's mean absolute deviation 2 m C(n, m) p^m (1 - p)^(n
    - m + 1), m = floor(n p) + 1. Dependence between the parts of an image does not change an
    expectation. Where conditions fix a part, its frequencies are those of the conditions and not of
    new draws.
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
    """Why these metrics cannot be computed at `resolutions`; None where they can."""
    if law is None:
        return "parts of images are compared with the law of the data, and this data states none"
    if law.name not in SHA256:
        return no_classifier(law)
    if any(len(sides_of(one)) != 2 for one in resolutions):
        return "the classifier of parts knows images alone, and these are clips"
    least = finest_first(resolutions)[-1]
    if min(sides_of(least)) < min(SIDES):
        return f"at {text_of(least)} px: the classifier of parts knows {min(SIDES)} px and more"
    return None


def check_attributes(law: Law | None, resolutions: Sequence[Resolution]) -> None:
    """Refuses data or resolutions for which these metrics cannot be computed.

    Raises:
        ValueError: with the reason in one sentence, or where the classifier's file is damaged.
    """
    reason = hindrance(law, resolutions)
    if law is None or reason is not None:
        raise ValueError(f"metric {ATTRIBUTES!r}: {reason}: leave it out of measure.metrics")
    classifier_of(law)


class AttributeMeter:
    """Streams the images of one method into `Quality` rows of their parts, as `FidelityMeter` does.

    law: of the data. resolutions: to which the finest images are also reduced. classifier: its
    outputs are logits of each attribute; None for the one in the package. rows: rule of the
    conditions (`table.View`). `counts`: the counts so far, by place.
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
        """As text: classifier@weights : resize : quantisation : law."""
        return f"{self.classifier.identity} : law-{self.law.hash}"

    def add(
        self, levels: Mapping[Name, UInt8[Tensor, "b c _h _w"]], targets: Codes | None = None
    ) -> None:
        """One batch of a method: `take` of what `extract` gives, with the errors of both."""
        self.take(self.extract(levels), targets)

    def extract(self, levels: Mapping[Name, UInt8[Tensor, "b c _h _w"]]) -> dict[str, Tensor]:
        """The codes of all parts, as the classifier sees them in one batch of a method, {name of a
        level: images}, finest first: tensors on the CPU, int64 (b,). The meter stays as it is.

        Raises:
            ValueError: for a resolution not in `resolutions`.
        """
        places = {name: Place.of(name, images.shape[2:]) for name, images in levels.items()}
        for place in places.values():
            if place.resolution not in self.resolutions:
                known = [one.resolution for one in places.values()]
                raise ValueError(
                    f"images at {text_of(place.resolution)} px where {list(self.resolutions)} are "
                    f"measured: give the resolutions {finest_first([*known, *self.resolutions])}"
                )
        finest, *_ = levels
        outputs = {f"{FINEST}{places[finest].text()}": torch.ones(1)}
        for name, images in levels.items():
            outputs |= self._codes(images, places[name])
        for one in self.resolutions:
            if size_of(one) < size_of(places[finest].resolution):
                outputs |= self._codes(pooled(levels[finest], one), Place(one, None, POOLED))
        return outputs

    def take(self, outputs: Mapping[str, Tensor], targets: Codes | None = None) -> None:
        """Adds what `extract` gave of the next images.

        targets: by attribute the codes that the conditions of the images state, -1 for none.

        Raises:
            ValueError: for an unknown attribute, or a code out of range.
        """
        self._check(targets or {})
        codes: dict[Place, dict[str, Tensor]] = {}
        for key, values in outputs.items():
            if key.startswith(FINEST):
                self._finest = Place.read(key.removeprefix(FINEST))
                continue
            place, _, name = key.rpartition("/")
            codes.setdefault(Place.read(place), {})[name] = values
        for at, predictions in codes.items():
            counts = Counts.of(self.law, predictions, targets)
            before = self.counts.get(at)
            self.counts[at] = counts if before is None else before.merge(counts)

    def qualities(self) -> list[Quality]:
        """A row for each view and metric, finest level first.

        At a method's finest level both views are the same images. No accuracy where nothing was
        conditioned, no impossible pairs where the law has none.
        """
        rows = []
        for place in sorted(self.counts, key=Place.order):
            values = self._rows(place, self.counts[place])
            views = (NATIVE, POOLED) if place == self._finest else (place.view,)
            rows += [replace(row, view=view) for view in views for row in values]
        return sorted(rows, key=row_order)

    def _rows(self, place: Place, counts: Counts) -> list[Quality]:
        def row(
            metric: str,
            value: float,
            estimator: str,
            *,
            better: str = LOW,
            n: int = counts.n,
            floor: float | None = None,
        ) -> Quality:
            identity = replace(
                self.classifier.base_identity,
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
                fmean(counts.variations.values()),
                f"total-variation-mean-of-{len(self.law.frequencies)}",
                floor=variation_floor(self.law, counts.n),
            )
        ]
        if self.law.impossible:
            share = int(counts.impossible) / counts.n
            rows.append(
                row("impossible pairs", share, f"share-of-{len(self.law.impossible)}-pairs")
            )
        if counts.accuracies:
            share = int(counts.right.sum()) / int(counts.conditions.sum())
            estimator = f"accuracy-{'+'.join(counts.accuracies)}"
            n = int(counts.conditioned)
            rows.append(row("attribute accuracy", share, estimator, better=HIGH, n=n))
        if len(counts.accuracies) > 1:  # captions, which state several
            told = dict(zip(self.law.frequencies, counts.conditions.tolist(), strict=True))
            for name, share in counts.accuracies.items():
                metric = f"{name.replace('_', ' ')} accuracy"
                rows.append(row(metric, share, "accuracy", better=HIGH, n=told[name]))
        return rows

    def _codes(self, images: Tensor, place: Place) -> dict[str, Tensor]:
        parts = list(feature_batches(self.classifier, images))
        if not all(bool(part[name].isfinite().all()) for part in parts for name in part):
            raise FloatingPointError(
                f"the classifier of parts gives values that are not finite for images at "
                f"{text_of(place.resolution)} px ({place.view}): its weights or the images hold NaN"
            )
        return {
            f"{place.text()}/{name}": torch.cat([part[name].argmax(1) for part in parts]).cpu()
            for name in self.law.frequencies
        }

    def _check(self, targets: Codes) -> None:
        for name, codes in targets.items():
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
