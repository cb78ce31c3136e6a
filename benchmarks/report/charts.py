"""Small charts as SVG: points with their Pareto front, and lines. Pure functions of numbers.

A chart is 400 units wide and fills its place on the page. Each row of a table has
a look (a number): it stands for a colour of the style sheet (class c0 ... c7) and for a shape, so
that a chart reads without colour. Names stand beside what they name, those of lines with their
mark; there is no legend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from benchmarks.tables.digits import is_spread, printed
from hierdiff.config import printable

WIDTH, HEIGHT = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 36, 48  # margins around the plot
LINE = 14  # height of a label
LETTER, WIDE, NARROW = 7.2, 11.5, 4.5  # widths of letters, about
COLOURS = 8
NAMED = 40  # points that have a name in a chart, those of the front first
DASHES = (("solid", ""), ("dashed", "6 3"), ("dotted", "2 3"), ("dash-dotted", "9 3 2 3"))
BETTER = {"low": "lower is better", "high": "higher is better", None: ""}


@dataclass(frozen=True)
class Axis:
    """A quantity with its unit, and which end of it is better ("low", "high" or None)."""

    label: str
    better: str | None = None


@dataclass(frozen=True)
class Point:
    """A row at (x, y); spread: standard deviation of y, None where it is unknown."""

    label: str
    x: float
    y: float
    look: int
    spread: float | None = None


@dataclass(frozen=True)
class Line:
    """A row along x. dash: index of a pattern; note: what tells apart lines that share a label."""

    label: str
    points: Sequence[tuple[float, float]]
    look: int
    dash: int = 0
    note: str = ""


def front(points: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    """The Pareto front by growing x: the points than which no other is better in one coordinate
    and at least as good in the other."""
    sign_x, sign_y = (-1 if axis.better == "high" else 1 for axis in (x, y))
    leading: list[Point] = []
    best: tuple[float, float] | None = None  # the last one of the front so far
    for point in sorted(points, key=lambda p: (sign_x * p.x, sign_y * p.y)):
        place = sign_x * point.x, sign_y * point.y
        if best is None or place[1] < best[1] or place == best:
            leading.append(point)
            best = place
    return sorted(leading, key=lambda point: (point.x, point.y, point.label))


# ---------------------------------------------------------------- scales


@dataclass(frozen=True)
class AxisScale:
    """Maps numbers in [low, high] to chart units in [start, end]; log: by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        pad: float = 0.08,
        *,
        linear: bool = False,
    ) -> AxisScale:
        """A scale over the values and a margin of `pad` of their range at each end; logarithmic
        where they are positive and span a factor of four, unless `linear`."""
        low, high = min(values), max(values)
        log = not linear and low > 1e-100 and high / low >= 4  # a quotient that is finite
        if log:
            room = pad * math.log(high / low)
            return cls(low * math.exp(-room), high * math.exp(room), start, end, log)
        room = pad * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - room, high + room, start, end, log)

    def __call__(self, value: float) -> float:
        """A number in chart units."""
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to seven round numbers in [low, high]."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for marks in ((1, 2, 5), (1, 3), (1,)):
                values = [m * 10.0**d for d in decades for m in marks]
                values = [value for value in values if self.low <= value <= self.high]
                if 3 <= len(values) <= 6:
                    return values
            if len(values) > 6:
                return values[:: math.ceil(len(values) / 6)]
        rough = (self.high - self.low) / 5
        step = 10.0 ** math.floor(math.log10(rough))
        step *= next(m for m in (1, 2, 5, 10) if m * step >= rough)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]


def compact(value: float) -> str:
    """Four significant digits at most, with k, M, G, T, P, E for powers of a thousand."""
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        power = math.floor(math.log10(abs(value)) / 3)
        if 1 <= power <= 6:
            return f"{value / 1000**power:.4g}{' kMGTPE'[power]}"
    return f"{value + 0:.4g}"


def escape_html(words: str) -> str:
    """Text for HTML and SVG, unprintable characters replaced."""
    return escape(printable(words))


def _value_text(point: Point) -> str:
    """The y of a point with its spread as in the tables, or alone where the spread is unknown."""
    known = is_spread(point.y, point.spread)
    return printed(point.y, point.spread) if known else compact(point.y)


def width(words: str) -> float:
    """An estimate of the width of words in chart units; the font is the reader's."""
    sizes = dict.fromkeys("mwMW%@", WIDE) | dict.fromkeys("fijlrtI.,:;'|()[]- ", NARROW)
    return sum(sizes.get(letter, LETTER) for letter in words)


# ---------------------------------------------------------------- charts


