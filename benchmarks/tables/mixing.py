"""Unlike numbers never share a column: what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables.costs import COSTS
from benchmarks.tables.scale import SCALE
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import Quality
from hierdiff.resolution import px
from hierdiff.results.cost import Cost
from hierdiff.results.hardware import hardware
from hierdiff.results.record import Record

Heading = tuple[str, str]  # group and heading of a column, whatever the view


@dataclass(frozen=True)
class Condition:
    """What a number was measured under.

    what: the identity of a metric, or the hardware of a cost. n, against: numbers of images and of
    references. real: whether it is of real images, which may be fewer than the others, since there
    are no more of them (see `fewer_real`).
    """

    what: Identity | str
    n: int | None = None
    against: int | None = None
    real: bool = False

    @classmethod
    def of(cls, q: Quality, real: bool = False) -> Condition:
        """That of a quality row."""
        return cls(q.identity, q.n, q.n_reference, real)

    def __str__(self) -> str:
        if isinstance(self.what, str):
            return f"numbers from {self.what}"
        return f"{str(self.what)!r} of {self.n} against {self.against} images"

    @property
    def is_vague(self) -> bool:
        """Whether it does not say under the conditions of which rows images were made."""
        return not isinstance(self.what, str) and self.what.rows is None

    def fits(self, other: Condition) -> bool:
        """Whether numbers of both may share a column."""
        if isinstance(self.what, str) or isinstance(other.what, str):
            return self.what == other.what
        if (self.n, self.against) == (other.n, other.against) and self.what.fits(other.what):
            return True
        few, many = (self, other) if self.real else (other, self)
        assert not isinstance(few.what, str) and not isinstance(many.what, str)
        alike = few.what.apart_from_count().fits(many.what.apart_from_count())
        return few.real and alike and (few.n or 0) < (many.n or 0)


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

    Raises:
        ValueError: with both identities, and a row of each.
    """
    conditions = {row: Condition.of(q, row == SCALE["real"]) for row, q in found.items()}
    _one_condition(column, conditions, "measure one again under the other's protocol")


def same_hardware(column: str, rows: Mapping[str, Record], found: Mapping[str, Cost]) -> None:
    """Refuses a column of costs from several devices or precisions.

    Raises:
        ValueError: with both, and a row of each.
    """
    conditions = {row: Condition(hardware(rows[row], c)) for row, c in found.items()}
    _one_condition(column, conditions, "measure both on one device")


def _one_condition(column: str, found: Mapping[str, Condition], way_out: str) -> None:
    seen: dict[Condition, str] = {}
    # beside those that know their rows one that does not may stand, and fewer real images
    for row, one in sorted(found.items(), key=lambda item: (item[1].real, item[1].is_vague)):
        if not any(map(one.fits, seen)):
            seen[one] = row
    if len(seen) > 1:
        first, second = list(seen.items())[:2]
        raise ValueError(f"{_mixed(column, first, second)}: leave one out by --where, or {way_out}")


def _mixed(column: str, one: tuple[Condition, str], other: tuple[Condition, str]) -> str:
    sides = (f"{condition} ({name})" for condition, name in (one, other))
    return f"column {column!r} would mix {' with '.join(sides)}"


class Company:
    """The records that may share a table with each other, added one at a time.

    A record is compared by the conditions of its own columns alone, so that n records cost n times
    what one does. It is stricter than a table of two views, whose columns may differ: one metric at
    one resolution has one condition in both.
    """

    def __init__(self, records: Iterable[Record] = ()):
        # of each heading the conditions, and who has them first
        self.conditions: dict[Heading, dict[Condition, str]] = {}
        self.scale: dict[Heading, dict[Condition, str]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Takes a record in, whatever it says."""
        for heading, condition in column_conditions(record):
            self.conditions.setdefault(heading, {}).setdefault(condition, record.name)
        for heading, condition, row in scale_conditions(record):
            self.scale.setdefault(heading, {}).setdefault(condition, row)

    def check(self, record: Record) -> None:
        """Refuses a record that cannot share a table with these.

        Raises:
            ValueError: with the column and both conditions.
        """
        for heading, condition in column_conditions(record):
            known = self.conditions.get(heading, {}) | self.scale.get(heading, {})
            _check_fits(heading, known, (condition, record.name))
        for heading, condition, row in scale_conditions(record):
            _check_fits(heading, self.conditions.get(heading, {}), (condition, row))


def _check_fits(
    heading: Heading, known: Mapping[Condition, str], new: tuple[Condition, str]
) -> None:
    for one in known.items():
        if not new[0].fits(one[0]):
            raise ValueError(_mixed(" ".join(filter(None, heading)), one, new))


def column_conditions(record: Record) -> Iterator[tuple[Heading, Condition]]:
    """Under which conditions the numbers of a record may share a column, by where they stand."""
    for q in record.quality:
        if q.value is not None:
            yield (px(q.level), q.metric), Condition.of(q)
    for c in record.cost:
        if c.part is None:
            where, group = Condition(hardware(record, c)), px(c.level)
            for cost in COSTS:
                if cost.hardware and cost.value(c) is not None:
                    yield (group, cost.label), where
            if any(c.lists.values()):
                yield (group, "breakdown"), where


def scale_conditions(record: Record) -> Iterator[tuple[Heading, Condition, str]]:
    """Those of the rows of the scale, with the label of each."""
    for kind, row in SCALE.items():
        for q in record.scale.get(kind, ()):
            if q.value is not None:
                yield (px(q.level), q.metric), Condition.of(q, kind == "real"), row
