"""The content of a page: a section for each data set, from records and the files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.report import facts
from benchmarks.report.live import LiveRun, live_run
from benchmarks.report.numbers import (
    UNFIT,
    agreement_tables,
    comparable,
    comparisons,
    merge_runs,
    reason,
    row_key,
)
from benchmarks.report.parts import Charts, Gallery, Group, LabelledRecord, PlainTable, slug_of
from benchmarks.report.pictures import ReportFiles, galleries, scaling
from benchmarks.report.plots import (
    curve_charts,
    option_charts,
    selection_charts,
    spectrum_charts,
    steps_charts,
    trade_charts,
)
from benchmarks.tables.labels import labels
from benchmarks.tables.published import Published
from hierdiff.results.record import Record


@dataclass(frozen=True)
class Section:
    """All rows of one data set; slug: its name in links and files."""

    slug: str
    data: str
    entries: Sequence[LabelledRecord]
    groups: Sequence[Group]
    curves: Sequence[Charts]
    galleries: Sequence[Gallery]
    budgets: PlainTable | None
    differences: PlainTable | None
    alone: Sequence[PlainTable]
    shared: PlainTable | None
    metrics: PlainTable | None
    origins: PlainTable
    provenance: Sequence[PlainTable]


@dataclass(frozen=True)
class Page:
    """A whole page. unread: a sentence for each record or file that could not be read. live: runs
    in training; refresh: seconds after which a browser loads the page again, None for never."""

    title: str
    sections: Sequence[Section]
    scaling: Sequence[Gallery]
    unread: Sequence[str]
    live: Sequence[LiveRun] = ()
    refresh: int | None = None


def page(
    records: Iterable[Record],
    files: ReportFiles,
    *,
    folders: Sequence[Path] = (),
    unread: Sequence[str] = (),
    published: Sequence[Published] = (),
    live: Sequence[Path] = (),
    refresh: int | None = None,
) -> Page:
    """The page of these records; the files that it links to are added to `files`.

    folders: where figures over several runs may lie. unread: a sentence for each record that could
    not be read. published: numbers of papers for the tables. live: folders of runs in training.
    refresh: as of `Page`.
    """
    records, unfit = _fit(records)
    by_data = {data: [r for r in records if r.data == data] for data in {r.data for r in records}}
    named = {data: list(_entries(own)) for data, own in sorted(by_data.items())}
    looks = sorted({row for rows in named.values() for row, _, _ in rows})
    sections = []
    for data, slug in slugs(list(named)).items():
        entries = [
            LabelledRecord(label, record, looks.index(row), row)
            for row, label, record in named[data]
        ]
        groups = list(tables(slug, entries, files, published))
        sections.append(section(slug, data, entries, groups, files))
    figures = list(scaling(folders, files))
    counted = f"{len(records)} run{'' if len(records) == 1 else 's'}"
    title = f"{counted} on {', '.join(named)}" if named else "No finished run"
    running = [live_run(folder, files) for folder in live]
    broken = [*unread, *unfit, *files.broken]
    return Page(title, sections, figures, broken, running, refresh)


def _fit(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The records that a page can show, in order, and a sentence for each of the others."""
    fit, unfit = [], []
    for record in records:
        try:
            _check_words(record)
            (label,) = labels([record])
            section(
                "",
                record.data,
                [LabelledRecord(label, replace(record, path=None), 0)],
                (),
                ReportFiles(),
            )
        except UNFIT as error:
            unfit.append(
                f"{record.path} is no record that can be shown ({reason(error)}): run again"
            )
        else:
            fit.append(record)
    return sorted(fit, key=lambda r: (r.name, r.hash, str(r.path))), unfit


def _check_words(record: Record) -> None:
    words = (record.name, record.method, record.data, record.budget)
    if not all(isinstance(word, str) for word in words):
        raise TypeError("its name, method, data and budget must be words")


def _entries(own: Sequence[Record]) -> list[tuple[str, str, Record]]:
    """(label of its row, label, record) of each record of a data set, sorted by label.

    Records of one row, which differ in the seed alone, share a look.
    """
    rows = {row_key(record): replace(record, edited=False) for record in own}
    named = dict(zip(rows, labels(list(rows.values())), strict=True))
    entries = [(named[row_key(r)], label, r) for label, r in zip(labels(own), own, strict=True)]
    return sorted(entries, key=lambda row: row[:2])


def slugs(names: Sequence[str]) -> dict[str, str]:
    """A slug for each name, for files and links; all differ even where case is ignored."""
    slugs_by_name: dict[str, str] = {}
    for name in names:
        slugs_by_name[name] = slug_of(name, slugs_by_name.values())
    return slugs_by_name


def section(
    slug: str,
    data: str,
    entries: Sequence[LabelledRecord],
    groups: Sequence[Group],
    files: ReportFiles,
) -> Section:
    """The section of a data set; its pictures are added to `files`."""
    differences, alone, shared = facts.option_tables(entries)
    kinds = (option_charts, spectrum_charts, steps_charts, selection_charts, curve_charts)
    return Section(
        slug=slug,
        data=data,
        entries=entries,
        groups=groups,
        curves=[files.charts(slug, charts) for kind in kinds for charts in kind(entries)],
        galleries=list(galleries(data, entries, files)),
        budgets=facts.budget_table(entries),
        differences=differences,
        alone=alone,
        shared=shared,
        metrics=facts.metric_table(entries),
        origins=facts.origin_table(entries),
        provenance=[facts.provenance_table(entry) for entry in entries],
    )


def tables(
    slug: str, entries: Sequence[LabelledRecord], files: ReportFiles, published: Sequence[Published]
) -> Iterator[Group]:
    """Tables and charts of each group of comparable rows; downloads are added to `files`."""
    parts = comparable(entries)
    for i, part in enumerate(parts, 1):
        name = f"{slug}-{i}" if len(parts) > 1 else slug
        names = [entry.label for entry in part]
        try:
            rows = merge_runs(part)
            comparison_tables = list(comparisons(name, rows, files.contents, published))
            agreement = list(agreement_tables(rows))
            trade = [files.charts(name, charts) for charts in trade_charts(rows)]
            yield Group(names, comparison_tables, agreement, trade)
        except UNFIT as error:
            yield Group(names, problem=reason(error))
