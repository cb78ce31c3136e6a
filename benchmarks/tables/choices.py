"""Which runs a table or a report shows: options of the command line, and what they keep."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from hierdiff.results.record import FILE, Record


def keep(records: Iterable[Record], conditions: Iterable[str]) -> list[Record]:
    """The records for which every condition `field=value[,value]` holds."""
    kept = list(records)
    for condition in conditions:
        name, _, values = condition.partition("=")
        if name not in ("name", "method", "data", "budget") or not values:
            raise ValueError(f"--where {condition!r}: write name=, method=, data= or budget=VALUE")
        kept = [record for record in kept if getattr(record, name) in values.split(",")]
    return kept


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Which runs, and which numbers of others beside them."""
    parser.add_argument("folders", nargs="+", metavar="RUNS")
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="FIELD=VALUE[,VALUE]",
        help="keep the records with this name, method, data or budget",
    )  # fmt: skip
    parser.add_argument(
        "--published", nargs="*", metavar="FIELD=VALUE[,VALUE]",
        help="add numbers that others published: all, or those of this method, dataset, "
        "resolution or metric",
    )  # fmt: skip


def nothing_under(folders: Sequence[str]) -> str:
    return (
        f"no finished run ({FILE}) under {', '.join(folders)}: "
        f"make one by python -m benchmarks.run method=mdm"
    )
