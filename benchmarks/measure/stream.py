"""Images that are made and seen by all processes, block by block, and added up by the first one.

What the metrics need of a block is kept as soon as it is there (`Kept`), so that a kill loses the
blocks that were under way and nothing else, and never are all images in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.measure.kept import Kept
from benchmarks.measure.quality import Meter, Rows, merge_seeds
from benchmarks.measure.samples import BATCH, PACK, PixelImages, blocks
from benchmarks.progress import Track, track
from hierdiff.metrics.quality import Quality

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


def measure_source(source: Source, meter: Meter, kept: Kept, follow: Track = track) -> Rows:
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

    made = processes.deal(todo, make)
    shown = follow(made, source.what, len(todo)) if processes.first else made
    for numbers, (outputs, images) in shown:
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
