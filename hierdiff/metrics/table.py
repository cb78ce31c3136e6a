"""The table of fidelity metrics: how each is computed, what it needs, and checks of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isinf

from jaxtyping import Float
from torch import Tensor

from hierdiff.metrics.extra import inception_score, inception_score_in_order
from hierdiff.metrics.extractors import CLIP, I3D, Extractor
from hierdiff.metrics.extractors.haar import SCALES, bands
from hierdiff.metrics.frechet import (
    POINTS,
    Statistics,
    at_infinity,
    distance,
    noise_floor,
    sizes_of,
)
from hierdiff.metrics.identity import PROTOCOL, Identity
from hierdiff.metrics.kernel import SUBSETS, cmmd, kernel_distance, subset_size
from hierdiff.metrics.motion import BLOCK, LEAST, REACH, clip_statistics
from hierdiff.metrics.neighbours import (
    clipped_density_coverage,
    density_coverage,
    nearest,
    precision_recall,
)
from hierdiff.metrics.quality import HIGH, LOW, Quality
from hierdiff.metrics.reference import CAP, Reference, frames_of
from hierdiff.metrics.sliced import DIRECTIONS, mind, relative_distance
from hierdiff.registry import suggest
from hierdiff.resolution import Name, Resolution, px, resolution_of, sides_of

CAPTIONED = "clip_score"  # the metric that needs captions
K_MANIFOLD, K_DENSITY, SPLITS, RUN = 3, 5, 10, 5000
ALL = 50_000  # images whose outputs stay in memory for some metrics; 410 MB at 2048 dimensions
MOVING = "flicker"  # the metric and its stream: two numbers a clip
SCALARS = ("consistency", "alignment", MOVING)  # of an image, not made by the extractor
BESIDE = ("squeezenet", "haar", "i3d")  # extractors that some metrics take, whatever the first
BAND_DIRECTIONS = 64


@dataclass(frozen=True)
class View:
    """The input of a metric: the streams of one view, by output, and their reference.

    level: its name. rows: the rule of the conditions under which images were made, for the
    identity; "" for none. prompts: name of the captions, for that of the CLIP score.
    """

    level: Name
    name: str
    extractor: Extractor
    streams: Mapping[str, Statistics]
    reference: Reference
    rows: str = ""
    prompts: str = "captions"

    def quality(
        self,
        metric: str,
        value: float,
        *,
        n: float,
        estimator: str,
        n_reference: float | None = None,
        source: Identity | None = None,
        against: str | None = None,
        floor: float | None = None,
        route: str | None = None,
        better: str | None = LOW,
        clips: bool = False,
    ) -> Quality:
        """A row of this view.

        n, n_reference: images, of clips frames (clips: whole ones), behind the value. source: what
        computes numbers from the images, the extractor where None. against: what the value compares
        with, the reference where None.
        """
        frames = frames_of(resolution_of(self.level))
        of_one = 1 if clips else frames
        n = n / of_one
        source = source or self.extractor.base_identity
        identity = replace(
            source,
            n=round(n),
            frames=frames if frames > 1 else None,
            rows=self.rows or None,
            reference=against or self.reference.hash,
            protocol=PROTOCOL,
            estimator=estimator,
        )
        known = n_reference is not None and not isinf(n_reference)
        if known and n_reference is not None:
            n_reference = n_reference / of_one
        return Quality(
            level=self.level,
            view=self.name,
            metric=metric,
            value=value,
            floor=floor if of_one == 1 else None,
            n=int(n),
            n_reference=int(n_reference) if known and n_reference is not None else None,
            identity=identity,
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
        """A value computed from the features of `fake` and `real`."""
        return self.quality(
            metric,
            value,
            n=len(fake),
            n_reference=len(real),
            estimator=estimator,
            better=better,
        )

    def pair(
        self, names: Sequence[str], values: Sequence[float], fake: Tensor, real: Tensor, how: str
    ) -> Iterator[Quality]:
        """Two values, of which higher is better, as `compared`."""
        for name, value in zip(names, values, strict=True):
            yield self.compared(name, value, fake, real, how, HIGH)

    def beside(self, name: str) -> View:
        """The same images, seen by the extractor of this name that stands beside the first."""
        extractor, statistics = self.extractor.companions[name], self.reference.of(name)
        assert statistics is not None
        reference = replace(
            self.reference, statistics=statistics, extractor=extractor.identity, others={}
        )
        streams = {"features": self.streams[name]}
        return replace(self, extractor=extractor, streams=streams, reference=reference)

    def both(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Features of generated and of real images, of up to `CAP` each."""
        return self.streams["features"].sample(CAP), self.reference.statistics.sample(CAP)

    def matched(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Equally many of both; the larger set is sampled at random, always in the same way."""
        fake, real = self.streams["features"], self.reference.statistics
        n = min(len(fake.kept), len(real.kept), CAP)
        return fake.sample(n), real.sample(n)


def frechet_distance(view: View) -> Iterator[Quality]:
    """Fréchet distance of features, FID on those of Inception (arXiv 1706.08500, equation 6)."""
    return _frechet(view, "features", "FD")


def spatial_distance(view: View) -> Iterator[Quality]:
    """sFID: the Fréchet distance of a coarse map of Inception's features (arXiv 2103.03841)."""
    return _frechet(view, "spatial", "sFD")


def video_distance(view: View) -> Iterator[Quality]:
    """FVD: the Fréchet distance of the logits of I3D, of whole clips (arXiv 1812.01717)."""
    return _frechet(view.beside("i3d"), "features", "FVD", clips=True)


def _frechet(view: View, output: str, kind: str, *, clips: bool = False) -> Iterator[Quality]:
    stream, reference = view.streams[output], view.reference.of(output)
    assert reference is not None
    result = distance(stream, reference)
    spectrum = view.reference.spectrum if output == "features" else reference.spectrum()
    yield view.quality(
        kind if clips else view.extractor.label_of(kind),
        result.value,
        n=stream.n,
        n_reference=reference.n,
        estimator=f"frechet-{result.route}",
        floor=noise_floor(spectrum, stream.n, reference.n),
        route=result.route,
        clips=clips,
    )


def motion_distance(view: View) -> Iterator[Quality]:
    """Fréchet distance of clips: mean features of the frames, and how much each changes from one
    frame to the next.

    A video distance of a network of images: not FVD, whose features are those of a network of
    clips. 0 where both are equal; clips whose frames are in another order have another value.
    """
    frames = frames_of(resolution_of(view.level))
    streams = (view.streams["features"], view.reference.statistics)
    fake, real = (clip_statistics(stream, frames) for stream in streams)
    result, own = distance(fake, real), view.extractor.label.removeprefix("FD-")
    yield view.quality(
        f"FD-motion-{'Inception' if own == 'FID' else own}",
        result.value,
        n=fake.n,
        n_reference=real.n,
        estimator=f"frechet-{result.route}-mean-and-change",
        floor=noise_floor(real.spectrum(), fake.n, real.n),
        route=result.route,
        clips=True,
    )


def moving(view: View) -> Iterator[Quality]:
    """Flicker, the RMS second difference over frames, and the error of warping each frame from the
    one before by blocks of 8 pixels that move at most 3: means over clips, in 0..255.

    A clip that stands still has 0 in both: read them beside those of real clips.
    """
    stream = view.streams[MOVING]
    estimators = ("rms-second-difference", f"rms-block{BLOCK}-reach{REACH}")
    for place, (metric, estimator) in enumerate(
        zip(("flicker", "warping"), estimators, strict=True)
    ):
        yield view.quality(
            metric,
            float(stream.moments.mean[place]),
            n=stream.n,
            estimator=estimator,
            source=Identity("pixels", "block-mean", "uint8-round"),
            against="none",
            better=None,
            clips=True,
        )


def extrapolated_distance(view: View) -> Iterator[Quality]:
    """Fréchet distance extrapolated to infinitely many generated images (arXiv 1911.07023)."""
    fake, real = view.streams["features"].sample(CAP), view.reference.statistics
    smallest = sizes_of(len(fake))[0]
    yield view.quality(
        view.extractor.label_of("FDinf"),
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
    yield view.compared(view.extractor.label_of("KD"), value, fake, real, estimator)


def clip_discrepancy(view: View) -> Iterator[Quality]:
    """CMMD: the maximum mean discrepancy of CLIP embeddings, times 1000 (arXiv 2401.09603)."""
    fake, real = view.both()
    yield view.compared("CMMD", cmmd(real, fake), fake, real, "kernel-gaussian10-biased-x1000")


def manifolds(view: View) -> Iterator[Quality]:
    """Precision and recall in [0, 1], by manifolds of 3 nearest neighbours (arXiv 1904.06991)."""
    fake, real = view.matched()
    estimator = f"manifold-k{K_MANIFOLD}-{len(fake)}x{len(real)}"
    values = precision_recall(real, fake, K_MANIFOLD)
    yield from view.pair(("precision", "recall"), values, fake, real, estimator)


def manifolds_of_all(view: View) -> Iterator[Quality]:
    """Precision and recall in [0, 1] of all generated and all real images in memory, by manifolds
    of 3 nearest neighbours.

    As ADM's evaluator has it: 50,000 generated images, and the 10,000 real ones of its file.
    """
    fake, real = view.streams["features"].kept, view.reference.statistics.kept
    estimator = f"manifold-k{K_MANIFOLD}-{len(fake)}x{len(real)}"
    values = precision_recall(real, fake, K_MANIFOLD)
    yield from view.pair(("precision", "recall"), values, fake, real, estimator)


def density(view: View) -> Iterator[Quality]:
    """Density, 0 or more, and coverage in [0, 1], by 5 nearest neighbours (arXiv 2002.09797)."""
    fake, real = view.matched()
    estimator = f"density-k{K_DENSITY}-{len(fake)}x{len(real)}"
    values = density_coverage(real, fake, K_DENSITY)
    yield from view.pair(("density", "coverage"), values, fake, real, estimator)


def clipped_density(view: View) -> Iterator[Quality]:
    """Clipped density and coverage in [0, 1], shares of good samples (arXiv 2507.01761)."""
    fake, real = view.both()
    estimator = f"clipped-k{K_DENSITY}-{len(fake)}x{len(real)}"
    values = clipped_density_coverage(real, fake, K_DENSITY)
    yield from view.pair(("clipped density", "clipped coverage"), values, fake, real, estimator)


def squeezenet_distance(view: View) -> Iterator[Quality]:
    """Fréchet distance of the features of SqueezeNet, a second network (arXiv 1602.07360)."""
    return frechet_distance(view.beside("squeezenet"))


def squeezenet_kernel(view: View) -> Iterator[Quality]:
    """Kernel distance of the features of SqueezeNet, a second network (arXiv 1602.07360)."""
    return kernel(view.beside("squeezenet"))


def haar_distance(view: View) -> Iterator[Quality]:
    """Distance of Haar coefficients in each band, over their deviation in real images.

    One value for the details of blocks of 2, 4 and 8 pixels and one for what remains: the root of
    the sliced squared 2-Wasserstein distance of local coefficients, as arXiv 1710.10196 compares
    the patches of a Laplacian pyramid. 0 for equal images, 1 for a band that is constant.
    """
    view = view.beside("haar")
    fake, real = view.matched()
    parts = zip(bands(fake).items(), bands(real).values(), strict=True)
    for (band, x), y in parts:
        estimator = f"haar{band.lower()}-relative-{BAND_DIRECTIONS}-{len(fake)}x{len(real)}"
        value = relative_distance(x, y, count=BAND_DIRECTIONS)
        yield view.compared(f"SW-Haar{band}", value, fake, real, estimator)


def sliced(view: View) -> Iterator[Quality]:
    """MIND: the squared 2-Wasserstein distance of features, by projections (arXiv 2605.06797)."""
    fake, real = view.matched()
    estimator = f"sliced-w2-{DIRECTIONS}-x3d-{len(fake)}x{len(real)}"
    yield view.compared(view.extractor.label_of("MIND"), mind(real, fake), fake, real, estimator)


def nearest_distance(view: View) -> Iterator[Quality]:
    """Median distance in features from a generated image to its nearest real one.

    A value well below that of held-out images is a sign of copied training images.
    """
    fake, real = view.both()
    value = float(nearest(fake, real)[0].quantile(0.5))
    yield view.compared("NN-distance", value, fake, real, "nearest-median", None)


def consistency(view: View) -> Iterator[Quality]:
    """RMS difference of the pooled finest image and the level's own, mean over images, in 0..255.

    Needs neither features nor real images.
    """
    stream = view.streams["consistency"]
    yield view.quality(
        "consistency",
        float(stream.moments.mean[0]),
        n=stream.n,
        estimator="rms-of-255",
        source=Identity("pixels", "block-mean", "uint8-round"),
        against="own finest level",
    )


def scored(view: View) -> Iterator[Quality]:
    """Inception score, exp of the mutual information of image and class (arXiv 1606.03498)."""
    value = inception_score(view.streams["logits"].kept, SPLITS).value
    yield _score(view, value, f"{SPLITS}-splits")


def scored_in_order(view: View) -> Iterator[Quality]:
    """Inception score of ADM's evaluator: of runs of 5,000 images in their order."""
    value = inception_score_in_order(view.streams["logits"].kept, RUN)
    yield _score(view, value, f"{RUN}-in-order")


def _score(view: View, value: float, how: str) -> Quality:
    n, estimator = len(view.streams["logits"].kept), f"inception-score-{how}"
    return view.quality("IS", value, n=n, estimator=estimator, against="none", better=HIGH)


def alignment(view: View) -> Iterator[Quality]:
    """CLIP score: 100 max(cosine, 0) of image and caption, mean over images (arXiv 2104.08718)."""
    stream = view.streams["alignment"]
    yield view.quality(
        "CLIP score",
        float(stream.moments.mean[0]),
        n=stream.n,
        estimator="100-cosine",
        against=view.prompts,
        better=HIGH,
    )


@dataclass(frozen=True)
class Metric:
    """A row of the table: how the metric is computed, and what it needs.

    takes: output of the extractor, or one of `SCALARS`. keeps: outputs of how many images stay in
    memory at most, 0 where moments do. against: what it needs of real images, "moments", "features"
    or nothing. least: fewest images for a value. frames: whether frames of a clip may stand for
    independent images; moving: fewest frames of the clips that it is of alone, 0 where it is of
    images. only: the only extractor that it is defined for. multiple: of what the sides of images
    must be multiples.
    """

    compute: Callable[[View], Iterable[Quality]]
    takes: str = "features"
    keeps: int = CAP
    against: str = "features"
    least: int = 1
    frames: bool = False
    moving: int = 0
    only: type[Extractor] | None = None
    multiple: int = 1


METRICS = {
    "fd": Metric(frechet_distance, keeps=0, against="moments", least=2, frames=True),
    "fd_infinity": Metric(extrapolated_distance, against="moments", least=8),
    "fd_motion": Metric(motion_distance, least=2, frames=True, moving=LEAST),
    "fvd": Metric(
        video_distance,
        takes="i3d",
        keeps=0,
        against="moments",
        least=2,
        frames=True,
        moving=I3D.clip,
    ),
    MOVING: Metric(moving, takes=MOVING, keeps=0, against="", frames=True, moving=LEAST),
    "sfid": Metric(
        spatial_distance, takes="spatial", keeps=0, against="moments", least=2, frames=True
    ),
    "kd": Metric(kernel, least=2),
    "pr": Metric(manifolds, least=K_MANIFOLD + 1),
    "pr_all": Metric(manifolds_of_all, keeps=ALL, least=K_MANIFOLD + 1),
    "dc": Metric(density, least=K_DENSITY + 1),
    "clipped_dc": Metric(clipped_density, least=K_DENSITY + 1),
    "mind": Metric(sliced, frames=True),
    "fd_squeezenet": Metric(
        squeezenet_distance, takes="squeezenet", keeps=0, against="moments", least=2, frames=True
    ),
    "kd_squeezenet": Metric(squeezenet_kernel, takes="squeezenet", least=2),
    "haar": Metric(haar_distance, takes="haar", frames=True, multiple=SCALES[-1]),
    "nearest": Metric(nearest_distance),
    "consistency": Metric(consistency, takes="consistency", keeps=0, against="", frames=True),
    "is": Metric(scored, takes="logits", keeps=ALL, against="", least=SPLITS, frames=True),
    "is_in_order": Metric(scored_in_order, takes="logits", keeps=ALL, against="", frames=True),
    "cmmd": Metric(clip_discrepancy, frames=True, only=CLIP),
    CAPTIONED: Metric(alignment, takes="alignment", keeps=0, against="", only=CLIP),
}


def kept_of(names: Iterable[str]) -> dict[str, int]:
    """Of how many images each output that these metrics take stays in memory, at most."""
    kept: dict[str, int] = {}
    for metric in (METRICS[name] for name in names):
        kept[metric.takes] = max(kept.get(metric.takes, 0), metric.keeps)
    return kept


def join_extractors(extractor: Extractor, names: Sequence[str]) -> None:
    """Puts the extractors that metrics of these names take beside the first one.

    Names that are no metric of `METRICS` are passed over.

    Raises:
        FileNotFoundError: where a file of weights is absent.
    """
    taken = {METRICS[name].takes for name in names if name in METRICS}
    extractor.join(name for name in BESIDE if name in taken)


def check_metrics(
    names: Sequence[str],
    extractor: Extractor,
    n: int | None = None,
    others: Sequence[str] = (),
    resolutions: Sequence[Resolution] = (),
) -> None:
    """Refuses metrics that cannot be computed.

    n: the smaller number of generated and real images. others: names of metrics known elsewhere.
    resolutions: where the metrics are computed.

    Raises:
        ValueError: for an unknown metric, a repeated one, one that the extractor does not support,
            one that needs more than n images, or one that is not defined for clips.
    """
    if extractor.clip:
        raise ValueError(
            f"extractor {extractor.name!r} sees clips and no images: measure with another one, and "
            f"name the metric fvd, which takes it beside"
        )
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
        if metric.takes == extractor.name != name:
            first = name.removesuffix(f"_{extractor.name}")
            raise ValueError(
                f"metric {name!r} is {first!r} of the extractor {extractor.name!r}: name {first!r}"
            )
        uneven = [
            one for one in resolutions if any(n % metric.multiple for n in sides_of(one)[-2:])
        ]
        if uneven:
            raise ValueError(
                f"metric {name!r} at {px(uneven[0])}: it needs sides that are multiples of "
                f"{metric.multiple}, leave it out or measure other resolutions"
            )
        available = metric.takes in (*extractor.widths, *SCALARS, *BESIDE)
        if not available or not isinstance(extractor, metric.only or Extractor):
            able = metric.only.__name__.lower() if metric.only else "inception"
            raise ValueError(
                f"metric {name!r} is not for the extractor {extractor.name!r}: "
                f"leave it out, or measure with the extractor {able}"
            )
        if resolutions and max(map(frames_of, resolutions)) < metric.moving:
            raise ValueError(
                f"metric {name!r} at {px(resolutions[0])}: it compares neighbouring frames of "
                f"clips of {metric.moving} or more, leave it out"
            )
        if clips and not metric.frames:
            raise ValueError(
                f"metric {name!r} of clips: it counts images as independent, which frames of a "
                f"clip are not, leave it out"
            )
        if n is not None and n < metric.least:
            raise ValueError(
                f"metric {name!r} of {n} images: measure at least {metric.least}, or leave "
                f"it out of measure.metrics"
            )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"metric {', '.join(twice)} is named twice: name each once")


def check_reference(name: str, reference: Reference) -> None:
    """Refuses a metric of `METRICS` that needs more of real images than a reference holds.

    Raises:
        ValueError: where it has no such statistics, or moments without features.
    """
    metric = METRICS[name]
    statistics = reference.of(metric.takes) if metric.against else None
    if metric.against and statistics is None:
        raise ValueError(
            f"metric {name!r} needs {metric.takes} statistics of real images and reference "
            f"{reference.hash} has none: leave the metric out, or build the reference from images"
        )
    features = metric.against == "features" and metric.takes == "features"
    if features and reference.file is not None:  # of which they are made
        return
    if metric.against == "features" and statistics is not None and not len(statistics.kept):
        raise ValueError(
            f"metric {name!r} compares with features of real images and reference "
            f"{reference.hash} holds moments alone: leave the metric out, or build the reference "
            f"from images"
        )


def needs_features(names: Iterable[str]) -> bool:
    """Whether one of these metrics compares with features of real images, and not with moments."""
    known = (METRICS[name] for name in names if name in METRICS)
    return any(metric.against == "features" and metric.takes == "features" for metric in known)
