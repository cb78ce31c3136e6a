"""The table of some records: a pure function of them, whatever format prints it.

One row for each method, then two rows that give the scale: real images, and a Gaussian fitted to
them. Records that differ in the training seed alone are one row, with their mean, and a spread over
training and sampling seeds; that of a row of one training seed is over sampling seeds. One column
group for each resolution, finest first. Unlike numbers never share a column: another data set,
metric identity, number of images, device or dtype is refused (mixing.py). What a preset shows is
decided in presets.py, what is best, and when a gap counts, in best.py, and in agreement.py where
metrics disagree about it. Numbers that others published (published.py) have columns and rows of
their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.tables import captions, notes
from benchmarks.tables import published as papers
from benchmarks.tables.agreement import agreement_notes, rankings, unmarked
from benchmarks.tables.best import places
from benchmarks.tables.columns import columns_of, failures_of, metrics_of
from benchmarks.tables.differences import differences, options_of, rank
from benchmarks.tables.formats.cells import MISSING
from benchmarks.tables.labels import labels
from benchmarks.tables.layout import Column, Table
from benchmarks.tables.mixing import one_dataset
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.published import Published
from benchmarks.tables.recipes import recipe_notes
from benchmarks.tables.scale import SCALE
from hierdiff.results.record import Record
from hierdiff.results.seeds import over_seeds

OPTIONS = 6  # columns of an ablation; more are named beneath


def tabulate(
    records: Iterable[Record],
    preset: str = "main",
    published: Sequence[Published] = (),
    left_out: Sequence[str] = (),
) -> Table:
    """The table of the records: one row for each method, the rows of the scale, published numbers.

    preset: one of `PRESETS`. left_out: a sentence for each record that could not be read, for the
    notes. Time grows in proportion to the records. Unlike numbers that would share a column raise
    ValueError.

    Raises:
        ValueError: for no records, or an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    spec = PRESETS[preset]
    ordered = sorted(records, key=lambda record: (record.name, record.hash, str(record.path)))
    if not ordered:
        raise ValueError("a table needs at least one record: finish a run first")
    data = one_dataset(ordered)
    ordered = over_seeds(ordered)
    differing = differences(ordered) if spec.options else {}
    ordered = sorted(
        ordered, key=lambda r: (r.name, *map(rank, map(options_of(r).get, differing.values())))
    )
    named = zip(labels(ordered, distinct=not differing), ordered, strict=True)
    rows = dict(named if differing else sorted(named))
    metrics = metrics_of(rows.values(), spec.metrics)

    cells, spread, noise = columns_of(rows, spec, metrics)
    words = failures_of(rows, spec)
    for column in words:
        cells.setdefault(column, {})
    for name, key in list(differing.items())[:OPTIONS]:
        cells[Column("options", name)] = {
            row: str(options_of(r).get(key, MISSING)) for row, r in rows.items()
        }
    if len({record.budget for record in ordered}) > 1 and "budget" not in differing:
        cells[Column("", "budget")] = {row: record.budget for row, record in rows.items()}
    cells[Column("", "failure")] = {
        row: r.failure for row, r in rows.items() if r.failure is not None
    }
    scale = [label for label in SCALE.values() if any(label in own for own in cells.values())]
    others = {label: row.dataset for row, label in papers.row_labels(published).items()}
    quoted = papers.columns(published, quality=spec.metrics != "none", cost=spec.parts)
    own = {column: values for column, values in cells.items() if values or column in words}
    ranked = rankings(rows) if metrics else {}
    table = Table(
        data=data,
        preset=preset,
        rows=[*rows, *scale, *others],
        cells={column: numbers(values) for column, values in placed(own, quoted).items()},
        spread={column: known for column, known in spread.items() if known},
        noise={column: known for column, known in noise.items() if known},
        words=words,
        scale=scale,
        published=others,
        caption=captions.table_caption(rows, metrics, spec),
        notes=[
            *notes.notes(rows, metrics, spec, list(differing)[OPTIONS:]),
            *notes.fewer_real(rows.values(), metrics),
            *agreement_notes(ranked),
            *(recipe_notes(rows) if metrics else ()),
            *papers.source_notes(published),
            *(f"left out ({i} of {len(left_out)}): {why}" for i, why in enumerate(left_out, 1)),
        ],
    )
    withheld = unmarked(ranked)
    return replace(table, places={c: p for c, p in places(table).items() if c not in withheld})


def numbers(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values as floats, unless some of them are words."""
    if any(isinstance(value, str) for value in values.values()):
        return values
    return {row: float(value) for row, value in values.items()}


def placed(cells: Mapping[Column, Any], others: Mapping[Column, Any]) -> dict[Column, Any]:
    """All columns in the order of their groups: options, resolutions, budgets, resolutions of
    published numbers alone, words."""
    together = {**cells, **others}
    own = {column.group for column in cells}
    ranks = {"options": 0, "planned": 2, "spent": 2, "": 4}
    groups: dict[str, list[Column]] = {}
    for column in together:
        groups.setdefault(column.group, []).append(column)
    ordered = sorted(groups, key=lambda group: ranks.get(group, 1 if group in own else 3))
    return {column: together[column] for group in ordered for column in groups[group]}
