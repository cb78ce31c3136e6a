"""Numbers that others published, from `published.csv`; none of them is measured here.

One line for each method, data set, resolution and metric.

parameters: millions, of the denoiser and, behind a plus, of the decoder. gmacs: billions of
    multiply-adds of one network call, half the FLOPs that a record counts. nfe: network calls,
    `250x2` where guidance makes two a step, a plus between stages. guidance, sampler: as stated.
    count: generated images. tool: what measured the metric; FIDs of different tools are not
    comparable.
source: where the number was read; url: arXiv identifier of the method. address, read: of the page
    where it was read, and the day. verified: "source" (the authors' own paper or repository) or
    "restated" (a table or notes of others).
What the source does not say is left empty.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.tables.layout import Column
from benchmarks.tables.select import where
from hierdiff.files.reading import read_text

FILE = Path(__file__).with_name("published.csv")
METRICS = {"FID": "low", "IS": "high"}  # which end is better
VERIFIED = ("source", "restated")
FORMS = {  # of fields that are text
    "parameters": re.compile(r"\d+(\.\d+)?(\+\d+(\.\d+)?)*"),
    "nfe": re.compile(r"\d+(x\d+)?(\+\d+(x\d+)?)*"),
    "url": re.compile(r"\d{4}\.\d{5}"),
    "address": re.compile(r"https://\S+"),
    "read": re.compile(r"\d{4}-\d\d-\d\d"),
}
COSTS = {"parameters": "params M", "gmacs": "GMACs/call", "nfe": "calls"}  # as columns
MARK = "†"
CHOSEN_BY = ("method", "dataset", "resolution", "metric")
Kind = tuple[str, str | None, int | None]  # data set, tool, number of images


@dataclass(frozen=True)
class Published:
    """One published number; fields as in the docstring of the module, None where not stated."""

    method: str
    dataset: str
    resolution: int
    metric: str
    value: float
    parameters: str | None
    gmacs: float | None
    nfe: str | None
    guidance: str | None
    sampler: str | None
    count: int | None
    tool: str | None
    source: str
    url: str
    address: str | None
    read: str | None
    verified: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is unknown: one of {', '.join(METRICS)}")
        if self.verified not in VERIFIED:
            raise ValueError(f"verified is {self.verified!r}: say one of {', '.join(VERIFIED)}")
        for name, form in FORMS.items():
            text = getattr(self, name)
            if text is not None and not form.fullmatch(text):
                raise ValueError(f"{name} {text!r} does not have the form {form.pattern}")
        positive = (self.resolution, self.value, self.gmacs, self.count)
        if any(number is not None and not 0 < number < float("inf") for number in positive):
            raise ValueError("resolution, value, gmacs and count are finite and above 0")


def read_rows(path: str | Path = FILE) -> list[Published]:
    """The lines of a file, checked.

    Raises:
        ValueError: for the first wrong line, with its number and the reason.
    """
    names = [f.name for f in fields(Published)]
    lines = csv.DictReader(io.StringIO(read_text(Path(path))))
    if lines.fieldnames != names:
        raise ValueError(f"{path} has columns {lines.fieldnames}: they are {names}")
    rows: dict[tuple[str, ...], Published] = {}
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise ValueError(f"{path}, line {number}: it has other columns than the first line")
        place = tuple(line[name] for name in CHOSEN_BY)
        if place in rows:
            raise ValueError(f"{path}, line {number}: {', '.join(place)} is there already")
        try:
            rows[place] = _published(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return list(rows.values())


def _published(line: dict[str, str]) -> Published:
    for name in ("method", "dataset", "resolution", "value", "source", "url", "verified"):
        if not line[name].strip():
            raise ValueError(f"{name} is empty: a published number says what it is and from where")
    numbers = {"resolution": int, "count": int, "value": float, "gmacs": float}
    known: dict[str, Any] = {k: numbers.get(k, str)(v) if v else None for k, v in line.items()}
    return Published(**known)


def select_rows(rows: Iterable[Published], conditions: Sequence[str]) -> list[Published]:
    """The rows for which every condition `field=value[,value]` holds.

    Raises:
        ValueError: for a condition of another form or field, or where no row is left.
    """
    selected = where(rows, conditions, CHOSEN_BY, "--published")
    if not selected:
        raise ValueError(f"no published number has {' and '.join(conditions)}: see {FILE.name}")
    return selected


def chosen_rows(conditions: Sequence[str] | None) -> list[Published]:
    """The rows that the option `--published` chooses; None: the option is absent."""
    return [] if conditions is None else select_rows(read_rows(), conditions)


def kinds(rows: Iterable[Published]) -> dict[Kind, str]:
    """A mark for each data set, tool and count: FIDs of two marks are not comparable."""
    distinct = list(dict.fromkeys((row.dataset, row.tool, row.count) for row in rows))
    numbers = range(1, len(distinct) + 1) if len(distinct) > 1 else [""]
    return {kind: f"{MARK}{i}" for kind, i in zip(distinct, numbers, strict=False)}


def row_labels(rows: Sequence[Published]) -> dict[Published, str]:
    """The label of the row of each number: a method on a data set, with its marks."""
    mark = kinds(rows)
    own: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        marks = own.setdefault((row.method, row.dataset), {})
        marks[mark[row.dataset, row.tool, row.count]] = None
    return {row: f"{row.method} {''.join(own[row.method, row.dataset])}" for row in rows}


def columns(rows: Sequence[Published], quality: bool, cost: bool) -> dict[Column, dict[str, Any]]:
    """The columns of published numbers, finest resolution first, by the labels of the rows."""
    label = row_labels(rows)
    filled: dict[Column, dict[str, Any]] = {}
    for side in sorted({row.resolution for row in rows}, reverse=True):
        own = [row for row in rows if row.resolution == side]
        for metric, better in METRICS.items() if quality else ():
            column = Column(f"{side} px", f"published {metric}", better)
            filled[column] = {label[row]: row.value for row in own if row.metric == metric}
        for name, title in COSTS.items() if cost else ():
            column = Column(f"{side} px", f"published {title}")
            known = [(label[row], getattr(row, name)) for row in own]
            filled[column] = {row: value for row, value in known if value is not None}
    return {column: cells for column, cells in filled.items() if cells}


def _recipe(row: Published) -> str:
    """How a method was sampled, "" where nothing is stated."""
    stated = (row.guidance and f"guidance {row.guidance}", row.sampler)
    known = ", ".join(filter(None, stated))
    return known and f"{row.method} at {row.resolution} px {known}"


def source_notes(rows: Sequence[Published]) -> Iterator[str]:
    """Notes on the marks, the publications, the stated recipes, and the numbers that were read
    second-hand."""
    for (dataset, tool, count), mark in kinds(rows).items():
        origin = f"by {tool}" if tool else "by a tool not stated"
        images = f"{count} images" if count else "a number of images not stated"
        yield f"{mark} published, not measured here: {dataset}, {origin}, {images}"
    sources = dict.fromkeys(f"{row.method} {row.url}" for row in rows)
    if sources:
        yield f"published in arXiv: {', '.join(sources)}"
    recipes = dict.fromkeys(filter(None, map(_recipe, rows)))
    if recipes:
        yield f"recipes as stated: {'; '.join(recipes)}"
    restated = dict.fromkeys(f"{r.method} ({r.metric})" for r in rows if r.verified != "source")
    if restated:
        yield f"read in tables or notes of others, not at the source: {', '.join(restated)}"
