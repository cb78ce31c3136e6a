"""Quality of a method at every resolution, and the two rows that give the scale.

A method's images are measured twice: its own level at a resolution ("native"), and its finest image
pooled to it ("pooled"). References are the training images pooled by the same operator. Conditions
(class, caption) are those of the test images in the order of `evaluation_rows`, which goes round
where more images are asked for, unless classes of their own are wanted (`EvaluationConditions`).
Uncertainty is that of independent sampling seeds: a value is their mean, and stands beside each of
them and their deviation.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import UInt8
from torch import Tensor

from benchmarks.conditions import Conditions
from hierdiff.data.law import Law
from hierdiff.metrics.attributes import ATTRIBUTES, AttributeMeter, hindrance
from hierdiff.metrics.classifier import classifier_of
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.fidelity import FeatureSource, FidelityMeter
from hierdiff.metrics.quality import Quality, row_order
from hierdiff.metrics.reference import Reference, feature_batches
from hierdiff.resolution import Name, Resolution, text_of

log = logging.getLogger(__name__)
Rows = list[Quality]
AUTO = "auto"  # in a list of metrics: those of the data's parts, where its law is known


class Meter:
    """All metrics of one stream of images, of which it has seen `count`.

    conditions: under which the images were made, by their numbers from 0 on: captions and wanted
    parts are theirs. features: see `FidelityMeter`.

    Raises:
        ValueError: where a metric needs what they lack.
    """

    def __init__(
        self,
        extractor: Extractor,
        references: Mapping[Resolution, Reference],
        metrics: Sequence[str] = ("fd",),
        conditions: Conditions | None = None,
        features: FeatureSource = feature_batches,
    ):
        others = [name for name in metrics if name != ATTRIBUTES]
        self.conditions, self.count = conditions, 0
        about = {}
        if conditions is not None:
            about = {"rows": conditions.rule, "prompts": conditions.prompts}
        self.fidelity = FidelityMeter(extractor, references, others, **about, features=features)
        self.parts: AttributeMeter | None = None
        if ATTRIBUTES in metrics:
            self.parts = part_meter(conditions, extractor, references)

    def extract(
        self, levels: Mapping[Name, UInt8[Tensor, "_b c *_sides"]], numbers: range
    ) -> dict[str, Tensor]:
        """What the metrics need of the images with these numbers, by name of a stream; the meter
        stays as it is, so that any process can do this."""
        known = self.conditions
        captions = None if known is None else known.captions(numbers)
        outputs = {f"fidelity/{k}": x for k, x in self.fidelity.extract(levels, captions).items()}
        if self.parts is not None:
            outputs |= {f"parts/{k}": x for k, x in self.parts.extract(levels).items()}
        return outputs

    def take(self, outputs: Mapping[str, Tensor], numbers: range) -> None:
        """Adds what `extract` gave of the next images."""

        def below(name: str) -> dict[str, Tensor]:
            front = f"{name}/"
            return {k.removeprefix(front): x for k, x in outputs.items() if k.startswith(front)}

        self.fidelity.take(below("fidelity"))
        if self.parts is not None and self.conditions is not None:
            self.parts.take(below("parts"), self.conditions.parts(numbers))
        self.count = numbers.stop

    def rows(self) -> Rows:
        """One row for each level, view and metric."""
        parts = [] if self.parts is None else self.parts.qualities()
        found = [*self.fidelity.qualities(), *parts]
        found.sort(key=row_order)
        return found


def merge_seeds(seeds: Sequence[Rows]) -> Rows:
    """The rows of several sampling seeds as one."""
    return [average_seeds(same) for same in zip(*seeds, strict=True)]


def part_meter(
    conditions: Conditions | None,
    extractor: Extractor,
    references: Mapping[Resolution, Reference],
) -> AttributeMeter:
    """The meter of parts, on the extractor's device.

    Raises:
        ValueError: where there are no conditions, or those of data without a law.
    """
    if conditions is None or conditions.law is None:
        raise ValueError(f"metric {ATTRIBUTES!r} needs data with a law: leave the metric out")
    law, device = conditions.law, next(extractor.parameters()).device
    return AttributeMeter(law, list(references), classifier_of(law).to(device), conditions.rule)


def settle_metrics(
    names: Sequence[str], law: Law | None, resolutions: Sequence[Resolution]
) -> list[str]:
    """The metrics with `auto` made definite, as a record keeps it: `attributes` where they can be
    measured, and where not the log says why."""
    if AUTO not in names:
        return list(names)
    reason = hindrance(law, resolutions)
    if reason is not None:
        log.info("auto in measure.metrics adds nothing: %s", reason)
    able = [ATTRIBUTES] if reason is None else []
    return [one for name in names for one in (able if name == AUTO else [name])]


def average_seeds(rows: Sequence[Quality]) -> Quality:
    """One row of the same measurement under several seeds: mean, all values, their deviation.

    Raises:
        ValueError: where the rows are not of one measurement.
    """
    first, last = rows[0], rows[-1]
    if len({(text_of(row.level), row.view, row.metric, row.identity) for row in rows}) > 1:
        raise ValueError(
            f"seeds disagree on what was measured, {first.identity} and {last.identity}: draw as "
            f"many images under each"
        )
    values = tuple(row.value for row in rows if row.value is not None)
    spread = statistics.stdev(values) if len(values) > 1 else None
    return replace(first, value=statistics.fmean(values), values=values, spread=spread)
