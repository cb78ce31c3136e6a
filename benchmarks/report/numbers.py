"""The comparison tables: frames of `benchmarks.tables` with what the page needs beside them.

Rows whose numbers may not share a column are in groups of their own, so that no record keeps the
others from being shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import pandas as pd
from pandas.api.types import is_numeric_dtype

from benchmarks.report.parts import Cell, Comparison, Entry, TableRow, number
from benchmarks.tables.best import places
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.formats.cells import shown
from benchmarks.tables.keys import keys
from benchmarks.tables.labels import labels
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.published import Published
from benchmarks.tables.table import frame
from hierdiff.results.flat import NAMED
from hierdiff.results.record import Record
from hierdiff.results.seeds import over_seeds

ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv"}
NAMES = {"markdown": "Markdown", "latex": "LaTeX", "csv": "CSV"}
COLUMNS = {  # what a preset shows
    "main": "quality, speed and spending",
    "per_resolution": "all metrics",
    "cost": "cost",
    "ablation": "options that differ",
    "all": "everything",
}
UNFIT = (ValueError, TypeError, KeyError, AttributeError, IndexError)  # of a record edited by hand


def reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def row_key(record: Record) -> str:
    """The same for the runs of one row: its name and its options but for seed and place."""
    options = {key: value for key, value in record.config.items() if key not in NAMED}
    return json.dumps([record.name, options], sort_keys=True, default=str)


def comparable(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in groups, each of which is one table: each joins the first that takes it."""
    groups: list[list[Entry]] = []
    for entry in entries:
        home = next((group for group in groups if _fits([*group, entry])), None)
        if home is None:
            groups.append([entry])
        else:
            home.append(entry)
    return groups


def _fits(entries: Sequence[Entry]) -> bool:
    try:
        frame([entry.record for entry in entries], "all")
    except UNFIT:
        return False
    return True


def merged(entries: Sequence[Entry]) -> list[Entry]:
    """The rows of a table: runs that differ in the training seed alone are one."""
    ordered = sorted(entries, key=lambda e: (e.record.name, e.record.hash, str(e.record.path)))
    looks = {row_key(entry.record): entry.look for entry in entries}
    rows = over_seeds([entry.record for entry in ordered])
    named = zip(labels(rows), rows, strict=True)
    return [Entry(label, row, looks[row_key(row)]) for label, row in named]


def comparisons(
    name: str,
    entries: Sequence[Entry],
    files: dict[str, bytes],
    published: Sequence[Published] = (),
) -> Iterator[Comparison]:
    """A table for each preset; its downloads are added to `files` as `tables/<name>-...`."""
    rows = merged(entries)
    counted = labels([row.record for row in rows], told=False)  # of an ablation
    looks = {label: row.look for label, row in zip(counted, rows, strict=True)}
    looks |= {row.label: row.look for row in rows}
    for preset in PRESETS:
        table = frame([entry.record for entry in entries], preset, published)
        downloads = []
        for kind, written in FORMATS.items():
            href = f"tables/{name}-{preset}.{ENDINGS.get(kind, kind)}"
            files[href] = written(table).encode("utf-8", "replace")
            downloads.append((NAMES.get(kind, kind), href))
        yield comparison(COLUMNS.get(preset, preset), table, looks, downloads)


def comparison(
    name: str,
    table: pd.DataFrame,
    looks: Mapping[str, int],
    downloads: Sequence[tuple[str, str]],
) -> Comparison:
    """A frame as the page shows it: methods, then scale, published and failed rows, apart."""
    failed = next((key for key in keys(table) if key[1] == "failure"), None)
    columns = [key for key in keys(table) if key != failed]
    cells, place = shown(table), places(table)
    published = table.attrs.get("published", ())
    rows: dict[str, list[TableRow]] = {
        kind: [] for kind in ("methods", "scale", "published", "failures")
    }
    for i, label in enumerate(table.index):
        reason = table[failed].iloc[i] if failed is not None else None
        if isinstance(reason, str):
            rows["failures"].append(TableRow(label, look=looks.get(label), reason=reason))
            continue
        told = [
            Cell(
                str(cells[key].iloc[i]),
                number(table[key].iloc[i]),
                number=is_numeric_dtype(table[key]),
                place=int(place[key].iloc[i]),
            )
            for key in columns
        ]
        apart = "published" if label in published else "methods"
        kind = "scale" if label in table.attrs["scale"] else apart
        rows[kind].append(TableRow(label, told, looks.get(label)))
    return Comparison(
        name=name,
        caption=table.attrs["caption"],
        sides=[(side, len(list(own))) for side, own in groupby(key[0] for key in columns)],
        columns=[Cell(key[1], number=is_numeric_dtype(table[key])) for key in columns],
        notes=table.attrs["notes"],
        downloads=downloads,
        **rows,
    )
