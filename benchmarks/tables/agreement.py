"""Whether metrics agree on the order of the methods, and on the best of them.

Order: Kendall's tau-b of each metric with the first one, over the values of the methods at a level;
1 for the same order, -1 for the opposite one. Best: among the distances between whole distributions
(Fréchet, kernel, sliced), those whose spread is known have to share a best method, or one that is
not apart from it; else none of them is marked at that level. Metrics of one aspect (precision,
coverage, parts, a band of frequencies) may have a best of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables.best import Numbers
from benchmarks.tables.columns import levels_in, metrics_of, quality_columns, spread_of
from benchmarks.tables.layout import Column
from benchmarks.tables.mixing import same_identity
from hierdiff.metrics.quality import HIGH, Quality
from hierdiff.resolution import px
from hierdiff.results.record import Record

FEWEST = 3  # methods that have an order worth a number


@dataclass(frozen=True)
class Ranking:
    """The methods by one metric.

    values: the lower the better. best: the best method and those not apart from it; empty where a
    spread is unknown. whole: whether the metric compares whole distributions.
    """

    metric: str
    column: Column
    values: Mapping[str, float]
    best: frozenset[str]
    whole: bool


def rankings(rows: Mapping[str, Record]) -> dict[str, list[Ranking]]:
    """The rankings of every metric that says which end is better, by level and view ("32 px
    native"), in the order of the metrics.

    A metric that was not measured alike in all rows has none.
    """
    metrics = metrics_of(rows.values(), "all")
    found: dict[str, list[Ranking]] = {}
    for level in levels_in(rows.values()):
        for column, cells in quality_columns(px(level), rows, level, metrics).items():
            methods = {row: q for row, q in cells.items() if row in rows}
            if column.better is not None and len(methods) > 1 and _alike(column, methods):
                ranking = _ranking(column, methods)
                place = f"{column.group}{column.what.removeprefix(ranking.metric)}"
                found.setdefault(place, []).append(ranking)
    return found


def unmarked(places: Mapping[str, Sequence[Ranking]]) -> list[Column]:
    """The columns of distances that have no best method in common."""
    return [r.column for own in places.values() if disagree(own) for r in _voters(own)]


def disagree(own: Sequence[Ranking]) -> bool:
    """Whether the distances of a level have no best method in common."""
    voters = _voters(own)
    return bool(voters) and not frozenset.intersection(*(r.best for r in voters))


def tau(one: Ranking, other: Ranking) -> float | None:
    """Kendall's tau-b of two metrics over the methods that have both, in [-1, 1].

    None for fewer than `FEWEST` methods, or where one gives all the same value.
    """
    both = [row for row in one.values if row in other.values]
    if len(both) < FEWEST:
        return None
    return tau_b(*([r.values[row] for row in both] for r in (one, other)))


def tau_b(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b, pairs in the same order minus pairs in the other, over the geometric mean of
    the pairs that are not tied in x and in y; None where one of them is constant."""
    import numpy as np

    in_order = in_x = in_y = 0
    a, b = np.asarray(x), np.asarray(y)
    for i in range(len(a) - 1):  # a row of the matrix of pairs at a time
        dx, dy = np.sign(a[i + 1 :] - a[i]), np.sign(b[i + 1 :] - b[i])
        in_order += int(dx @ dy)
        in_x, in_y = in_x + int(abs(dx).sum()), in_y + int(abs(dy).sum())
    return in_order / (in_x * in_y) ** 0.5 if in_x and in_y else None


def agreement_notes(places: Mapping[str, Sequence[Ranking]]) -> Iterator[str]:
    """A line for each level and view: the agreement of each metric with the first, and who is best
    by which distance where they disagree."""
    for place, (first, *others) in places.items():
        known = [
            (other.metric, value) for other in others if (value := tau(first, other)) is not None
        ]
        if known:
            listed = ", ".join(f"{metric} {value:.2f}" for metric, value in known)
            yield (
                f"{place}, rank agreement with {first.metric} over {len(first.values)} methods "
                f"(Kendall's tau): {listed}"
            )
        own = places[place]
        if disagree(own):
            by: dict[frozenset[str], list[str]] = {}
            for ranking in _voters(own):
                by.setdefault(ranking.best, []).append(ranking.metric)
            votes = (f"{' or '.join(sorted(best))} by {', '.join(m)}" for best, m in by.items())
            said = "no distance is bold, since they disagree on the best"
            yield f"{place}: {said}: {'; '.join(votes)}"


def _voters(own: Sequence[Ranking]) -> list[Ranking]:
    return [ranking for ranking in own if ranking.whole and ranking.best]


def _alike(column: Column, methods: Mapping[str, Quality]) -> bool:
    try:
        same_identity(column.heading, methods)
    except ValueError:
        return False
    return True


def _ranking(column: Column, methods: Mapping[str, Quality]) -> Ranking:
    values = {row: q.value for row, q in methods.items() if q.value is not None}
    spread = {row: known for row, q in methods.items() if (known := spread_of(q)) is not None}
    sign = -1 if column.better == HIGH else 1
    numbers = Numbers(column, values, spread, spread)
    ranked = sorted(values, key=lambda row: sign * values[row])
    any_row = next(iter(methods.values()))
    return Ranking(
        any_row.metric,
        column,
        {row: sign * value for row, value in values.items()},
        frozenset(numbers.level(ranked) if numbers.comparable() else ()),
        any_row.whole,
    )
