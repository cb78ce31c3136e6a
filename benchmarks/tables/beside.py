"""Which finished runs share the table of a run that has just ended."""

from __future__ import annotations

import logging
from pathlib import Path

from benchmarks.tables.mixing import Company
from hierdiff.results.folders import readable
from hierdiff.results.record import FILE, Record

log = logging.getLogger(__name__)


def beside(record: Record, folder: Path) -> list[Record]:
    """The record of `folder`, and of those of the same data and budget in the folders next to it
    the ones whose numbers may share its table. Each is read once and compared once. Nobody knows
    the budget of external images: they stand beside any."""
    found, company = [record], Company([record])
    others, left_out = readable(folder.parent, depth=1)
    for line in left_out:
        log.warning("left out: %s", line)
    for other in others:
        assert other.path is not None
        any_budget = other.external or record.external
        same = other.data == record.data and (any_budget or other.budget == record.budget)
        if same and other.path != (folder / FILE).resolve():
            try:
                company.check(other)
            except ValueError as error:
                log.info("%s is not in this table: %s", other.path.parent, error)
            else:
                company.add(other)
                found.append(other)
    return found
