"""The rows that give the scale: real images, and a Gaussian fitted to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hierdiff.results.record import Record
from hierdiff.results.rows import Row

SCALE = {"real": "real images", "gaussian": "Gaussian"}  # key in a record, label of the row


def scale_rows(records: Iterable[Record], kind: str, side: int) -> Iterator[Row]:
    """The rows of the scale at a resolution; of several records the newest speaks, by metric."""
    newest = sorted(records, key=lambda r: (str(r.provenance.get("ended")), r.hash))
    found = {
        q["metric"]: q
        for record in newest
        for q in record.scale.get(kind, ())
        if q["resolution"] == side and q["value"] is not None
    }
    yield from found.values()
