"""Rows of one method under several recipes: which recipe, and whether the shared one costs quality.

A recipe (`recipe=NAME`, the folder `configs/recipe`) is how a method is trained and sampled:
optimizer, prediction, weights of the loss, sampler. `shared` is one for all rows, the others are
those of papers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.tables.agreement import Ranking, rankings
from benchmarks.tables.columns import levels_in
from benchmarks.tables.digits import printed
from hierdiff.resolution import Name, px
from hierdiff.results.record import Record

SHARED = "shared"  # by its name in `configs/recipe`


def recipe_of(record: Record) -> str | None:
    """The name of the recipe of a record; None for the method as its config has it."""
    name = record.config.get("recipe_name")
    return None if name is None else str(name)


def recipe_notes(rows: Mapping[str, Record]) -> Iterator[str]:
    """A line for each row whose method does worse under the shared recipe than under another one
    with the same budget, in the first distance between whole distributions at the finest level."""
    others: dict[tuple[str, str, str], dict[str, Record]] = {}
    for other, own in rows.items():
        if recipe_of(own) != SHARED:
            others.setdefault(_row(own), {})[other] = own
    for row, record in rows.items():
        if recipe_of(record) == SHARED:
            for other, own in others.get(_row(record), {}).items():
                yield from _worse(row, record, other, own)


def _row(record: Record) -> tuple[str, str, str]:
    return record.name, record.data, record.budget


def _worse(row: str, record: Record, other: str, own: Record) -> Iterator[str]:
    pair = {row: record, other: own}
    level = next(iter(levels_in(pair.values())), None)
    if level is None:
        return
    found = rankings(pair).get(px(level), ())
    first = next((one for one in found if one.whole and len(one.values) == 2), None)
    if first is None or first.values[row] <= first.values[other]:
        return
    if not first.best:
        apart = "of unknown spread"
    else:
        apart = "within the spread" if row in first.best else "beyond the spread"
    values = [_shown(one, level, first) for one in (record, own)]
    yield (
        f"{row} is worse than {other}: {first.metric} at {px(level)} {values[0]} and {values[1]}, "
        f"{apart}"
    )


def _shown(record: Record, level: Name, ranking: Ranking) -> str:
    """The value of a record in a ranking, with its spread where it has one."""
    found = [q for q in record.quality if (q.level, q.metric) == (level, ranking.metric)]
    q = min((q for q in found if q.value is not None), key=lambda q: q.view)
    assert q.value is not None
    return printed(q.value, q.spread)
