"""Quality of generated images at every resolution, against real images reduced by one operator.

Two views at a resolution: `native` is the level that a method itself gives there, `pooled` is its
finest image reduced to that resolution. Metrics are rows of the table `METRICS`; all of them are
made from one pass over the images.

A value stands beside its noise floor and the identity under which it may be compared:
extractor@weights : resize : quantisation : N : rows : reference : estimator. N counts the images
that the value is made from: moments take all, metrics of the features themselves up to `CAP` of
them. rows: under which held-out rows they were made, permuted(119) for `evaluation_rows` of 119.

Of clips an extractor sees every frame as an image, so that a value says nothing of motion; N counts
clips, and frames=8 stands behind it. There is no noise floor, for frames of one clip are alike, and
of the metrics only those are to be had that do not count on independent images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, isinf
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hierdiff.levels import (
    Name,
    Named,
    Resolution,
    finest_first,
    name_of,
    plain_of,
    px,
    resolution_of,
    size_of,
    text_of,
)
from hierdiff.metrics.extra import inception_score
from hierdiff.metrics.extractors import CLIP, Extractor
from hierdiff.metrics.frechet import (
    POINTS,
    Statistics,
    at_infinity,
    distance,
    noise_floor,
    sizes_of,
)
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.kernel import SUBSETS, cmmd, kernel_distance, subset_size
from hierdiff.metrics.neighbours import density_coverage, nearest, precision_recall
from hierdiff.metrics.reference import CAP, Reference, extracted, frames_of, pooled
from hierdiff.metrics.reference import levels_of as levels_of
from hierdiff.metrics.reference import references as references
from hierdiff.metrics.sliced import DIRECTIONS, mind
from hierdiff.registry import suggest

log = logging.getLogger(__name__)

# Counts changes of what a number means. 2: other metrics beside the Fréchet distance. 3: image i is
# made under row `evaluation_rows(i)`, a seeded permutation, where it was row i; more images than
# rows go through further permutations.
PROTOCOL = 3
NATIVE, POOLED = "native", "pooled"
LOW, HIGH = "low", "high"
CAPTIONED = "clip_score"  # the metric that needs captions
K_MANIFOLD, K_DENSITY, SPLITS = 3, 5, 10
SCALARS = ("consistency", "alignment")  # one number an image, not made by the extractor


@dataclass(frozen=True)
class Quality:
    """One value: where it was measured, what it is, and what it may be compared with.

    floor: what a perfect model would get from as many images (see `noise_floor`); better: "low" or
    "high", None where real images give the value to reach; n_reference: None where it plays no part
    or is endless; level: name of the level where that is not its resolution.
    """

    resolution: Resolution
    view: str
    metric: str
    value: float
    floor: float | None
    n: int
    n_reference: int | None
    identity: str
    route: str | None
    better: str | None = LOW
    level: str | None = None

    def __post_init__(self) -> None:
        name = self.resolution if self.level is None else Named(self.level, self.resolution)
        where = f"{self.metric} at {px(name)} ({self.view}, {self.n} images)"
        finite(self.value, where)
        if self.floor is not None:
            finite(self.floor, f"the noise floor of {where}")

    def plain(self) -> dict[str, Any]:
        """As a row of a record."""
        level = {} if self.level is None else {"level": self.level}
        told = {name: value for name, value in asdict(self).items() if name != "level"}
        return {**told, "resolution": plain_of(self.resolution), **level}


def finite(value: float, what: str) -> float:
    """The value. FloatingPointError, with its name, where it is NaN or infinite."""
    if not isfinite(value):
        raise FloatingPointError(
            f"{what} is {value}, which is no result: look at the images and at the features of "
            f"the extractor"
        )
    return value


@dataclass(frozen=True)
class View:
    """What a metric is made of: the streams of one view, by name, and their reference.

    level: as in `Quality`. rows: what an identity says of the conditions of the images, "" for
    none.
    """

    resolution: Resolution
    level: str | None
    name: str
    extractor: Extractor
    streams: Mapping[str, Statistics]
    reference: Reference
    rows: str = ""

    def quality(
        self,
        metric: str,
        value: float,
        *,
        n: float,
        estimator: str,
        n_reference: float | None = None,
        made_by: Identity | None = None,
        against: str | None = None,
        floor: float | None = None,
        route: str | None = None,
        better: str | None = LOW,
    ) -> Quality:
        frames = frames_of(self.resolution)
        n = n / frames
        made = made_by or self.extractor.made
        identity = replace(
            made,
            n=f"{n:.0f}",
            frames=str(frames) if frames > 1 else None,
            rows=self.rows or None,
            reference=against or self.reference.hash,
            estimator=estimator,
        )
        known = n_reference is not None and not isinf(n_reference)
        if known and n_reference is not None:
            n_reference = n_reference / frames
        return Quality(
            resolution=self.resolution,
            level=self.level,
            view=self.name,
            metric=metric,
            value=value,
            floor=floor if frames == 1 else None,
            n=int(n),
            n_reference=int(n_reference) if known and n_reference is not None else None,
            identity=str(identity),
            route=route,
            better=better,
        )

    def compared(
        self,
        metric: str,
        value: float,
        fake: Tensor,
        real: Tensor,
        estimator: str,
        better: str | None = LOW,
    ) -> Quality:
        """A value made from the features of `fake` and `real`."""
        return self.quality(
            metric,
            value,
            n=len(fake),
            n_reference=len(real),
            estimator=estimator,
            better=better,
        )

    def both(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Features that are kept, of generated and of real images."""
        return self.streams["features"].kept, self.reference.statistics.kept

    def matched(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """As many of both, chosen at random from the larger set, always in the same way."""
        fake, real = self.streams["features"], self.reference.statistics
        n = min(len(fake.kept), len(real.kept))
        return fake.sample(n), real.sample(n)


def frechet_distance(view: View) -> Iterator[Quality]:
    """Fréchet distance of features, FID on those of Inception (arXiv 1706.08500, equation 6)."""
    return _frechet(view, "features", "FD")


def spatial_distance(view: View) -> Iterator[Quality]:
    """sFID: the Fréchet distance of a coarse map of Inception's features (arXiv 2103.03841)."""
    return _frechet(view, "spatial", "sFD")


def _frechet(view: View, output: str, kind: str) -> Iterator[Quality]:
    stream, reference = view.streams[output], view.reference.of(output)
    assert reference is not None
    found = distance(stream, reference)
    spectrum = view.reference.spectrum if output == "features" else reference.spectrum()
    yield view.quality(
        view.extractor.labelled(kind),
        found.value,
        n=stream.n,
        n_reference=reference.n,
        estimator=f"frechet-{found.route}",
        floor=noise_floor(spectrum, stream.n, reference.n),
        route=found.route,
    )


def extrapolated_distance(view: View) -> Iterator[Quality]:
    """Fréchet distance extrapolated to endlessly many generated images (arXiv 1911.07023)."""
    fake, real = view.streams["features"].kept, view.reference.statistics
    smallest = sizes_of(len(fake))[0]
    yield view.quality(
        view.extractor.labelled("FDinf"),
        at_infinity(fake, real),
        n=len(fake),
        n_reference=real.n,
        estimator=f"frechet-infinity-{POINTS}x{smallest}..{len(fake)}",
    )


def kernel(view: View) -> Iterator[Quality]:
    """Kernel distance of features, KID on those of Inception (arXiv 1801.01401); may be below 0."""
    fake, real = view.both()
    estimator = f"kernel-poly3-unbiased-{SUBSETS}x{subset_size(len(fake), len(real))}"
    value = kernel_distance(real, fake)
    yield view.compared(view.extractor.labelled("KD"), value, fake, real, estimator)


def clip_discrepancy(view: View) -> Iterator[Quality]:
    """CMMD: the maximum mean discrepancy of CLIP embeddings, times 1000 (arXiv 2401.09603)."""
    fake, real = view.both()
    yield view.compared("CMMD", cmmd(real, fake), fake, real, "kernel-gaussian10-biased-x1000")


def manifolds(view: View) -> Iterator[Quality]:
    """Precision and recall in [0, 1], by manifolds of 3 nearest neighbours (arXiv 1904.06991)."""
    fake, real = view.matched()
    estimator = f"manifold-k{K_MANIFOLD}-{len(fake)}x{len(real)}"
    values = precision_recall(real, fake, K_MANIFOLD)
    for metric, value in zip(("precision", "recall"), values, strict=True):
        yield view.compared(metric, value, fake, real, estimator, HIGH)


def densities(view: View) -> Iterator[Quality]:
    """Density, 0 or more, and coverage in [0, 1], by 5 nearest neighbours (arXiv 2002.09797)."""
    fake, real = view.matched()
    estimator = f"density-k{K_DENSITY}-{len(fake)}x{len(real)}"
    values = density_coverage(real, fake, K_DENSITY)
    for metric, value in zip(("density", "coverage"), values, strict=True):
        yield view.compared(metric, value, fake, real, estimator, HIGH)


def sliced(view: View) -> Iterator[Quality]:
    """MIND: the squared 2-Wasserstein distance of features, by projections (arXiv 2605.06797)."""
    fake, real = view.matched()
    estimator = f"sliced-w2-{DIRECTIONS}-x3d-{len(fake)}x{len(real)}"
    yield view.compared(view.extractor.labelled("MIND"), mind(real, fake), fake, real, estimator)


def nearest_distance(view: View) -> Iterator[Quality]:
    """Median distance of generated images to the nearest real one among features.

    Well below that of held-out images it says that training images come back.
    """
    fake, real = view.both()
    value = float(nearest(fake, real)[0].quantile(0.5))
    yield view.compared("NN-distance", value, fake, real, "nearest-median", None)


def consistency(view: View) -> Iterator[Quality]:
    """Mean RMS difference of the pooled finest image and the level, in grey levels of 255.

    A level of its own; it needs neither features nor real images.
    """
    stream = view.streams["consistency"]
    yield view.quality(
        "consistency",
        float(stream.moments.mean[0]),
        n=stream.n,
        estimator="rms-of-255",
        made_by=Identity("pixels", "block-mean", "uint8-round"),
        against="own finest level",
    )


def scored(view: View) -> Iterator[Quality]:
    """Inception score, exp of the mutual information of image and class (arXiv 1606.03498)."""
    logits = view.streams["logits"].kept
    yield view.quality(
        "IS",
        inception_score(logits, SPLITS).value,
        n=len(logits),
        estimator=f"inception-score-{SPLITS}-splits",
        against="none",
        better=HIGH,
    )


def alignment(view: View) -> Iterator[Quality]:
    """CLIP score: 100 max(cosine, 0) of image and caption, mean over images (arXiv 2104.08718)."""
    stream = view.streams["alignment"]
    yield view.quality(
        "CLIP score",
        float(stream.moments.mean[0]),
        n=stream.n,
        estimator="100-cosine",
        against="captions",
        better=HIGH,
    )


@dataclass(frozen=True)
class Metric:
    """A row of the table: how it is made, and what it needs.

    takes: output of the extractor, or one of `SCALARS`. keeps: of how many images at most the
    output stays in memory, 0 where moments do. frames: may frames of a clip stand for independent
    images. against: what it needs of real images, "moments",
    "features" or nothing. least: images below which it has no value. only: the extractor that it is
    defined for.
    """

    made: Callable[[View], Iterable[Quality]]
    takes: str = "features"
    keeps: int = CAP
    against: str = "features"
    least: int = 1
    frames: bool = False
    only: type[Extractor] | None = None


METRICS = {
    "fd": Metric(frechet_distance, keeps=0, against="moments", least=2, frames=True),
    "fd_infinity": Metric(extrapolated_distance, against="moments", least=8),
    "sfid": Metric(
        spatial_distance, takes="spatial", keeps=0, against="moments", least=2, frames=True
    ),
    "kd": Metric(kernel, least=2),
    "pr": Metric(manifolds, least=K_MANIFOLD + 1),
    "dc": Metric(densities, least=K_DENSITY + 1),
    "mind": Metric(sliced, frames=True),
    "nearest": Metric(nearest_distance),
    "consistency": Metric(consistency, takes="consistency", keeps=0, against="", frames=True),
    "is": Metric(scored, takes="logits", keeps=50_000, against="", least=SPLITS, frames=True),
    "cmmd": Metric(clip_discrepancy, frames=True, only=CLIP),
    CAPTIONED: Metric(alignment, takes="alignment", keeps=0, against="", only=CLIP),
}


def check_metrics(
    names: Sequence[str],
    extractor: Extractor,
    n: int | None = None,
    others: Sequence[str] = (),
    resolutions: Sequence[Resolution] = (),
) -> None:
    """ValueError for an unknown metric, one given twice, one that the extractor cannot give, one
    that n images are too few for (of generated and of real ones the smaller number), or one that
    clips do not have.

    others: names that are known elsewhere. resolutions: at which it is to be had.
    """
    clips = max(map(frames_of, resolutions), default=1) > 1
    for name in names:
        if name in others:
            continue
        if name not in METRICS:
            known = (*METRICS, *others)
            raise ValueError(
                f"unknown metric {name!r}{suggest(name, known) or ','} known: {', '.join(known)}"
            )
        metric = METRICS[name]
        given = metric.takes in (*extractor.outputs, *SCALARS)
        if not given or not isinstance(extractor, metric.only or Extractor):
            able = metric.only.__name__.lower() if metric.only else "inception"
            raise ValueError(
                f"metric {name!r} is not for the extractor {extractor.name!r}: "
                f"leave it out, or measure with the extractor {able}"
            )
        if clips and not metric.frames:
            raise ValueError(
                f"metric {name!r} of clips: it counts images as independent, which frames of a "
                f"clip are not, leave it out"
            )
        if n is not None and n < metric.least:
            raise ValueError(
                f"metric {name!r} of {n} images: measure at least {metric.least}, or leave it out"
            )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"metric {', '.join(twice)} is named twice: name each once")


