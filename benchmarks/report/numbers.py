"""The comparison tables, with what the page needs beside them.

Rows whose numbers may not share a column are in groups of their own, so that no record keeps the
others from being shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from benchmarks.report.parts import (
    Cell,
    Comparison,
    LabelledRecord,
    PlainTable,
    TableRow,
    finite_number,
)
from benchmarks.tables.agreement import rankings, tau
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.formats.cells import MISSING, cell_texts
from benchmarks.tables.labels import labels
from benchmarks.tables.layout import Table
from benchmarks.tables.mixing import Company
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.published import Published
from benchmarks.tables.table import tabulate
from hierdiff.results.flat import NAMED
from hierdiff.results.record import Record
from hierdiff.results.seeds import over_seeds

ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv"}
NAMES = {"markdown": "Markdown", "latex": "LaTeX", "csv": "CSV"}
COLUMNS = {  # what the columns of a preset are
    "main": "quality, speed and spending",
    "per_resolution": "all metrics",
    "cost": "cost",
    "ablation": "options that differ",
    "all": "everything",
}
UNFIT = (ValueError, TypeError, KeyError, AttributeError, IndexError)  # of a record edited by hand


def reason(error: Exception) -> str:
    """Why a record is unfit, as half a sentence."""
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def row_key(record: Record) -> str:
    """A key of the row of a record: its name and its options without seed and folder."""
    options = {key: value for key, value in record.config.items() if key not in NAMED}
    return json.dumps([record.name, options], sort_keys=True, default=str)


def comparable(entries: Sequence[LabelledRecord]) -> list[list[LabelledRecord]]:
    """Groups of entries that may share a table; each entry joins the first group that fits."""
    groups: list[tuple[list[LabelledRecord], Company]] = []
    for entry in entries:
        for members, company in groups:
            try:
                company.check(entry.record)
            except ValueError:
                continue
            company.add(entry.record)
            members.append(entry)
            break
        else:
            groups.append(([entry], Company([entry.record])))
    return [members for members, _ in groups]


def merge_runs(entries: Sequence[LabelledRecord]) -> list[LabelledRecord]:
    """The rows of a table: runs that differ in the training seed alone become one."""
    ordered = sorted(entries, key=lambda e: (e.record.name, e.record.hash, str(e.record.path)))
    looks = {row_key(entry.record): entry.look for entry in entries}
    rows = over_seeds([entry.record for entry in ordered])
    named = zip(labels(rows), rows, strict=True)
    return [LabelledRecord(label, row, looks[row_key(row)]) for label, row in named]


def comparisons(
    name: str,
    rows: Sequence[LabelledRecord],
    files: dict[str, bytes],
    published: Sequence[Published] = (),
) -> Iterator[Comparison]:
    """A table of the rows (`merge_runs`) for each preset; its downloads are added to `files` as
    `tables/<name>-...`."""
    records = [row.record for row in rows]
    counted = labels(records, distinct=False)  # of an ablation
    looks = {label: row.look for label, row in zip(counted, rows, strict=True)}
    looks |= {row.label: row.look for row in rows}
    for preset in PRESETS:
        table = tabulate(records, preset, published)
        downloads = []
        for kind, ending in ENDINGS.items():
            href = f"tables/{name}-{preset}.{ending}"
            files[href] = FORMATS[kind](table).encode("utf-8", "replace")
            downloads.append((NAMES[kind], href))
        yield comparison(COLUMNS.get(preset, preset), table, looks, downloads)


def agreement_tables(rows: Sequence[LabelledRecord]) -> Iterator[PlainTable]:
    """Kendall's tau of each pair of metrics over the rows (`merge_runs`): a table for each level
    and view where there are methods enough."""
    for place, ranked in rankings({row.label: row.record for row in rows}).items():
        pairs = [[tau(one, other) for other in ranked] for one in ranked]
        if any(value is not None for row in pairs for value in row):
            body = [
                TableRow(
                    one.metric,
                    [
                        Cell(MISSING if value is None else f"{value:.2f}", value, number=True)
                        for value in row
                    ],
                )
                for one, row in zip(ranked, pairs, strict=True)
            ]
            head = ("metric", *(one.metric for one in ranked))
            yield PlainTable(f"Rank agreement (Kendall's tau) at {place}", head, body)


def comparison(
    name: str,
    table: Table,
    looks: Mapping[str, int],
    downloads: Sequence[tuple[str, str]],
) -> Comparison:
    """A table for the page, its methods, scale, published and failed rows apart."""
    failed = next((column for column in table.columns if column.what == "failure"), None)
    reasons = {} if failed is None else table.cells[failed]
    columns = [column for column in table.columns if column != failed]
    cells = {column: cell_texts(table, column) for column in columns}
    numeric = {column: table.is_number(column) for column in columns}
    rows: dict[str, list[TableRow]] = {
        kind: [] for kind in ("methods", "scale", "published", "failures")
    }
    scale = set(table.scale)
    for label in table.rows:
        if label in reasons:
            rows["failures"].append(TableRow(label, look=looks.get(label), reason=reasons[label]))
            continue
        own = [
            Cell(
                cells[column][label],
                finite_number(table.cells[column].get(label)),
                number=numeric[column],
                place=table.place(column, label),
            )
            for column in columns
        ]
        apart = "published" if label in table.published else "methods"
        rows["scale" if label in scale else apart].append(TableRow(label, own, looks.get(label)))
    return Comparison(
        name=name,
        caption=table.caption,
        sides=[(side, len(list(own))) for side, own in groupby(one.group for one in columns)],
        columns=[Cell(column.title, number=numeric[column]) for column in columns],
        notes=table.notes,
        downloads=downloads,
        **rows,
    )
