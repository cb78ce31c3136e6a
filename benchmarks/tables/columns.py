"""The columns of a table: which there are, and what each row has in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from benchmarks.tables.captions import budget
from benchmarks.tables.costs import PARTS, CostColumn
from benchmarks.tables.layout import Column, Spread, Spreads
from benchmarks.tables.mixing import same_hardware, same_identity
from benchmarks.tables.presets import UNITS, Preset
from benchmarks.tables.scale import SCALE, newest_rows
from hierdiff.metrics.quality import Quality
from hierdiff.resolution import Name, finest_first, px
from hierdiff.results.cost import ALONE, Cost
from hierdiff.results.record import Record

T = TypeVar("T")
Cells = dict[Column, dict[str, Any]]  # by column and row


class Measured(NamedTuple):
    """cells: what was measured. spread: over seeds. noise: over repeats of a timing. words: instead
    of a cost that ended without a number, `OOM` where memory ran out."""

    cells: Cells
    spread: Spreads
    noise: Spreads
    words: dict[Column, dict[str, str]]


def columns_of(rows: Mapping[str, Record], wanted: Preset, metrics: Sequence[str]) -> Measured:
    """The columns of what was measured, by group: quality, costs, their parts; then budgets."""
    found = Measured({}, {}, {}, {})
    for group, level, part, costs in groups_of(rows.values(), wanted):
        shown = quality_columns(group, rows, level, metrics) if part is None else {}
        for column, qualities in shown.items():
            same_identity(column.heading, qualities)
            found.cells[column] = {row: q.value for row, q in qualities.items()}
            found.spread[column] = _known({row: spread_of(q) for row, q in qualities.items()})
        taken = [(row, c) for row, record in rows.items() for c in costs_at(record, level, part)]
        for cost in costs:
            column = cost.column(group)
            own = {row: c for row, c in taken if cost.value(c) is not None}
            numbers = _known({row: cost.value(c) for row, c in own.items()})
            if cost.hardware:
                same_hardware(column.heading, rows, own)
            found.cells[column] = {row: number * cost.factor for row, number in numbers.items()}
            found.noise[column] = _known({row: cost.spread(c) for row, c in own.items()})
            found.words[column] = {row: word for row, c in taken if (word := cost.failure_word(c))}
        if wanted.parts:
            parts = part_columns(rows, level, part).items()
            found.cells.update({Column(group, what): cells for what, cells in parts})
    for when, what in wanted.budgets:
        unit, factor = UNITS[what]
        amounts = _known({row: budget(record, when, what) for row, record in rows.items()})
        found.cells[Column(when, unit)] = {row: x / factor for row, x in amounts.items()}
    return found


def _known(values: Mapping[str, T | None]) -> dict[str, T]:
    return {row: value for row, value in values.items() if value is not None}


def groups_of(
    records: Iterable[Record], wanted: Preset
) -> Iterator[tuple[str, Name, str | None, Sequence[CostColumn]]]:
    """Name, level, part and costs of each column group: the levels, and in a table without quality
    the parts of a trajectory that were measured alone."""
    records = list(records)
    levels = levels_in(records)
    for level in levels:
        yield (
            px(level),
            level,
            None,
            wanted.costs if level == levels[0] or not wanted.finest else (),
        )
    for level in levels if wanted.metrics == "none" else ():
        if any(costs_at(record, level, ALONE) for record in records):
            yield f"network {ALONE} {px(level)}", level, ALONE, wanted.costs


def costs_at(record: Record, level: Name, part: str | None) -> list[Cost]:
    """Cost rows of what makes the images of a level (part None), or of a part alone."""
    return [c for c in record.cost if (c.level, c.part) == (level, part)]


def spread_of(q: Quality) -> Spread | None:
    """Of a quality row, which is a mean over sampling seeds, or over those and training seeds
    (`hierdiff.results.over_seeds`); None where it is unknown."""
    sd, count = q.spread, len(q.values)
    if sd is None or count < 2:
        return None
    if q.between is None:
        return Spread(sd, count, {"sampling seeds": (sd**2 / count, count - 1)})
    parts = {"training seeds": (q.between**2 / count, count - 1)}
    if q.within is not None and q.draws is not None:
        parts["sampling seeds"] = (q.within**2 / q.draws, q.draws - 1)
    return Spread(sd, count, parts)


def levels_in(records: Iterable[Record]) -> list[Name]:
    """Every level that was measured, finest first."""
    return finest_first(
        {
            level
            for r in records
            for level in (*(q.level for q in r.quality), *(c.level for c in r.cost))
        }
    )


def metrics_of(records: Iterable[Record], which: str) -> list[str]:
    """Metrics that were measured, in the order of the records: the "first" of each, "all", none."""
    rows = [[q.metric for q in record.quality] for record in records]
    if which == "first":
        return list(dict.fromkeys(metrics[0] for metrics in rows if metrics))
    return list(dict.fromkeys(m for metrics in rows for m in metrics)) if which == "all" else []


def quality_columns(
    group: str, rows: Mapping[str, Record], level: Name, metrics: Sequence[str]
) -> dict[Column, dict[str, Quality]]:
    """For each metric and view of a level the quality row of each table row.

    At the finest level both views are the same image, and one column says it. Both views have
    the same references, so that a row of the scale stands in either.
    """
    finest = level == levels_in(rows.values())[0]
    views = (
        {"": ("native", "pooled")} if finest else {" native": ("native",), " pooled": ("pooled",)}
    )
    known: dict[tuple[str, str], dict[str, Quality]] = {}
    for row, record in rows.items():
        for q in record.quality:
            if q.level == level and q.value is not None:
                known.setdefault((q.metric, q.view), {})[row] = q
    scale = {label: list(newest_rows(rows.values(), kind, level)) for kind, label in SCALE.items()}
    columns: dict[Column, dict[str, Quality]] = {}
    for metric in metrics:
        side_of = direction(metric, rows.values())
        for suffix, wanted in views.items():
            found = [known.get((metric, view), {}) for view in wanted]
            column = {row: own[row] for row in rows for own in reversed(found) if row in own}
            if column:
                column |= {row: q for row, own in scale.items() for q in own if q.metric == metric}
                columns[Column(group, f"{metric}{suffix}", side_of)] = column
    return columns


def direction(metric: str, records: Iterable[Record]) -> str | None:
    """Which side of a metric is better, as the first row of it says."""
    rows = (q for record in records for q in record.quality)
    return next((q.better for q in rows if q.metric == metric), None)


def part_columns(
    rows: Mapping[str, Record], level: Name, part: str | None
) -> dict[str, dict[str, float]]:
    """The numbers of the parts of a sample and of the batch sizes that were tried."""
    columns: dict[str, dict[str, float]] = {}
    sources: dict[str, Cost] = {}
    for row, record in rows.items():
        for c in costs_at(record, level, part):
            for kind, entries in c.lists.items():
                for entry in entries:
                    for key, (unit, factor) in PARTS.items():
                        value = getattr(entry, key, None)
                        if value is not None:
                            name = re.sub(r"[._]", " ", f"{kind}.{entry.name}.{unit}")
                            columns.setdefault(name, {})[row] = float(value) * factor
                            sources[row] = c
    same_hardware(f"{px(level)} {next(iter(columns), '')}", rows, sources)
    return columns