def scatter(
    points: Sequence[Point], x: Axis, y: Axis, real: tuple[str, float] | None = None
) -> str:
    """An SVG chart of points with their Pareto front, whose marks are filled and joined by steps.

    At most `NAMED` points have their names beside them, those of the front first; the others show
    theirs under the pointer. real: name and y of a horizontal line, drawn if y is within the axis.
    """
    ends = [p.y + side * (p.spread or 0) for p in points for side in (-1, 1)]
    across = AxisScale.over([p.x for p in points], LEFT + 8, WIDTH - RIGHT - 8)
    up = AxisScale.over(ends, HEIGHT - BOTTOM - 14, TOP + 8, linear=_bounded(y))
    best = front(points, x, y)
    leading = set(best)
    body = [*_frame(across, up, x, y), *_reference_line(real, up)]
    edge = _edge(best, across, up, x)
    if len(best) > 1:
        body.append(f'<path class="front" d="{_step_path(edge)}"/>')
    taken = [(across(p.x) - 6, up(p.y) - 6, across(p.x) + 6, up(p.y) + 6) for p in points]
    taken += [_around(a, b) for a, b in pairwise(edge)]
    if real is not None and _in_range(real, up):
        taken.append((LEFT, up(real[1]) - LINE, LEFT + 4 + width(real[0]), up(real[1])))
    for p in points:
        px, py = across(p.x), up(p.y)
        if p.spread is not None and is_spread(p.y, p.spread):
            top, foot = up(p.y + p.spread), up(p.y - p.spread)
            taken.append(_around((px, top), (px, foot)))
            body.append(
                f'<path class="line c{p.look % COLOURS}" d="M{px:.1f} {top:.1f}V{foot:.1f}"/>'
            )
        text = f"{p.label}: {_value_text(p)}"
        inside = f"<title>{escape_html(text)} at {escape_html(compact(p.x))}</title>"
        body.append(mark(p.look, px, py, hollow=p not in leading, inside=inside))
    ordered = sorted(points, key=lambda p: (p not in leading, p.x, p.label))
    names = [(_shortened(p.label, 24), across(p.x), up(p.y)) for p in ordered[:NAMED]]
    marks = [(across(p.x), up(p.y)) for p in points]
    for (name, _, _), (box, side) in zip(names, _placed(names, marks, taken), strict=True):
        at = {"start": box[0], "end": box[2], "middle": (box[0] + box[2]) / 2}[side]
        body.append(_text(at, box[3] - 3, name, "name", side))
    values = "; ".join(f"{p.label} {_value_text(p)} at {compact(p.x)}" for p in points)
    winners = ", ".join(p.label for p in best)
    return _svg(
        f"{_axis_text(y)} against {_axis_text(x)}. {values}. On the Pareto front: {winners}.", body
    )


def lines(curves: Sequence[Line], x: Axis, y: Axis, real: tuple[str, float] | None = None) -> str:
    """An SVG chart of lines; each label stands once, with its mark, at the mean height of the ends
    of its lines. real: name and y of a horizontal line, drawn if y is within the axis."""
    looks = {line.label: line.look for line in curves}
    labels = list(looks)
    names = [_shortened(label, 17) for label in labels]
    right = WIDTH - RIGHT - 10 - max(map(width, names))
    height = max(HEIGHT + 30, TOP + BOTTOM + LINE * len(labels))
    across = AxisScale.over(
        [px for line in curves for px, _ in line.points], LEFT, right - 12, 0.02
    )
    heights = [py for line in curves for _, py in line.points]
    up = AxisScale.over(heights, height - BOTTOM, TOP, linear=_bounded(y))
    body = [*_frame(across, up, x, y, right - 8), *_reference_line(real, up, right - 8)]
    ends: dict[str, list[float]] = {label: [] for label in labels}
    for line in curves:
        placed = [(across(px), up(py)) for px, py in sorted(line.points)]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in placed)
        pattern = DASHES[line.dash % len(DASHES)][1]
        dashed = f' stroke-dasharray="{pattern}"' if pattern else ""
        body.append(f'<path class="line c{line.look % COLOURS}"{dashed} d="M{path}"/>')
        marked = placed if line.look >= COLOURS else placed[-1:]  # tells lines of a colour apart
        body += [mark(line.look, *place, size=4) for place in marked]
        ends[line.label].append(placed[-1][1])
    targets = [sum(ends[label]) / len(ends[label]) for label in labels]
    places = spaced(targets, TOP, height - BOTTOM)
    for name, at, look in zip(names, places, looks.values(), strict=True):
        body += [mark(look, right + 2, at, size=4), _text(right + 10, at + 4, name, "name")]
    values = "; ".join(
        f"{' '.join(filter(None, (line.label, line.note)))} from "
        f"{compact(min(line.points)[1])} to {compact(max(line.points)[1])}"
        for line in curves
    )
    return _svg(f"{_axis_text(y)} over {x.label}. {values}.", body, height)


