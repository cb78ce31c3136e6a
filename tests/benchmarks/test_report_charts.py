"""Charts of the report: the front, the scales, and what is drawn where."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from importlib import resources
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report.charts import (
    COLOURS,
    LINE,
    Axis,
    AxisScale,
    Line,
    Point,
    compact,
    front,
    lines,
    scatter,
    spaced,
)

SPEED, DISTANCE = Axis("images/s", "high"), Axis("distance", "low")
numbers = st.floats(0.01, 1e6)
points = st.lists(
    st.builds(Point, st.text("abc", min_size=1), numbers, numbers, st.just(0)),
    min_size=1,
    max_size=12,
)
sides = st.sampled_from(("low", "high"))


def point(label: str, x: float, y: float, look: int = 0) -> Point:
    return Point(label, x, y, look)


def texts(svg: str) -> dict[str, tuple[float, float]]:
    """Where each text stands."""
    found = ElementTree.fromstring(svg).iter("text")
    return {str(t.text): (float(t.attrib["x"]), float(t.attrib["y"])) for t in found}


def marks(svg: str) -> list[tuple[float, float]]:
    """Centres of circles, in the order of drawing; looks of 0 alone are circles."""
    found = re.findall(r'class="mark[^"]*" d="M(\S+) (\S+)a5 5', svg)
    return [(float(x) + 5, float(y)) for x, y in found]


# ---------------------------------------------------------------- the front


def test_the_front_of_a_known_set():
    a, b, c, d = point("a", 1, 10), point("b", 5, 20), point("c", 4, 30), point("d", 9, 40)
    assert front([d, c, b, a], SPEED, DISTANCE) == [a, b, d]  # c is slower and worse than b
    assert front([a, b, c, d], Axis("memory", "low"), DISTANCE) == [a]
    assert front([a, b, c, d], SPEED, Axis("precision", "high")) == [d]


@given(points, sides, sides)
def test_no_point_beats_one_of_the_front_and_one_beats_each_other(found, x_side, y_side):
    x, y = Axis("x", x_side), Axis("y", y_side)
    sign = {"low": 1, "high": -1}
    best = front(found, x, y)

    def losses(p: Point) -> tuple[float, float]:
        return sign[x_side] * p.x, sign[y_side] * p.y

    for p in found:
        beaten = any(
            losses(q) != losses(p)
            and all(a <= b for a, b in zip(losses(q), losses(p), strict=True))
            for q in best
        )
        assert (p in best) != beaten


@pytest.mark.parametrize(("x", "corner"), [("high", 0), ("low", 1)])
def test_the_edge_of_the_front_turns_where_nothing_better_is_known(x: str, corner: int):
    """Faster than the best costs quality at once; less memory than the next costs it."""
    good = point("good", 1, 10), point("cheap", 9, 40)
    if x == "low":
        good = point("cheap", 1, 40), point("good", 9, 10)
    svg = scatter(good, Axis("x", x), DISTANCE)
    found = re.search(r'class="front" d="M(\S+) (\S+?)([VH])', svg)
    assert found is not None
    assert found[3] == "VH"[corner]


# ---------------------------------------------------------------- scales


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_a_scale_keeps_values_within_and_in_order(values):
    scale = AxisScale.over(values, 10, 90)
    placed = [scale(value) for value in sorted(values)]
    assert placed == sorted(placed)
    assert 10 <= placed[0] <= placed[-1] <= 90


@given(st.lists(st.floats(1e-3, 1e15), min_size=1, max_size=9))
def test_ticks_are_few_ordered_and_within(values):
    scale = AxisScale.over(values, 0, 1)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(scale.low <= tick <= scale.high * (1 + 1e-9) for tick in ticks)


def test_a_wide_range_has_a_logarithmic_scale_and_a_narrow_one_has_not():
    assert AxisScale.over([1, 100], 0, 1)(10) == pytest.approx(0.5)
    narrow = AxisScale.over([10, 20], 0, 1)
    assert narrow(15) == pytest.approx(0.5)
    assert not narrow.log
    assert not AxisScale.over([-1, 100], 0, 1).log


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.34567, "12.35"), (9999, "9999"), (10_000, "10k"), (1.5e6, "1.5M")]
    + [
        (7.5e10, "75G"),
        (4.032e16, "40.32P"),
        (-2e4, "-20k"),
        (0.00012, "0.00012"),
        (1e30, "1e+30"),
    ],
)
def test_long_numbers_are_told_by_powers_of_a_thousand(value: float, text: str):
    assert compact(value) == text


@given(st.lists(st.floats(20, 200), min_size=1, max_size=12))
def test_names_at_the_ends_of_lines_keep_apart_and_in_order(wanted):
    placed = spaced(wanted, 20, 200)
    ordered = [place for _, place in sorted(zip(wanted, placed, strict=True))]
    assert all(b - a >= LINE - 1e-9 for a, b in itertools.pairwise(sorted(placed)))
    assert ordered == sorted(ordered)
    assert min(placed) >= 20 - 1e-9
    assert max(placed) <= 200


def test_names_with_room_stand_where_their_lines_end():
    assert spaced([50, 150, 100], 20, 200) == [50, 150, 100]


# ---------------------------------------------------------------- drawings


def test_points_stand_where_their_numbers_say():
    svg = scatter([point("a", 1, 10), point("b", 10, 20), point("c", 100, 15)], SPEED, DISTANCE)
    (ax, ay), (bx, by), (cx, cy) = marks(svg)
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)  # by powers of ten
    assert by < cy < ay  # a larger distance stands higher
    assert cy - by == pytest.approx(ay - cy, abs=0.2)


def test_what_is_beaten_is_hollow():
    svg = scatter([point("good", 2, 10), point("bad", 1, 20)], SPEED, DISTANCE)
    kinds = re.findall(r'class="(mark[^"]*?) c0".*?<title>(\w+)', svg)
    assert kinds == [("mark", "good"), ("mark hollow", "bad")]


def test_axes_tell_which_side_is_better():
    note = texts(scatter([point("a", 1, 2)], SPEED, DISTANCE))
    assert {"images/s → better", "distance ↓ better"} <= set(note)
    note = texts(scatter([point("a", 1, 2)], Axis("MiB", "low"), Axis("IS", "high")))
    assert {"better ← MiB", "IS ↑ better"} <= set(note)


def test_a_chart_says_in_words_what_it_shows():
    svg = scatter([point("a", 1, 10), point("b", 0.5, 20)], SPEED, DISTANCE)
    note = ElementTree.fromstring(svg).attrib
    assert note["role"] == "img"
    assert note["aria-label"] == (
        "distance (lower is better) against images/s (higher is better). "
        "a 10 at 1; b 20 at 0.5. On the Pareto front: a."
    )
    svg = lines([Line("a", [(20, 5.0), (10, 9.0)], 0, note="half-life 100")], SPEED, DISTANCE)
    assert "a half-life 100 from 9 to 5" in ElementTree.fromstring(svg).attrib["aria-label"]


def test_names_of_near_points_do_not_cover_each_other():
    near = [point(f"method {i}", 10 + 0.2 * i, 50 + 0.3 * i) for i in range(5)]
    placed = [at for name, at in texts(scatter(near, SPEED, DISTANCE)).items() if "method" in name]
    assert len(placed) == 5
    for (ax, ay), (bx, by) in itertools.combinations(placed, 2):
        assert abs(ay - by) >= LINE - 1 or abs(ax - bx) >= 6 * len("method 0")


@pytest.mark.parametrize("draw", ["scatter", "lines"])
def test_any_name_gives_a_well_formed_drawing(draw: str):
    bad = "</text><script>alert(1)</script>\"&'"
    svg = (
        scatter([point(bad, 1, 2)], Axis(bad), Axis(bad, "low"), (bad, 2.0))
        if draw == "scatter"
        else lines([Line(bad, [(1, 2)], 0, note=bad)], Axis(bad), Axis(bad, "low"), (bad, 2.0))
    )
    assert not list(ElementTree.fromstring(svg).iter("script"))


def test_the_line_of_real_images_is_drawn_only_among_the_points():
    found = [point("a", 1, 10), point("b", 2, 20)]
    assert 'class="reference"' in scatter(found, SPEED, DISTANCE, ("real images", 15))
    assert 'class="reference"' not in scatter(found, SPEED, DISTANCE, ("real images", 1))


def test_lines_of_one_label_have_one_name_and_patterns_of_their_own():
    drawn = [Line("a", [(1, 5), (2, 4)], 0, dash) for dash in (0, 1)]
    svg = lines(drawn, SPEED, DISTANCE)
    assert svg.count(">a</text>") == 1
    assert len(re.findall(r'class="line c0" d=', svg)) == 1
    assert len(re.findall(r'class="line c0" stroke-dasharray="6 3"', svg)) == 1


# ---------------------------------------------------------------- colours

VISION = {  # of linear RGB at full severity: Machado, Oliveira, Fernandes 2009
    "ordinary": np.eye(3),
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
SRGB = np.array(  # linear RGB to XYZ, D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750]]
    + [[0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    v = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(SRGB @ np.clip(rgb, 1e-4, 1) / (0.95047, 1.0, 1.08883))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def themes() -> Iterator[tuple[str, list[str]]]:
    """Paper and colours, light and dark."""
    css = resources.files("benchmarks.report").joinpath("page.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        named = dict(re.findall(r"--(\w+): (#\w{6});", block))
        if "c0" in named:
            yield named["paper"], [named[f"c{i}"] for i in range(COLOURS)]


@pytest.mark.parametrize("kind", VISION)
@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stay_apart_for_colour_blind_eyes(kind: str, theme: int):
    _, colours = list(themes())[theme]
    seen = [lab(np.asarray(VISION[kind]) @ linear(colour)) for colour in colours]
    least = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert least >= 20  # a difference of 2 in CIELAB is just seen


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stand_out_from_the_paper(theme: int):
    paper, colours = list(themes())[theme]
    for colour in colours:
        low, high = sorted(float(SRGB[1] @ linear(c)) for c in (paper, colour))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 1.4.11


def test_tick_numbers_do_not_touch():
    svg = scatter([point("a", 1000, 2), point("b", 1999, 3)], Axis("MiB", "low"), DISTANCE)
    row = max(y for name, (_, y) in texts(svg).items() if name.isdigit())
    placed = sorted((x, n) for n, (x, y) in texts(svg).items() if y == row and n.isdigit())
    for (ax, a), (bx, b) in itertools.pairwise(placed):
        assert bx - ax > 6 * (len(a) + len(b)) / 2
    assert len(placed) >= 3
    assert not math.isnan(row)
