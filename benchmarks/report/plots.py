"""The charts of a page: quality against cost, and learning curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.report.charts import DASHES, Axis, Line, Point, compact, lines, scatter
from benchmarks.report.parts import Charts, Entry, number
from benchmarks.tables.scale import SCALE
from hierdiff.levels import Name, finest_first, order_of, px, resolution_of
from hierdiff.results.rows import Row, better, level_of

COSTS = (  # key of a cost row, axis, factor to its unit
    ("sample_images_per_s", Axis("sampled images/s", "high"), 1.0),
    ("sample_memory_mib", Axis("sampling memory, MiB", "low"), 1.0),
    ("flops_per_image", Axis("GFLOPs per image", "low"), 1e-9),
)
SPENT = (  # key of a curve's row, its name, label of the axis
    ("images", "images", "training images"),
    ("flops", "FLOPs", "training FLOPs"),
    ("seconds", "time", "training time"),
)
UNITS = (("h", 3600), ("min", 60), ("s", 1))
Asked = tuple[Name, str, str]  # level, view, metric
Measured = tuple[Name, str, str, str]  # and identity


def trade(entries: Sequence[Entry]) -> Iterator[Charts]:
    """Quality against each cost, for every level, view and metric; finest first.

    A method's own level costs what the trajectory does that makes it; a final image that is pooled
    costs what the final image of that method does. Metrics of which neither side is better have no
    front, and one that a single row of several has is no comparison.
    """
    finest = _finest_of(entries)
    asked = dict.fromkeys(
        _asked(q, finest) for e in entries for q in e.record.quality if better(q) is not None
    )
    for side, view, metric in sorted(asked, key=lambda key: order_of(key[0])):
        found = [(e, q) for e in entries if (q := _quality(e, (side, view, metric), finest))]
        if len(found) == 1 < sum(bool(e.record.quality) for e in entries):
            continue
        drawn = []
        for key, axis, factor in COSTS:
            points = [
                Point(e.label, cost * factor, q["value"], e.look, number(q.get("spread")))
                for e, q in found
                if (cost := _cost(e, side if view == "native" else _finest(e), key)) is not None
            ]
            if points:
                quality = Axis(f"{metric} at {px(side)}", better(found[0][1]))
                real = _real(entries, side, metric, found[0][1]["identity"])
                drawn.append((axis.label, scatter(points, axis, quality, real)))
        if drawn:
            yield Charts(_name(side, view, metric, finest), drawn)


def _finest_of(entries: Sequence[Entry]) -> Name:
    """Of all rows."""
    return next(iter(finest_first(level for e in entries for level in e.record.levels)), 0)


def _name(side: Name, view: str, metric: str, finest: Name) -> str:
    return f"{metric} at {px(side)}{'' if (side, view) == (finest, 'native') else f', {view}'}"


def _asked(q: Row, finest: Name) -> Asked:
    """At the finest level both views are the same image."""
    side = level_of(q)
    return side, "native" if side == finest else q["view"], q["metric"]


def _quality(entry: Entry, asked: Asked, finest: Name) -> Row | None:
    rows = [q for q in entry.record.quality if number(q["value"]) is not None]
    return next((q for q in rows if _asked(q, finest) == asked), None)


def _finest(entry: Entry) -> Name:
    return entry.record.levels[0]


def _cost(entry: Entry, side: Name, key: str) -> float | None:
    """Of what makes the images of a level."""
    rows = [c for c in entry.record.cost if (level_of(c), c.get("part")) == (side, None)]
    found = (number(c.get(key)) for c in rows)
    return next((value for value in found if value is not None), None)


def _real(
    entries: Sequence[Entry], side: Name, metric: str, identity: Any
) -> tuple[str, float] | None:
    """What real images reach, measured alike."""
    for entry in entries:
        for q in entry.record.scale.get("real", ()):
            value = number(q["value"])
            if (level_of(q), q["metric"], q["identity"]) == (resolution_of(side), metric, identity):
                return (SCALE["real"], value) if value is not None else None
    return None


def curves(entries: Sequence[Entry]) -> Iterator[Charts]:
    """For every level, view, metric and identity its course over what was spent; first what
    most rows share, metrics as in the tables. Losses of different methods are different quantities,
    told by their rows."""
    finest = _finest_of(entries)
    rows = [row for entry in entries for row in entry.record.curves]
    shared: dict[Measured, dict[str, tuple[Entry, list[Row]]]] = {}  # by label of who has it
    for entry in entries:
        for row in entry.record.curves:
            have = shared.setdefault(_measured(row), {})
            have.setdefault(entry.label, (entry, []))[1].append(row)
    identities = Counter(key[:3] for key in shared)
    halves = sorted({half for row in rows if (half := number(row.get("half_life"))) is not None})
    sides = {  # of a curve's metric, told by the quality rows of the same one
        q["metric"]: better(q) for entry in entries for q in entry.record.quality
    }
    order = [*sides]
    ranked = sorted(shared, key=lambda key: order.index(key[2]) if key[2] in order else len(order))
    for key in sorted(ranked, key=lambda key: (order_of(key[0]), -len(shared[key]))):
        side, view, metric, identity = key
        axis = Axis(f"{metric} at {px(side)}", sides.get(metric, better({"metric": metric})))
        real = _real(entries, side, metric, identity)
        drawn = []
        for spent, name, label in SPENT:
            found, unit = list(_lines(shared[key].values(), spent, halves)), ""
            if spent == "seconds":
                found, unit = _in_hours(found)
            if found:
                drawn.append((name, lines(found, Axis(label + unit), axis, real)))
        if drawn:
            more = f", of {', '.join(shared[key])}" if identities[key[:3]] > 1 else ""
            own = [row for _, of_entry in shared[key].values() for row in of_entry]
            told = " ".join(filter(None, (_counts(own), _patterns(halves))))
            yield Charts(_name(side, view, metric, finest) + more, drawn, told)


def _counts(rows: Sequence[Row]) -> str:
    """How many images a point is of, which may be fewer than in the tables."""
    told = []
    for n, against, floor in dict.fromkeys(
        tuple(number(row.get(key)) for key in ("n", "n_reference", "floor")) for row in rows
    ):
        if n is not None:
            more = f" against {against:.0f}" if against is not None else ""
            noise = f" (noise floor {compact(floor)})" if floor is not None else ""
            told.append(f"{n:.0f} images{more}{noise}")
    return f"Each point is of {' or '.join(told)}." if told else ""


def _patterns(halves: Sequence[float]) -> str:
    """What the patterns of the lines stand for."""
    if len(halves) < 2:
        return ""
    told = [f"{DASHES[i % len(DASHES)][0]} {compact(half)}" for i, half in enumerate(halves)]
    return f"Half-life of the averaged weights, in images: {', '.join(told)}."


def _measured(row: Row) -> Measured:
    return level_of(row), str(row["view"]), str(row["metric"]), str(row.get("identity"))


def _lines(
    found: Iterable[tuple[Entry, Sequence[Row]]], spent: str, halves: Sequence[float]
) -> Iterator[Line]:
    """A line for each entry, and for each half-life of its average where there are several.

    found: entries with their rows of one curve.
    """
    for entry, rows in found:
        own = dict.fromkeys(number(row.get("half_life")) for row in rows)
        for half in own:
            points = [
                (x, value)
                for row in rows
                if number(row.get("half_life")) == half
                and (x := number(row.get(spent))) is not None
                and (value := number(row.get("value"))) is not None
            ]
            if points:
                told = f"half-life {compact(half)}" if half is not None and len(own) > 1 else ""
                dash = halves.index(half) if half is not None else 0
                yield Line(entry.label, points, entry.look, dash, told)


def _in_hours(found: Sequence[Line]) -> tuple[list[Line], str]:
    """Lines over seconds, over the largest unit of which the longest has two."""
    longest = max((x for line in found for x, _ in line.points), default=0)
    unit, size = next((u for u in UNITS if longest >= 2 * u[1]), UNITS[-1])
    scaled = [replace(one, points=[(x / size, y) for x, y in one.points]) for one in found]
    return scaled, f", {unit}"