def spaced(targets: Sequence[float], low: float, high: float) -> list[float]:
    """The targets moved to be at least `LINE` apart and in [low, high]; their order stays."""
    order = sorted(range(len(targets)), key=targets.__getitem__)
    placed = [*targets]
    floor = low
    for i in order:
        placed[i] = floor = max(targets[i], floor)
        floor += LINE
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - LINE
    return placed


def mark(
    look: int, x: float, y: float, *, size: float = 5, hollow: bool = False, inside: str = ""
) -> str:
    """The shape and colour of a row, centred at (x, y)."""
    s = size
    shapes = (
        f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        f"M{x - 0.9 * s:.1f} {y - 0.9 * s:.1f}h{1.8 * s:.1f}v{1.8 * s:.1f}h{-1.8 * s:.1f}z",
        f"M{x:.1f} {y - 1.2 * s:.1f}l{1.15 * s:.1f} {2 * s:.1f}h{-2.3 * s:.1f}z",
        f"M{x:.1f} {y - 1.3 * s:.1f}l{1.3 * s:.1f} {1.3 * s:.1f}l{-1.3 * s:.1f} {1.3 * s:.1f}"
        f"l{-1.3 * s:.1f} {-1.3 * s:.1f}z",
        f"M{x:.1f} {y + 1.2 * s:.1f}l{1.15 * s:.1f} {-2 * s:.1f}h{-2.3 * s:.1f}z",
    )
    kind = "mark hollow" if hollow else "mark"
    shape = shapes[look % len(shapes)]
    return f'<path class="{kind} c{look % COLOURS}" d="{shape}">{inside}</path>'


def swatch(look: int) -> str:
    """The mark of a row, to stand beside its name."""
    return (
        f'<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true" focusable="false">'
        f"{mark(look, 7, 7)}</svg>"
    )


def chart_rules(style: str) -> str:
    """The style of a chart that stands alone: in that of the page, what is drawn in a chart, in the
    light colours (`:root`)."""
    colours = dict(re.findall(r"(--\w+): (#\w+);", style.partition("@media")[0]))
    rules = style.partition("/* what is drawn in a chart */")[2].partition("/* pictures */")[0]
    rules = re.sub(r"\.chart \.name {.*}\n", "", rules)  # a halo, beneath letters in browsers alone
    for name, colour in colours.items():
        rules = rules.replace(f"var({name})", colour)
    return rules + f"svg {{ font-family: sans-serif; background: {colours['--paper']}; }}"


def standalone(svg: str, rules: str) -> bytes:
    """A chart as a file of its own; rules: as of `chart_rules`."""
    root = '<svg xmlns="http://www.w3.org/2000/svg" '
    return svg.replace("<svg ", root, 1).replace("\n", f"\n<style>{rules}</style>\n", 1).encode()


# ---------------------------------------------------------------- parts of a chart


def _svg(description: str, body: Sequence[str], height: float = HEIGHT) -> str:
    inside = "\n".join(body)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape_html(description)}">\n{inside}\n</svg>'
    )


def _axis_text(axis: Axis) -> str:
    return axis.label + (f" ({BETTER[axis.better]})" if axis.better else "")


