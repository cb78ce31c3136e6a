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
from benchmarks.tables.columns import columns_of, metrics_of
from benchmarks.tables.deltas import Deltas, beside_metrics, delta_of, deltas
from benchmarks.tables.differences import differences, options_of, rank
from benchmarks.tables.formats.cells import MISSING
from benchmarks.tables.labels import labels
from benchmarks.tables.layout import DELTA, Column, Table
from benchmarks.tables.mixing import one_dataset
from benchmarks.tables.presets import PRESETS, shown_part
from benchmarks.tables.published import Published
from benchmarks.tables.recipes import recipe_notes
from benchmarks.tables.scale import SCALE
from benchmarks.tables.select import chosen
from hierdiff.metrics.quality import VIEWS
from hierdiff.results.record import Record
from hierdiff.results.seeds import over_seeds

OPTIONS = 6  # columns of an ablation; more are named beneath


def tabulate(
    records: Iterable[Record],
    preset: str = "main",
    published: Sequence[Published] = (),
    left_out: Sequence[str] = (),
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    baseline: str | None = None,
) -> Table:
    """The table of the records: one row for each method, the rows of the scale, published numbers.

    preset: one of `PRESETS`. left_out: a sentence for each record that could not be read, for the
    notes. rows, columns: names of those that are shown, or patterns of them (`select.py`); all
    where there are none. Rows are in this order, and what the caption and the notes say is of what
    is shown. baseline: the row from which the others' differences stand beside each metric
    (`deltas.py`). Time grows in proportion to the records.

    Raises:
        ValueError: for no records, an unknown preset, row, column or baseline, or unlike numbers
            that would share a column.
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
    labelled = dict(named if differing else sorted(named))
    others = {label: row.dataset for row, label in papers.row_labels(published).items()}
    kept = chosen(rows, [*labelled, *SCALE.values(), *others], "row")
    methods = {row: labelled[row] for row in kept if row in labelled}
    if not methods:
        raise ValueError(f"rows {', '.join(rows)} have no method: choose one that was run")
    metrics = metrics_of(methods.values(), spec.metrics)

    cells, spread, noise, words = columns_of(methods, spec, metrics)
    for name, key in list(differing.items())[:OPTIONS]:
        cells[Column("options", name)] = {
            row: str(options_of(r).get(key, MISSING)) for row, r in methods.items()
        }
    if len({r.budget for r in methods.values()}) > 1 and "budget" not in differing:
        cells[Column("", "budget")] = {row: record.budget for row, record in methods.items()}
    cells[Column("", "failure")] = {
        row: r.failure for row, r in methods.items() if r.failure is not None
    }
    difference = Deltas() if baseline is None else deltas(methods, metrics, baseline)
    spread |= {delta_of(c): known for c, known in difference.spread.items()}
    quoted = papers.columns(published, quality=spec.metrics != "none", cost=spec.parts)
    own = {
        column: values
        for column, values in beside_metrics(cells, difference).items()
        if values or words.get(column)
    }
    shown = _shown(placed(own, quoted), columns)
    spec, metrics = shown_part(spec, shown), [m for m in metrics if _stands(m, shown)]
    scale = [
        label
        for label in kept
        if label in SCALE.values() and any(label in values for values in shown.values())
    ]
    others = {label: others[label] for label in kept if label in others}
    ranked = rankings(methods) if metrics else {}
    table = Table(
        data=data,
        preset=preset,
        rows=[*methods, *scale, *others],
        cells={column: numbers(values) for column, values in shown.items()},
        spread={column: known for column, known in spread.items() if known},
        noise={column: known for column, known in noise.items() if known},
        words={column: instead for column, instead in words.items() if instead},
        scale=scale,
        published=others,
        p_values={delta_of(c): p for c, p in difference.p_values.items()},
        caption=captions.table_caption(methods, metrics, spec),
        notes=[
            *notes.notes(methods, spec, list(differing)[OPTIONS:]),
            *notes.fewer_real(methods.values(), metrics),
            *agreement_notes(ranked),
            *difference.notes,
            *(recipe_notes(methods) if metrics else ()),
            *papers.source_notes(published),
            *notes.identities(methods, metrics),
            *(f"left out ({i} of {len(left_out)}): {why}" for i, why in enumerate(left_out, 1)),
        ],
    )
    withheld = unmarked(ranked)
    return replace(table, places={c: p for c, p in places(table).items() if c not in withheld})


def _shown(cells: Mapping[Column, Any], columns: Sequence[str]) -> dict[Column, Any]:
    keys = chosen(columns, [column.key for column in cells], "column")
    return {column: values for column, values in cells.items() if column.key in keys}


def _stands(metric: str, shown: Iterable[Column]) -> bool:
    """Whether a column is of a metric, in some view."""
    views = ("", *(f" {view}" for view in VIEWS))
    names = {f"{delta}{metric}{view}" for delta in ("", f"{DELTA} ") for view in views}
    return any(column.what in names for column in shown)


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
