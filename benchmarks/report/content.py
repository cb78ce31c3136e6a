"""What a page shows: one section for each data set, made of records and the files beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.report import facts
from benchmarks.report.numbers import UNFIT, comparable, comparisons, merged, reason, row_key
from benchmarks.report.parts import Charts, Entry, Gallery, Grid, Group
from benchmarks.report.pictures import Kept, galleries, scaling
from benchmarks.report.plots import curves, trade
from benchmarks.tables.labels import labels
from benchmarks.tables.published import Published
from hierdiff.results.record import Record


@dataclass(frozen=True)
class Section:
    """All of one data set; slug: its name in links and files."""

    slug: str
    data: str
    entries: Sequence[Entry]
    groups: Sequence[Group]
    curves: Sequence[Charts]
    galleries: Sequence[Gallery]
    budgets: Grid | None
    differences: Grid | None
    alone: Sequence[Grid]
    shared: Grid | None
    metrics: Grid | None
    origins: Grid
    provenance: Sequence[Grid]


@dataclass(frozen=True)
class Page:
    """unread: records, pictures and figures that could not be read, each with its reason."""

    title: str
    sections: Sequence[Section]
    scaling: Sequence[Gallery]
    unread: Sequence[str]


def page(
    records: Iterable[Record],
    kept: Kept,
    *,
    folders: Sequence[Path] = (),
    unread: Sequence[str] = (),
    published: Sequence[Published] = (),
) -> Page:
    """All that is shown; the files that it links to are added to `kept`.

    folders: where figures of all runs are looked for. unread: why records could not be read.
    published: numbers for the tables that were not measured here.
    """
    records, unfit = _fit(records)
    by_data = {data: [r for r in records if r.data == data] for data in {r.data for r in records}}
    named = {data: list(_entries(own)) for data, own in sorted(by_data.items())}
    looks = sorted({look for rows in named.values() for look, _, _ in rows})
    sections = []
    for data, slug in slugs(list(named)).items():
        entries = [Entry(label, record, looks.index(x)) for x, label, record in named[data]]
        groups = list(tables(slug, entries, kept, published))
        sections.append(section(slug, data, entries, groups, kept))
    figures = list(scaling(folders, kept))
    counted = f"{len(records)} run{'' if len(records) == 1 else 's'}"
    title = f"{counted} on {', '.join(named)}" if named else "No finished run"
    return Page(title, sections, figures, [*unread, *unfit, *kept.broken])


def _fit(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The records that can be shown, in order, and why the others cannot."""
    fit, unfit = [], []
    for record in records:
        try:
            words = (record.name, record.method, record.data, record.budget)
            if not all(isinstance(word, str) for word in words):
                raise TypeError("its name, method, data and budget must be words")
            (label,) = labels([record])
            section("", record.data, [Entry(label, replace(record, path=None), 0)], (), Kept())
        except UNFIT as error:
            unfit.append(
                f"{record.path} is no record that can be shown ({reason(error)}): run again"
            )
        else:
            fit.append(record)
    return sorted(fit, key=lambda r: (r.name, r.hash, str(r.path))), unfit


def _entries(own: Sequence[Record]) -> list[tuple[str, str, Record]]:
    """Of one data set, by label: what gives the look (the label of its row), label, record."""
    rows = {row_key(record): replace(record, edited=False) for record in own}
    named = dict(zip(rows, labels(list(rows.values())), strict=True))
    found = [(named[row_key(r)], label, r) for label, r in zip(labels(own), own, strict=True)]
    return sorted(found, key=lambda row: row[:2])


def slugs(names: Sequence[str]) -> dict[str, str]:
    """For each name one for files and links, all different, also where case does not count."""
    found: dict[str, str] = {}
    for name in names:
        slug = base = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:60] or "data"
        count = 1
        while slug in found.values():
            count += 1
            slug = f"{base}-{count}"
        found[name] = slug
    return found


def section(
    slug: str,
    data: str,
    entries: Sequence[Entry],
    groups: Sequence[Group],
    kept: Kept,
) -> Section:
    differences, alone, shared = facts.options(entries)
    return Section(
        slug=slug,
        data=data,
        entries=entries,
        groups=groups,
        curves=list(curves(entries)),
        galleries=list(galleries(data, entries, kept)),
        budgets=facts.budgets(entries),
        differences=differences,
        alone=alone,
        shared=shared,
        metrics=facts.metrics(entries),
        origins=facts.origins(entries),
        provenance=[facts.provenance(entry) for entry in entries],
    )


def tables(
    slug: str, entries: Sequence[Entry], kept: Kept, published: Sequence[Published]
) -> Iterator[Group]:
    """Tables and charts of the rows that may share them; downloads go into `kept`."""
    parts = comparable(entries)
    for i, part in enumerate(parts, 1):
        name = f"{slug}-{i}" if len(parts) > 1 else slug
        shown = [entry.label for entry in part]
        try:
            rows = merged(part)
            found = list(comparisons(name, rows, kept.files, published))
            yield Group(shown, found, list(trade(rows)))
        except UNFIT as error:
            yield Group(shown, problem=reason(error))