class Place(NamedTuple):
    """Where a stream of images is measured: resolution and name of a level (None where that is its
    resolution), and view."""

    resolution: Resolution
    level: str | None
    view: str

    @classmethod
    def of(cls, name: Name, images: Tensor) -> Place:
        """A method's own level of that name."""
        level = str(name) if isinstance(name, str) else None
        return cls(resolution_of(images.shape[2:]), level, NATIVE)

    def text(self) -> str:
        return f"{text_of(self.resolution)}/{self.level or ''}/{self.view}"

    @classmethod
    def read(cls, text: str) -> Place:
        """The inverse of `text`; ValueError for another."""
        resolution, level, view = text.split("/")
        return cls(resolution_of(name_of(resolution)), level or None, view)

    def order(self) -> tuple[int, str, str]:
        """Finest first."""
        return (-size_of(self.resolution), self.level or "", self.view)


class FidelityMeter:
    """Streams the images of one method into a `Quality` for each level, view and metric.

    metrics: names of `METRICS`, in the order of the rows. rows: see `View`.
    """

    def __init__(
        self,
        extractor: Extractor,
        references: Mapping[Resolution, Reference],
        metrics: Sequence[str] = ("fd",),
        rows: str = "",
    ):
        check_metrics(metrics, extractor, resolutions=list(references))
        for reference in references.values():
            if reference.extractor != extractor.identity:
                raise ValueError(
                    f"reference statistics of {reference.extractor!r} do not fit the extractor "
                    f"{extractor.identity!r}: compute them with it"
                )
            for name in metrics:
                check_reference(name, reference)
        self.extractor = extractor
        self.references = dict(references)
        self.metrics = tuple(metrics)
        self.rows = rows
        takes = {METRICS[name].takes for name in metrics}
        self._keep = {
            output: max(METRICS[name].keeps for name in metrics if METRICS[name].takes == output)
            for output in takes
        }
        self.streams: dict[Place, dict[str, Statistics]] = {}
        self._finest: Place | None = None

    def add(
        self,
        levels: Mapping[Name, UInt8[Tensor, "b c *_sides"]],
        captions: Sequence[str] | None = None,
    ) -> None:
        """One batch of a method, {name of a level: images}, finest first; the first is also
        measured when reduced.

        captions: of the images, for the CLIP score alone.
        """
        places = {name: Place.of(name, images) for name, images in levels.items()}
        for place in places.values():
            if place.resolution not in self.references:
                known = finest_first([one.resolution for one in places.values()])
                raise ValueError(
                    f"images at {text_of(place.resolution)} px have no reference: make references "
                    f"for {finest_first([*known, *self.references])}"
                )
        finest, *_ = levels
        said = self._said(captions, len(levels[finest]))
        self._finest = places[finest]
        for name, images in levels.items():
            self._extract(images, places[name], said)
        for resolution in self.references:
            if size_of(resolution) >= size_of(places[finest].resolution):
                continue
            reduced = pooled(levels[finest], resolution)
            self._extract(reduced, Place(resolution, None, POOLED), said)
            for name, place in places.items() if "consistency" in self._keep else ():
                if place.resolution == resolution:
                    error = reduced.float() - levels[name].float()
                    if error.ndim == 5:
                        error = error.movedim(2, 1).flatten(0, 1)  # by frame
                    rms = error.square().flatten(1).mean(1).sqrt()
                    self._stream(place, "consistency", 1).add(rms[:, None])

    def qualities(self) -> list[Quality]:
        """Every view, finest level first; a collective call where processes share the work.

        At a method's finest level both views are the same images.
        """
        rows = []
        for place in sorted(self.streams, key=Place.order):
            streams = self.streams[place]
            whole = {output: streams[output].all_reduce() for output in sorted(streams)}
            view = View(*place, self.extractor, whole, self.references[place.resolution], self.rows)
            made = [
                row
                for metric in self.metrics
                if METRICS[metric].takes in whole
                for row in METRICS[metric].made(view)
            ]
            views = (NATIVE, POOLED) if place == self._finest else (place.view,)
            rows += [replace(row, view=each) for each in views for row in made]
        self._say_few()
        return sorted(rows, key=row_order)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that the images so far have given, to go on from by `restore`."""
        arrays = {
            f"{place.text()}/{output}/{name}": array
            for place, streams in self.streams.items()
            for output, statistics in streams.items()
            for name, array in statistics.to_arrays().items()
        }
        finest = [] if self._finest is None else [f"finest/{self._finest.text()}"]
        return {**dict.fromkeys(finest, np.asarray(1)), **arrays}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The state of another meter of the same metrics; KeyError, ValueError if it is none."""
        parts: dict[str, dict[str, np.ndarray]] = {}
        self._finest, self.streams = None, {}
        for key, array in arrays.items():
            if key.startswith("finest/"):
                self._finest = Place.read(key.removeprefix("finest/"))
            else:
                stream, _, name = key.rpartition("/")
                parts.setdefault(stream, {})[name] = array
        for stream, state in parts.items():
            place, _, output = stream.rpartition("/")
            streams = self.streams.setdefault(Place.read(place), {})
            streams[output] = Statistics.from_arrays(state)

    def _extract(self, images: Tensor, place: Place, said: Tensor | None) -> None:
        outputs = self.extractor.outputs
        if not {*outputs, "alignment"} & set(self._keep):
            return
        first = 0
        for parts in extracted(self.extractor, images):
            for output in outputs:
                if output in self._keep:
                    self._stream(place, output, outputs[output]).add(parts[output])
            if said is not None:
                count = len(parts["features"])
                cosine = (parts["features"] * said[first : first + count]).sum(1)
                self._stream(place, "alignment", 1).add(100 * cosine.clamp_min(0)[:, None])
                first += count

    def _said(self, captions: Sequence[str] | None, n: int) -> Tensor | None:
        """Embeddings of the captions, where the CLIP score is wanted."""
        if "alignment" not in self._keep:
            return None
        if captions is None or len(captions) != n:
            raise ValueError(
                f"metric 'clip_score' of {n} images needs their captions, got "
                f"{'none' if captions is None else len(captions)}: take data with captions, or "
                f"leave the metric out"
            )
        assert isinstance(self.extractor, CLIP)
        return self.extractor.embedded(captions)

    def _stream(self, place: Place, output: str, width: int) -> Statistics:
        streams = self.streams.setdefault(place, {})
        if output not in streams:
            streams[output] = Statistics(width, self._keep[output])
        return streams[output]

    def _say_few(self) -> None:
        fewest = min((s["features"].n for s in self.streams.values() if "features" in s), default=0)
        if 0 < fewest <= self.extractor.width:
            log.info(
                "%s from %d images with %d dimensions: read it beside its floor",
                self.extractor.label, fewest, self.extractor.width,
            )  # fmt: skip


