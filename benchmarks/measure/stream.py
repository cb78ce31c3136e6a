"""Images that are made and seen by all processes, block by block, and added up by the first one.

What the metrics need of a block is kept as soon as it is there (`Kept`), so that a kill loses the
blocks that were under way and nothing else, and never are all images in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.conditions import Conditions
from benchmarks.measure.kept import Kept
from benchmarks.measure.quality import Meter, Rows, merge_seeds
from benchmarks.measure.samples import BATCH, PACK, PixelImages, blocks
from benchmarks.progress import Track, quiet, track
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.fidelity import FeatureSource
from hierdiff.metrics.quality import Quality
from hierdiff.metrics.reference import Reference, feature_batches
from hierdiff.processes import ALONE, Processes
from hierdiff.resolution import Resolution

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """n images that any process can make by their numbers.

    what: they are, in words. make: the images of some numbers. batch, pack: see `blocks`. look: is
    shown the blocks of the first `seen` images as they come, on the first process; close: is called
    there when all images have been made.
    """

    what: str
    n: int
    make: Callable[[range], PixelImages]
    batch: int = BATCH
    pack: int = PACK
    look: Callable[[range, PixelImages], None] | None = None
    seen: int = 0
    close: Callable[[], None] | None = None


@dataclass(frozen=True)
class Gauge:
    """What images are measured with.

    extractor: on its device. references: statistics of real images by resolution. processes: which
    measure together. silent: shows no progress, inside of work that shows its own. features: see
    `FidelityMeter`.
    """

    extractor: Extractor
    references: Mapping[Resolution, Reference]
    processes: Processes = ALONE
    silent: bool = False
    features: FeatureSource = feature_batches

    @property
    def track(self) -> Track:
        """Progress, of the first process."""
        return track if self.processes.first and not self.silent else quiet

    def rows(
        self,
        source: Source,
        metrics: Sequence[str] = ("fd",),
        conditions: Conditions | None = None,
        kept: Kept | None = None,
    ) -> Rows:
        """One row of a source for each level, view and metric; see `Meter` and `measure_source`."""
        meter = Meter(self.extractor, self.references, metrics, conditions, self.features)
        return measure_source(source, meter, kept or Kept(processes=self.processes), self.track)


def measure_source(source: Source, meter: Meter, kept: Kept, follow: Track = quiet) -> Rows:
    """The rows of all images of a source, going on from what was kept; none on other processes than
    the first.

    A collective call; meter: has seen nothing.
    """
    processes = kept.processes
    start = processes.agree(partial(_restored, source, meter, kept))
    todo = blocks(source.n, source.batch, source.pack, start)

    def make(numbers: range) -> tuple[dict, PixelImages | None]:
        images = source.make(numbers)
        return meter.extract(images, numbers), images if numbers.start < source.seen else None

    for numbers, (outputs, images) in follow(processes.deal(todo, make), source.what, len(todo)):
        if images is not None and source.look is not None:
            source.look(numbers, images)
        meter.take(outputs, numbers)
        kept.keep(source.what, numbers, outputs)
    if not processes.first:
        return []
    if source.close is not None:
        source.close()
    return meter.rows()


def measure_seeds(measure: Callable[[int], Rows], seeds: Sequence[int], kept: Kept) -> Rows:
    """One row for each level, view and metric, the mean over sampling seeds; done ones are kept.

    A collective call; measure: the rows of a seed, see `measure_source`.
    """
    return merge_seeds(
        [kept.once(f"seed {seed}", Quality, partial(measure, seed)) for seed in seeds]
    )


def _restored(source: Source, meter: Meter, kept: Kept) -> int:
    """The number of images that the meter has been given from what was kept."""
    for numbers, outputs in kept.blocks(source.what):
        meter.take(outputs, numbers)
    if meter.count:
        log.info("%s: gone on with after %d of %d images", source.what, meter.count, source.n)
    return meter.count
