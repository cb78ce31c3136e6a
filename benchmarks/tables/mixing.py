"""Unlike numbers never share a column: what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.tables.costs import COSTS
from benchmarks.tables.scale import SCALE
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import Quality
from hierdiff.resolution import px
from hierdiff.results.cost import Cost
from hierdiff.results.hardware import hardware
from hierdiff.results.record import Record

Heading = tuple[str, str]  # group and heading of a column, whatever the view
Condition = tuple[Identity, int | None, int | None]  # and numbers of images and of references


def one_dataset(records: Sequence[Record]) -> str:
    """The data set of the records.

    Raises:
        ValueError: where they are of several data sets.
    """
    datasets = sorted({record.data for record in records})
    if len(datasets) > 1:
        raise ValueError(
            f"data sets {', '.join(datasets)} cannot share a table: choose one, "
            f"--where data={datasets[0]}"
        )
    return datasets[0]


def same_identity(column: str, found: Mapping[str, Quality]) -> None:
    """Refuses a column of several metric identities, numbers of images or of references.

    Real images may be fewer, since there are no more of them (see `fewer_real`).

    Raises:
        ValueError: with both identities, and a row of each.
    """
    seen: dict[Condition, str] = {}
    # those that know their rows first, beside whom one that does not may stand
    for row, q in sorted(found.items(), key=lambda one: one[1].identity.rows is None):
        condition = _condition(q)
        if row == SCALE["real"]:
            about = q.identity.apart_from_count()
            if any(_fewer(q, other, about) for other in found.values()):
                continue
        if condition not in seen and not any(_alike(condition, known) for known in seen):
            seen[condition] = row
    if len(seen) > 1:
        (first, row), (second, other) = list(seen.items())[:2]
        raise ValueError(
            f"column {column!r} would mix {_identity(first)} ({row}) with {_identity(second)} "
            f"({other}): leave one out by --where, or measure one again under the other's protocol"
        )


def _fewer(real: Quality, other: Quality, about: Identity) -> bool:
    """Is a row of real images one of less images than the other, and else like it?"""
    fewer = (real.n or 0) < (other.n or 0)
    return fewer and other.identity.apart_from_count().fits(about)


def _alike(one: Condition | str, other: Condition | str) -> bool:
    """Are two conditions the same, but for rows that one does not know?"""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one[0].fits(other[0]) and one[1:] == other[1:]


def _identity(condition: Condition) -> str:
    identity, n, n_reference = condition
    return f"{str(identity)!r} of {n} against {n_reference} images"


def same_hardware(column: str, rows: Mapping[str, Record], found: Mapping[str, Cost]) -> None:
    """Refuses a column of costs from several devices or precisions.

    Raises:
        ValueError: with both, and a row of each.
    """
    seen: dict[str, str] = {}
    for row, c in found.items():
        seen.setdefault(hardware(rows[row], c), row)
    if len(seen) > 1:
        (first, row), (second, other) = list(seen.items())[:2]
        raise ValueError(
            f"column {column!r} would mix numbers from {first} ({row}) with numbers from {second} "
            f"({other}): leave one out by --where, or measure both on one device"
        )


class Company:
    """The records that may share a table with each other, added one at a time.

    A record is compared by the conditions of its own columns alone, so that n records cost n times
    what one does. It is stricter than a table of two views, whose columns may differ: one metric at
    one resolution has one condition in both.
    """

    def __init__(self, records: Iterable[Record] = ()):
        self.conditions: dict[
            Heading, tuple[Condition | str, str]
        ] = {}  # and the name of who has it
        self.scale: dict[Heading, dict[Any, tuple[str, Quality]]] = {}  # kind and row, by condition
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Takes a record in, whatever it says."""
        for place, condition in column_conditions(record):
            known = self.conditions.setdefault(place, (condition, record.name))[0]
            if not isinstance(known, str) and known[0].rows is None:
                self.conditions[place] = condition, record.name  # which may know them
        for place, kind, row in _scale(record):
            self.scale.setdefault(place, {}).setdefault((kind, _condition(row)), (kind, row))

    def check(self, record: Record) -> None:
        """Refuses a record that cannot share a table with these.

        Raises:
            ValueError: with the column and both conditions.
        """
        for place, condition in column_conditions(record):
            known, name = self.conditions.get(place, (condition, ""))
            if not _alike(known, condition):
                raise ValueError(_mixed(place, known, name, condition, record.name))
            for kind, row in self.scale.get(place, {}).values():
                if not _beside(kind, row, condition):
                    raise ValueError(
                        _mixed(place, _condition(row), SCALE[kind], condition, record.name)
                    )
        for place, kind, row in _scale(record):
            if place in self.conditions and not _beside(kind, row, self.conditions[place][0]):
                known, name = self.conditions[place]
                raise ValueError(_mixed(place, known, name, _condition(row), SCALE[kind]))


def column_conditions(record: Record) -> Iterator[tuple[Heading, Condition | str]]:
    """Under which conditions the numbers of a record may share a column, by where they stand."""
    for q in record.quality:
        if q.value is not None:
            yield (px(q.level), q.metric), _condition(q)
    for c in record.cost:
        if c.part is None:
            where, group = hardware(record, c), px(c.level)
            for cost in COSTS:
                if cost.hardware and cost.value(c) is not None:
                    yield (group, cost.label), where
            if any(c.lists.values()):
                yield (group, "breakdown"), where


def _condition(q: Quality) -> Condition:
    return q.identity, q.n, q.n_reference


def _scale(record: Record) -> Iterator[tuple[Heading, str, Quality]]:
    for kind in SCALE:
        for q in record.scale.get(kind, ()):
            if q.value is not None:
                yield (px(q.level), q.metric), kind, q


def _beside(kind: str, row: Quality, condition: Condition | str) -> bool:
    """May a row of the scale stand in a column: measured alike, or real images that are fewer."""
    if isinstance(condition, str):  # hardware, of no metric
        return False
    identity, n, _ = condition
    return _alike(_condition(row), condition) or (
        kind == "real"
        and (row.n or 0) < (n or 0)
        and row.identity.apart_from_count().fits(identity.apart_from_count())
    )


def _mixed(
    place: Heading, known: Condition | str, name: str, condition: Condition | str, other: str
) -> str:
    sides = [one if isinstance(one, str) else _identity(one) for one in (known, condition)]
    column = " ".join(filter(None, place))
    return f"column {column!r} would mix {sides[0]} ({name}) with {sides[1]} ({other})"
