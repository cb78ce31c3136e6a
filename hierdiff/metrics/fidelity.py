"""Quality of generated images at every resolution, against real images reduced by one operator.

Two views at a resolution: `native` is the level that a method itself gives there, `pooled` is its
finest image reduced to that resolution. Metrics are rows of the table `METRICS`, all
computed in one pass over the images.

A value stands beside its noise floor and the identity under which it may be compared:
extractor@weights : resize : quantisation : N : rows : reference : estimator. N counts the images
that the value is made from: moments take all, metrics of the features themselves up to `CAP` of
them. rows: under which held-out rows they were made, permuted(119) for `evaluation_rows` of 119.

Of clips an extractor sees every frame as an image, so that a value says nothing of motion; N counts
clips, and frames=8 stands behind it. There is no noise floor, for frames of one clip are alike, and
of the metrics only those are to be had that do not count on independent images. `fd_motion` and
`flicker` are of clips alone and see what changes between frames (`hierdiff.metrics.motion`); so is
`fvd`, whose extractor sees a clip as one. Levels of fewer frames than they need have no such row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from hierdiff.metrics.extractors import CLIP, Extractor
from hierdiff.metrics.frechet import Statistics
from hierdiff.metrics.motion import flicker, warping_error
from hierdiff.metrics.quality import FINEST, NATIVE, POOLED, Place, Quality, row_order
from hierdiff.metrics.reference import (
    BATCH,
    Reference,
    feature_batches,
    frames_of,
    pooled,
    rows_of,
)
from hierdiff.metrics.table import (
    METRICS,
    MOVING,
    View,
    check_metrics,
    check_reference,
    join_extractors,
    kept_of,
)
from hierdiff.resolution import Name, Resolution, finest_first, size_of, text_of

log = logging.getLogger(__name__)
FeatureSource = Callable[[Extractor, Tensor, set[str]], Iterable[Mapping[str, Tensor]]]


class FidelityMeter:
    """Streams the images of one method into a `Quality` for each level, view and metric.

    metrics: names of `METRICS`, in the order of the rows. rows, prompts: see `View`.
    features: what makes them of images, such as `CachedFeatures.batches`.
    """

    def __init__(
        self,
        extractor: Extractor,
        references: Mapping[Resolution, Reference],
        metrics: Sequence[str] = ("fd",),
        rows: str = "",
        prompts: str = "captions",
        features: FeatureSource = feature_batches,
    ):
        check_metrics(metrics, extractor, resolutions=list(references))
        join_extractors(extractor, metrics)
        for reference in references.values():
            if reference.extractor != extractor.identity:
                raise ValueError(
                    f"reference statistics of {reference.extractor!r} do not fit the extractor "
                    f"{extractor.identity!r}: compute them with it"
                )
            for name in metrics:
                if METRICS[name].moving <= frames_of(reference.resolution):
                    check_reference(name, reference)
        self.extractor = extractor
        self.references = dict(references)
        self.metrics = tuple(metrics)
        self.rows, self.prompts, self.features = rows, prompts, features
        self._keep = kept_of(metrics)
        self.streams: dict[Place, dict[str, Statistics]] = {}
        self._finest: Place | None = None

    def add(
        self,
        levels: Mapping[Name, UInt8[Tensor, "b c *_sides"]],
        captions: Sequence[str] | None = None,
    ) -> None:
        """One batch of a method: `take` of what `extract` gives, with its errors."""
        self.take(self.extract(levels, captions))

    def extract(
        self,
        levels: Mapping[Name, UInt8[Tensor, "b c *_sides"]],
        captions: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What the metrics need of one batch, {name of a level: images}, finest first.

        The first is also reduced to each coarser reference. captions: one an image, for the CLIP
        score. Returns tensors on the CPU by stream, a row an image (of clips a row a frame); the
        meter stays as it is, so that other processes can do this.

        Raises:
            ValueError: for a resolution without a reference, or a CLIP score without captions.
        """
        places = {name: Place.of(name, images.shape[2:]) for name, images in levels.items()}
        for place in places.values():
            if place.resolution not in self.references:
                known = finest_first([one.resolution for one in places.values()])
                raise ValueError(
                    f"images at {text_of(place.resolution)} px have no reference: make references "
                    f"for {finest_first([*known, *self.references])}"
                )
        finest, *_ = levels
        embeddings = self._embedded(captions, len(levels[finest]))
        outputs = {f"{FINEST}{places[finest].text()}": torch.ones(1)}
        for name, images in levels.items():
            outputs |= self._outputs(images, places[name], embeddings)
        for resolution in self.references:
            if size_of(resolution) >= size_of(places[finest].resolution):
                continue
            reduced = pooled(levels[finest], resolution)
            outputs |= self._outputs(reduced, Place(resolution, None, POOLED), embeddings)
            for name, place in places.items() if "consistency" in self._keep else ():
                if place.resolution == resolution:
                    error = reduced.float() - levels[name].float()
                    if error.ndim == 5:
                        error = error.movedim(2, 1).flatten(0, 1)  # by frame
                    rms = error.square().flatten(1).mean(1).sqrt()
                    outputs[f"{place.text()}/consistency"] = rms[:, None]
        return outputs

    def take(self, outputs: Mapping[str, Tensor]) -> None:
        """Adds what `extract` gave of the next images of the stream."""
        for key, rows in outputs.items():
            if key.startswith(FINEST):
                self._finest = Place.read(key.removeprefix(FINEST))
                continue
            place, _, output = key.rpartition("/")
            stream = self._stream(Place.read(place), output, rows.shape[1])
            for chunk in rows.split(BATCH):
                stream.add(chunk)

    def qualities(self) -> list[Quality]:
        """A row for each view and metric, finest level first.

        At a method's finest level both views are the same images.
        """
        rows = []
        for place in sorted(self.streams, key=Place.order):
            streams = self.streams[place]
            reference = self.references[place.resolution]
            about = (self.extractor, streams, reference, self.rows, self.prompts)
            view = View(place.name, place.view, *about)
            values = [
                row
                for metric in self.metrics
                if METRICS[metric].takes in streams
                and METRICS[metric].moving <= frames_of(place.resolution)
                for row in METRICS[metric].compute(view)
            ]
            views = (NATIVE, POOLED) if place == self._finest else (place.view,)
            rows += [replace(row, view=each) for each in views for row in values]
        self._log_few()
        return sorted(rows, key=row_order)

    def _outputs(
        self, images: Tensor, place: Place, embeddings: Tensor | None
    ) -> dict[str, Tensor]:
        moving = {}
        if MOVING in self._keep and frames_of(place.resolution) >= METRICS[MOVING].moving:
            values = torch.stack([flicker(images), warping_error(images)], dim=1)
            moving[f"{place.text()}/{MOVING}"] = values.cpu()
        wanted = {*self._keep} | ({"features"} if embeddings is not None else set())
        if wanted.isdisjoint(self.extractor.widths):
            return moving
        batches = list(self.features(self.extractor, images, wanted))
        found = {
            output: torch.cat([parts[output].cpu() for parts in batches if output in parts])
            for output in self.extractor.widths
            if output in wanted and rows_of(self.extractor, output, place.resolution)
        }
        if embeddings is not None:
            cosine = (found["features"] * embeddings.cpu()).sum(1)
            found["alignment"] = 100 * cosine.clamp_min(0)[:, None]
        return moving | {
            f"{place.text()}/{output}": rows
            for output, rows in found.items()
            if output in self._keep
        }

    def _embedded(self, captions: Sequence[str] | None, n: int) -> Tensor | None:
        if "alignment" not in self._keep:
            return None
        if captions is None or len(captions) != n:
            raise ValueError(
                f"metric 'clip_score' of {n} images needs their captions, got "
                f"{'none' if captions is None else len(captions)}: take data with captions, or "
                f"leave the metric out"
            )
        assert isinstance(self.extractor, CLIP)
        return self.extractor.embed(captions)

    def _stream(self, place: Place, output: str, width: int) -> Statistics:
        streams = self.streams.setdefault(place, {})
        if output not in streams:
            rows = rows_of(self.extractor, output, place.resolution)
            streams[output] = Statistics(width, self._keep[output], rows)
        return streams[output]

    def _log_few(self) -> None:
        fewest = min((s["features"].n for s in self.streams.values() if "features" in s), default=0)
        if 0 < fewest <= self.extractor.width:
            log.info(
                "%s of %d images with %d features is biased: compare it with its noise floor",
                self.extractor.label, fewest, self.extractor.width,
            )  # fmt: skip
