"""Which runs a table or a report shows: options of the command line, and the selection by them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from benchmarks.tables.select import where
from hierdiff.results.record import FILE, Record


def select(records: Iterable[Record], conditions: Iterable[str]) -> list[Record]:
    """The records for which every condition `field=value[,value]` holds.

    Raises:
        ValueError: where a condition has another form, or names another field.
    """
    return where(records, conditions, ("name", "method", "data", "budget"), "--where")


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds options that choose runs, and published numbers beside them."""
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


def require_runs(runs: Sequence[object], folders: Sequence[str]) -> None:
    """Refuses an empty selection.

    Raises:
        ValueError: where there are no runs.
    """
    if not runs:
        raise ValueError(
            f"no finished run ({FILE}) under {', '.join(folders)}: "
            f"make one by python -m benchmarks.run method=mdm"
        )