def _frame(
    across: AxisScale, up: AxisScale, x: Axis, y: Axis, right: float = WIDTH - RIGHT
) -> Iterator[str]:
    floor = max(up.start, HEIGHT - BOTTOM)
    for value in up.ticks():
        at = up(value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{right:.1f}"/>'
        yield _text(LEFT - 6, at + 4, compact(value), "tick", "end")
    yield f'<path class="axis" d="M{LEFT} {floor}H{right:.1f}"/>'
    last = -math.inf
    for value in across.ticks():
        at, name = across(value), compact(value)
        yield f'<path class="axis" d="M{at:.1f} {floor}v4"/>'
        if at - width(name) / 2 > last + 6:  # else its number would touch the one before
            yield _text(at, floor + 18, name, "tick", "middle")
            last = at + width(name) / 2
    yield _text(
        4, 14, y.label + {"low": " ↓ better", "high": " ↑ better"}.get(y.better or "", ""), "title"
    )
    title = {"low": f"better ← {x.label}", "high": f"{x.label} → better", None: x.label}[x.better]
    place = (LEFT, "start") if x.better == "low" else (right, "end")
    yield _text(place[0], floor + BOTTOM - 8, title, "title", place[1])


def _reference_line(
    real: tuple[str, float] | None, up: AxisScale, right: float = WIDTH - RIGHT
) -> Iterator[str]:
    if real is not None and _in_range(real, up):
        at = up(real[1])
        yield f'<path class="reference" d="M{LEFT} {at:.1f}H{right:.1f}"/>'
        yield _text(LEFT + 4, at - 4, real[0], "tick")


def _in_range(real: tuple[str, float], up: AxisScale) -> bool:
    return up.low <= real[1] <= up.high


def _bounded(y: Axis) -> bool:
    """Whether higher is better: most such metrics have a maximum of one, which a logarithmic axis
    would hide."""
    return y.better == "high"


XY = tuple[float, float]
Box = tuple[float, float, float, float]


def _edge(best: Sequence[Point], across: AxisScale, up: AxisScale, x: Axis) -> list[XY]:
    """Corners of the staircase through the front; no row lies beyond it."""
    places = [(across(p.x), up(p.y)) for p in best]
    corners = places[:1]
    for (ax, ay), (bx, by) in pairwise(places):
        corners += [(ax, by) if x.better == "high" else (bx, ay), (bx, by)]
    return corners


def _step_path(edge: Sequence[XY]) -> str:
    turns = (f"V{b[1]:.1f}" if a[0] == b[0] else f"H{b[0]:.1f}" for a, b in pairwise(edge))
    return f"M{edge[0][0]:.1f} {edge[0][1]:.1f}{''.join(turns)}"


def _around(a: XY, b: XY) -> Box:
    """The box around a vertical or horizontal line."""
    (left, right), (top, foot) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    return left - 1, top - 1, right + 1, foot + 1


def _placed(
    names: Sequence[tuple[str, float, float]], marks: Sequence[XY], taken: Sequence[Box]
) -> list[tuple[Box, str]]:
    """A box and its text anchor for each name of a point (x, y).

    Greedy: each name takes the candidate of least cost (`_penalties`), in three passes, so that
    the first ones are placed again when the boxes of the others are known.
    """
    count = len(names)
    boxes = np.zeros((len(taken) + count, 4))  # names that have no place yet: an empty box
    boxes[: len(taken)] = np.asarray(taken).reshape(-1, 4)
    all_marks = np.asarray(marks)
    candidates = [_around_point(width(name), x, y) for name, x, y in names]
    chosen: list[tuple[Box, str]] = []
    for _ in range(3):
        chosen = []
        for i, (own, (_, x, y)) in enumerate(zip(candidates, names, strict=True)):
            boxes[len(taken) + i] = 0
            others = all_marks[(all_marks != (x, y)).any(1)]
            best = int(
                np.argmin(_penalties(np.asarray([box for box, _ in own]), boxes, others, x, y))
            )
            boxes[len(taken) + i] = own[best][0]
            chosen.append(own[best])
    return chosen


def _around_point(w: float, x: float, y: float) -> list[tuple[Box, str]]:
    """Candidate boxes for a name of width w beside its point, each with its text anchor."""
    far = 9
    left = {"start": 0.0, "end": -w, "middle": -w / 2}
    places = [
        *((far, -LINE / 2, "start"), (-far, -LINE / 2, "end")),
        *((0, -far - LINE, "middle"), (0, far, "middle")),
        *((5, -far - LINE, "start"), (-5, -far - LINE, "end"), (5, far, "start"), (-5, far, "end")),
    ]
    places += [
        (a, b + n * LINE, side) for n in (-0.5, 0.5, -1, 1, -2, 2) for a, b, side in places[:2]
    ]
    return [
        ((x + a + left[side], y + b, x + a + left[side] + w, y + b + LINE), side)
        for a, b, side in places
    ]


def _penalties(
    places: np.ndarray, taken: np.ndarray, marks: np.ndarray, x: float, y: float
) -> np.ndarray:
    """The cost (p,) of each box (p, 4): the area shared with taken boxes and outside the chart, the
    distance from its own point, and 100 for each other mark that is nearer."""
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    covered = np.clip(high - low, 0.0, None).prod(2).cumsum(1)[:, -1]  # in order, so exactly
    own = _away(places, np.asarray([[x, y]]))[:, 0]
    nearer = (_away(places, marks) < own[:, None]).sum(1)
    outside = np.asarray([_outside(place) for place in places.tolist()])
    return covered + outside + own + 100 * nearer


def _away(places: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """(p, m) distances of marks from places, 0 within."""
    aside = np.clip(np.maximum(places[:, None, :2] - marks, marks - places[:, None, 2:]), 0, None)
    return np.hypot(aside[..., 0], aside[..., 1])


def _outside(box: Sequence[float]) -> float:
    over = max(0.0, LEFT - box[0]) + max(0.0, box[2] - WIDTH)
    return 100 * (over + max(0.0, TOP - 12 - box[1]) + max(0.0, box[3] - HEIGHT + BOTTOM))


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape_html(words)}</text>'


def _shortened(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
