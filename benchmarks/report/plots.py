"""The charts of a page: quality against cost, and learning curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.report.charts import DASHES, Axis, Line, Point, compact, lines, scatter
from benchmarks.report.parts import Chart, Charts, LabelledRecord, finite_number, mapping
from benchmarks.tables.captions import PRETRAINED
from benchmarks.tables.differences import differences
from benchmarks.tables.scale import SCALE
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import Candidate, CurvePoint, Quality
from hierdiff.resolution import Name, finest_first, level_of, order_of, px, resolution_of

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
OPTIONS = (("guidance", "guidance"), ("steps", "sampler steps"), ("half_life", "half-life, images"))
REAL = "real images"
UNITS = (("h", 3600), ("min", 60), ("s", 1))
MetricView = tuple[Name, str, str]  # level, view, metric
CurveKey = tuple[Name, str, str, Identity]


def trade_charts(entries: Sequence[LabelledRecord]) -> Iterator[Charts]:
    """Charts of quality against each cost, for every level, view and metric; finest first.

    A native image of a level costs what the trajectory that ends at this level costs; a final image
    that is pooled costs as much as the final image. A metric of which neither end is better has no
    Pareto front and no chart, nor has one that a single row of several has.
    """
    finest = _finest_of(entries)
    views = dict.fromkeys(
        _metric_view(q, finest) for e in entries for q in e.record.quality if q.better is not None
    )
    for side, view, metric in sorted(views, key=lambda key: order_of(key[0])):
        pairs = [(e, q) for e in entries if (q := _quality(e, (side, view, metric), finest))]
        if len(pairs) == 1 < sum(bool(e.record.quality) for e in entries):
            continue
        images = []
        for key, axis, factor in COSTS:
            points = [
                Point(e.label, cost * factor, q.value, e.look, q.spread)
                for e, q in pairs
                if q.value is not None
                and (cost := _cost(e, side if view == "native" else _finest(e), key)) is not None
            ]
            if points:
                quality = Axis(_name(side, view, metric, finest), pairs[0][1].better)
                real = _real(entries, side, metric, pairs[0][1].identity)
                images.append(Chart(axis.label, scatter(points, axis, quality, real)))
        if images:
            yield Charts(_name(side, view, metric, finest), images)


def _finest_of(entries: Sequence[LabelledRecord]) -> Name:
    return next(iter(finest_first(level for e in entries for level in e.record.levels)), 0)


def _name(side: Name, view: str, metric: str, finest: Name) -> str:
    return f"{metric} at {px(side)}{'' if (side, view) == (finest, 'native') else f', {view}'}"


def _metric_view(q: Quality, finest: Name) -> MetricView:
    """The key of a chart; at the finest level both views are the same image."""
    return q.level, "native" if q.level == finest else q.view, q.metric


def _quality(entry: LabelledRecord, key: MetricView, finest: Name) -> Quality | None:
    rows = [q for q in entry.record.quality if q.value is not None]
    return next((q for q in rows if _metric_view(q, finest) == key), None)


def _finest(entry: LabelledRecord) -> Name:
    return entry.record.levels[0]


def _cost(entry: LabelledRecord, side: Name, key: str) -> float | None:
    """A cost of the trajectory that makes the images of a level."""
    rows = [c for c in entry.record.cost if (c.level, c.part) == (side, None)]
    values = (finite_number(getattr(c, key)) for c in rows)
    return next((value for value in values if value is not None), None)


def _real(
    entries: Sequence[LabelledRecord], side: Name, metric: str, identity: Identity
) -> tuple[str, float] | None:
    """The name and the value of real images under the same metric."""
    for entry in entries:
        for q in entry.record.scale.get("real", ()):
            here = (q.level, q.metric) == (resolution_of(side), metric)
            if here and q.identity.fits(identity):
                return (SCALE["real"], q.value) if q.value is not None else None
    return None


def curve_charts(entries: Sequence[LabelledRecord]) -> Iterator[Charts]:
    """Learning curves for every level, view, metric and identity, over images, FLOPs and time.

    Finest level first, then what most rows share, then metrics in the order of the tables. Losses
    of different methods are different quantities and have charts of their own.
    """
    finest = _finest_of(entries)
    rows = [row for entry in entries for row in entry.record.curves]
    shared: dict[CurveKey, dict[str, tuple[LabelledRecord, list[CurvePoint]]]] = {}  # rows by label
    for entry in entries:
        for row in entry.record.curves:
            have = shared.setdefault(_curve_key(row), {})
            have.setdefault(entry.label, (entry, []))[1].append(row)
    identities = Counter(key[:3] for key in shared)
    halves = sorted({row.half_life for row in rows if row.half_life is not None})
    sides = {  # which end of a metric is better, from its quality rows
        q.metric: q.better for entry in entries for q in entry.record.quality
    }
    order = [*sides]
    ranked = sorted(shared, key=lambda key: order.index(key[2]) if key[2] in order else len(order))
    for key in sorted(ranked, key=lambda key: (order_of(key[0]), -len(shared[key]))):
        side, view, metric, identity = key
        own = [row for _, of_entry in shared[key].values() for row in of_entry]
        axis = Axis(_name(side, view, metric, finest), sides.get(metric, own[0].better))
        real = _real(entries, side, metric, identity)
        images = []
        for spent, name, label in SPENT:
            curves, unit = list(_curve_lines(shared[key].values(), spent, halves)), ""
            if spent == "seconds":
                curves, unit = _in_hours(curves)
            if curves:
                images.append(Chart(name, lines(curves, Axis(label + unit), axis, real)))
        if images:
            names = dict.fromkeys(entry.row for entry, _ in shared[key].values())
            more = f", of {', '.join(names)}" if identities[key[:3]] > 1 else ""
            note = " ".join(filter(None, (_counts_text(own), _patterns(halves))))
            yield Charts(_name(side, view, metric, finest) + more, images, note)


def selection_charts(entries: Sequence[LabelledRecord]) -> Iterator[Charts]:
    """The candidates of a selection along the first option that has several values, a line for
    every combination of the others, for each metric and identity."""
    found = [(entry, entry.record.selection) for entry in entries if entry.record.selection]
    keys = dict.fromkeys(_curve_key(row) for _, rows in found for row in rows)
    for side, view, metric, identity in keys:
        own = [(e, [r for r in rows if _curve_key(r) == (side, view, metric, identity)])
               for e, rows in found]  # fmt: skip
        points = [row for _, rows in own for row in rows]
        images = []
        for option, label in OPTIONS:
            curves = list(_selection_lines(own, option))
            if curves:
                axis = Axis(f"{metric} at {px(side)}", points[0].better)
                images.append(Chart(label, lines(curves, Axis(label), axis)))
        if images:
            chosen = "; ".join(
                f"{e.label} {r.options()}" for e, rows in own for r in rows if r.chosen
            )
            note = f"{_counts_text(points)} They are not those of the tables. Chosen: {chosen}."
            yield Charts(f"Selection by {_name(side, view, metric, side)}", images, note)


def steps_charts(entries: Sequence[LabelledRecord]) -> Iterator[Charts]:
    """The quality over the number of steps (`analysis=steps`), a line for each contrast of a row,
    for each metric; with what the training of the rows has cost."""
    shared: dict[tuple[Name, str], dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for entry in entries:
        for row, place in _analysed(entry, "steps", "steps"):
            curves = shared.setdefault((level_of(row), str(row.get("metric"))), {})
            curves.setdefault((entry.label, str(row.get("stage"))), []).append(place)
    looks = {entry.label: entry.look for entry in entries}
    spent = " ".join(text for e in entries if "steps" in e.record.analysis
                     for text in [_training_text(e)] if text)  # fmt: skip
    for (level, metric), curves in shared.items():
        drawn = [
            Line(label, sorted(points), looks[label], i % len(DASHES), name)
            for i, ((label, name), points) in enumerate(curves.items())
        ]
        name = f"{metric} at {px(level)}"
        image = lines(drawn, Axis("sampler steps"), Axis(name, "low"))
        yield Charts(f"{name} over steps", [Chart("steps", image)], spent)


def _analysed(
    entry: LabelledRecord, analysis: str, along: str
) -> Iterator[tuple[Mapping[str, Any], tuple[float, float]]]:
    """The rows of an analysis that have a place in a chart, with it: (row[along], value)."""
    for row in map(mapping, mapping(entry.record.analysis.get(analysis)).get("rows") or ()):
        x, y = finite_number(row.get(along)), finite_number(row.get("value"))
        if x is not None and y is not None and "resolution" in row:
            yield row, (x, y)


def spectrum_charts(entries: Sequence[LabelledRecord]) -> Iterator[Charts]:
    """The power over the frequency (`analysis=spectrum`) of the samples of each row, and of the
    real images of the first; a chart for each resolution."""
    shared: dict[Name, dict[tuple[str, int], list[tuple[float, float]]]] = {}
    real = (REAL, max((entry.look for entry in entries), default=0) + 1)
    for entry in entries:
        own: dict[tuple[Name, str], list[tuple[float, float]]] = {}
        for row, place in _analysed(entry, "spectrum", "frequency"):
            own.setdefault((level_of(row), str(row.get("source"))), []).append(place)
        for (level, source), points in own.items():
            curves = shared.setdefault(level, {})
            curves.setdefault(real if source == "real" else (entry.label, entry.look), points)
    for level, curves in shared.items():
        drawn = [Line(label, sorted(points), look) for (label, look), points in curves.items()]
        name = f"Power spectrum at {px(level)}"
        chart = lines(drawn, Axis("cycles per image"), Axis("power"))
        yield Charts(name, [Chart("spectrum", chart)])


def option_charts(entries: Sequence[LabelledRecord]) -> Iterator[Charts]:
    """The quality of the finest images, and what one costs, over the one option in which three or
    more rows of a method differ, where it is a number; a chart for each metric."""
    methods: dict[str, list[LabelledRecord]] = {}
    for entry in entries:
        if entry.record.quality:
            methods.setdefault(entry.record.method, []).append(entry)
    for method, own in methods.items():
        options = differences([entry.record for entry in own])
        name, key = next(iter(options.items()), ("", ""))
        values = [finite_number(entry.record.options.get(key)) for entry in own]
        if len(options) != 1 or None in values or len({*values}) < 3:
            continue
        found: dict[Axis, list[tuple[float, float]]] = {}
        for entry, x in zip(own, values, strict=True):
            finest = _finest(entry)
            rows: dict[Axis, float] = {}
            for q in entry.record.quality:
                if q.value is not None and _metric_view(q, finest)[:2] == (finest, "native"):
                    rows.setdefault(Axis(f"{q.metric} at {px(q.level)}", q.better), q.value)
            for cost, axis, factor in COSTS:
                value = _cost(entry, finest, cost)
                rows |= {axis: value * factor} if value is not None else {}
            for axis, y in rows.items():
                if x is not None:
                    found.setdefault(axis, []).append((x, y))
        images = [
            Chart(axis.label, lines([Line(method, sorted(points), own[0].look)], Axis(name), axis))
            for axis, points in found.items()
            if len(points) > 1
        ]
        if images:
            yield Charts(f"{method} over {name}", images)


def _training_text(entry: LabelledRecord) -> str:
    """What the training of a row has cost, and before it that of the runs it starts from."""
    training = mapping(entry.record.training)
    here = finite_number(mapping(training.get("spent")).get("flops"))
    before = [
        finite_number(mapping(mapping(one).get("spent")).get("flops"))
        for one in training.get("before") or ()
    ]
    known = [amount for amount in before if amount is not None]
    after = f", after {compact(sum(known))} of the runs that it starts from" if known else ""
    return f"{entry.label}: {compact(here)} training FLOPs{after}." if here is not None else ""


def _selection_lines(
    candidates: Iterable[tuple[LabelledRecord, Sequence[Candidate]]], option: str
) -> Iterator[Line]:
    """Lines along an option, none where it has a single value."""
    for entry, rows in candidates:
        rest: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            x = getattr(row, option)
            if isinstance(x, (int, float)) and row.value is not None:
                other = row.options(without=option)
                rest.setdefault(other, []).append((float(x), row.value))
        for dash, (other, points) in enumerate(rest.items()):
            if len(points) > 1:
                yield Line(entry.label, sorted(points), entry.look, dash % len(DASHES), other)


def _counts_text(rows: Sequence[Quality]) -> str:
    """The number of images behind each point, which may be fewer than in the tables."""
    counts = []
    for n, against, floor in dict.fromkeys((row.n, row.n_reference, row.floor) for row in rows):
        if n is not None:
            more = f" against {against}" if against is not None else ""
            noise = f" (noise floor {compact(floor)})" if floor is not None else ""
            counts.append(f"{n} images{more}{noise}")
    return f"Each point is of {' or '.join(counts)}." if counts else ""


def _patterns(halves: Sequence[float]) -> str:
    """The legend of the dash patterns."""
    if len(halves) < 2:
        return ""
    patterns = [f"{DASHES[i % len(DASHES)][0]} {compact(half)}" for i, half in enumerate(halves)]
    return f"Half-life of the averaged weights, in images: {', '.join(patterns)}."


def _curve_key(row: Quality) -> CurveKey:
    return row.level, row.view, row.metric, row.identity


def _curve_lines(
    curves: Iterable[tuple[LabelledRecord, Sequence[CurvePoint]]],
    spent: str,
    halves: Sequence[float],
) -> Iterator[Line]:
    """A line for each entry, and for each half-life of its average where there are several.

    curves: entries with their rows of one curve.
    """
    for entry, rows in curves:
        own = dict.fromkeys(row.half_life for row in rows)
        for half in own:
            points = [
                (x, row.value)
                for row in rows
                if row.half_life == half
                and row.value is not None
                and (x := getattr(row, spent)) is not None
            ]
            if points:
                mark = f" {PRETRAINED}"  # behind both
                row, label = entry.row.removesuffix(mark), entry.label.removesuffix(mark)
                note = [label.removeprefix(row).strip(" ()")]
                if half is not None and len(own) > 1:
                    note.append(f"half-life {compact(half)}")
                dash = halves.index(half) if half is not None else 0
                yield Line(entry.row, points, entry.look, dash, " ".join(filter(None, note)))


def _in_hours(curves: Sequence[Line]) -> tuple[list[Line], str]:
    """Lines over seconds in the largest unit of which the longest has at least two."""
    longest = max((x for line in curves for x, _ in line.points), default=0)
    unit, size = next((u for u in UNITS if longest >= 2 * u[1]), UNITS[-1])
    scaled = [replace(one, points=[(x / size, y) for x, y in one.points]) for one in curves]
    return scaled, f", {unit}"