def check_reference(name: str, reference: Reference) -> None:
    """ValueError for a metric of `METRICS` that needs more than a reference holds."""
    metric = METRICS[name]
    statistics = reference.of(metric.takes) if metric.against else None
    if metric.against and statistics is None:
        raise ValueError(
            f"metric {name!r} needs {metric.takes} statistics of real images and reference "
            f"{reference.hash} has none: leave the metric out, or build the reference from images"
        )
    if metric.against == "features" and statistics is not None and not len(statistics.kept):
        raise ValueError(
            f"metric {name!r} compares with features of real images and reference "
            f"{reference.hash} holds moments alone: leave the metric out, or build the reference "
            f"from images"
        )


def row_order(row: Quality) -> tuple[int, str, str]:
    """Finest level first, then by view."""
    return (-size_of(row.resolution), row.level or "", row.view)


def neighbours(
    images: UInt8[Tensor, "n c h w"], extractor: Extractor, reference: Reference, k: int = 1
) -> tuple[Float[Tensor, "n k"], Tensor]:
    """Feature distances of images to their k nearest real ones, and the numbers of these in the
    stream from which the reference was made (of the training part, one a row), nearest first."""
    found = torch.cat([parts["features"] for parts in extracted(extractor, images)])
    distances, places = nearest(found, reference.statistics.kept, k)
    return distances, reference.statistics.rows[places]
