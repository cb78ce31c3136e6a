"""The rows that give the scale: real images, and a Gaussian fitted to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hierdiff.metrics.quality import Quality
from hierdiff.resolution import Name, resolution_of
from hierdiff.results.record import Record

SCALE = {"real": "real images", "gaussian": "Gaussian"}  # key in a record, label of the row


def newest_rows(records: Iterable[Record], kind: str, level: Name) -> Iterator[Quality]:
    """The rows of the scale at the resolution of a level; of several records the newest speaks, by
    metric, and of those that ended at once the last."""
    resolution = resolution_of(level)
    newest = sorted(records, key=lambda record: str(record.provenance.get("ended")))
    found = {
        q.metric: q
        for record in newest
        for q in record.scale.get(kind, ())
        if q.level == resolution and q.value is not None
    }
    yield from found.values()
