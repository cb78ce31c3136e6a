"""The columns of a table: which there are, and what each row has in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

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

OUT_OF_MEMORY, OOM = "out of memory", "OOM"  # how such a reason begins, what a cell says
Cells = dict[Column, dict[str, Any]]  # by column and row


def columns_of(
    rows: Mapping[str, Record], wanted: Preset, metrics: Sequence[str]
) -> tuple[Cells, Spreads, Spreads]:
    """Cells of what was measured; the spread over seeds, and that over repeats of a timing."""
    columns: Cells = {}
    spread: Spreads = {}
    noise: Spreads = {}
    for group, level, part in groups_of(rows.values(), wanted):
        found = quality_columns(group, rows, level, metrics) if part is None else {}
        for column, qualities in found.items():
            same_identity(column.heading, qualities)
            columns[column] = {row: q.value for row, q in qualities.items()}
            spread[column] = {
                row: known for row, q in qualities.items() if (known := spread_of(q)) is not None
            }
        for cost in costs_of(rows.values(), level, wanted):
            column = cost.column(group)
            taken = cost_column(rows, level, part, cost)
            if cost.hardware:
                same_hardware(column.heading, rows, taken)
            columns[column] = {
                row: number * cost.factor
                for row, c in taken.items()
                if (number := cost.value(c)) is not None
            }
            noise[column] = {
                row: known for row, c in taken.items() if (known := cost.spread(c)) is not None
            }
        if wanted.parts:
            columns |= {Column(group, k): own for k, own in part_columns(rows, level, part).items()}
    for when, what in wanted.budgets:
        unit, factor = UNITS[what]
        columns[Column(when, unit)] = {
            row: amount / factor
            for row, record in rows.items()
            if (amount := budget(record, when, what)) is not None
        }
    return columns, spread, noise


def groups_of(records: Iterable[Record], wanted: Preset) -> Iterator[tuple[str, Name, str | None]]:
    """Name, level and part of each column group: the levels, and in a table without quality the
    parts of a trajectory that were measured alone."""
    records = list(records)
    for level in levels_in(records):
        yield px(level), level, None
    for level in levels_in(records) if wanted.metrics == "none" else ():
        if any(costs_at(record, level, ALONE) for record in records):
            yield f"network {ALONE} {px(level)}", level, ALONE


def costs_of(records: Iterable[Record], level: Name, wanted: Preset) -> tuple[CostColumn, ...]:
    """The cost columns of a level under a preset."""
    finest = level == levels_in(records)[0]
    return wanted.costs if finest or not wanted.finest else ()


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


def failures_of(rows: Mapping[str, Record], wanted: Preset) -> dict[Column, dict[str, str]]:
    """Costs that ended without a number, by row: `OOM` where memory ran out."""
    words: dict[Column, dict[str, str]] = {}
    for group, level, part in groups_of(rows.values(), wanted):
        for cost in costs_of(rows.values(), level, wanted):
            for row, record in rows.items():
                for c in costs_at(record, level, part):
                    reason = cost.failure(c)
                    if reason is not None and cost.value(c) is None and cost.always:
                        word = OOM if reason.startswith(OUT_OF_MEMORY) else "failed"
                        words.setdefault(cost.column(group), {})[row] = word
    return words


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


def cost_column(
    rows: Mapping[str, Record], level: Name, part: str | None, cost: CostColumn
) -> dict[str, Cost]:
    """The cost row of each table row that has this cost at a level."""
    return {
        row: c
        for row, record in rows.items()
        for c in costs_at(record, level, part)
        if cost.value(c) is not None
    }


def part_columns(
    rows: Mapping[str, Record], level: Name, part: str | None = None
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
