"""The page of finished runs: what it shows, what it survives, and how it behaves in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from benchmarks.report.__main__ import INDEX, MADE_BY, main, render, write_report
from benchmarks.report.charts import BOTTOM, HEIGHT, Axis, Line, Point, escape_html, lines, scatter
from benchmarks.report.content import page, slugs
from benchmarks.report.facts import duration_text, option_leaves
from benchmarks.report.parts import Figure, Gallery, LabelledRecord, Picture
from benchmarks.report.pictures import SHEETS, ReportFiles
from benchmarks.report.plots import trade_charts
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.table import tabulate
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import CurvePoint, Quality
from hierdiff.results.folders import paths, records
from hierdiff.results.record import Record
from tests.benchmarks.rows import cells as values_of
from tests.benchmarks.rows import cost, identity, point, quality, record

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
PICTURES = (*(sheet.file for sheet in SHEETS), "real.png")


def put(folder: Path, made: Record, pictures: tuple[str, ...] = PICTURES) -> Record:
    """The record and pictures of a run, each picture in a colour of its own."""
    made.write(folder)
    for name in pictures:
        shade = hashlib.sha256(name.encode() + folder.name.encode()).digest()[:3]
        if name == "real.png":
            shade = b"\x10\x20\x30"
        wide = (160, 40) if name in ("samples.png", "film.png") else (90, 60)
        Image.new("RGB", wide, tuple(shade)).save(folder / name)
    return Record.read(folder)


def curve(images: int, value: float, **changed: Any) -> CurvePoint:
    told: dict[str, Any] = {
        **{"step": images // 32, "stage": "64", "images": images, "flops": 1e9 * images},
        **{"seconds": images / 40, "half_life": 1000, "floor": None, "n_reference": None},
        **changed,
    }
    return point(64, "native", value, **told)


def rows(distance: float) -> tuple[Quality, ...]:
    return (
        quality(64, "native", distance, better="low"),
        quality(32, "native", distance / 2, better="low"),
        quality(32, "pooled", distance / 2 + 1, better="low"),
        quality(64, "native", 0.5, better="high", metric="precision", identity=Identity("k=3")),
    )


def three(data: str = "critters") -> dict[str, Record]:
    """By folder: two methods under one protocol, and a failure."""
    return {
        "joint": record(
            "joint",
            data=data,
            quality=rows(98.5),
            cost=(cost(64, 40.0, 5.5), cost(32, 100.0, 20.0)),
            curves=tuple(
                curve(i * 1000, 300 / i, half_life=h) for i in (1, 2, 4) for h in (1000, 10_000)
            ),
            training={
                "plan": {"images": 192_000},
                "planned": {"images": 192_000, "flops": 1.5e16, "seconds": None},
                "spent": {"images": 192_000, "flops": 1.4e16, "seconds": 4800.0},
                "stages": [{"name": "64x32", "steps": 6000, "batch": 32, "share": 0.75}],
                "notes": [],
            },
            config={"seed": 0, "denoiser": {"name": "nested_unet", "width": 64}, "lr": 0.001},
            provenance={
                "git": {"commit": "0123456789abcdef", "dirty": True},
                "packages": {"torch": "2.15.0"},
                "machine": {"cpu": "Abacus 1"},
                "seeds": {"training": 7},
                "command": "python -m benchmarks.run method=joint",
                "started": "2026-01-01T00:00:00+00:00",
                "ended": "2026-01-01T01:05:00+00:00",
            },
        ),
        "flat": record(
            "flat",
            data=data,
            resolutions=(64,),
            quality=rows(120.5),
            cost=(cost(64, 44.0, 9.0),),
            config={"seed": 0, "denoiser": {"name": "unet", "width": 64}, "lr": 0.001},
            analysis={
                "exposure_bias": {
                    "rows": [{"stage": "s", "source": "real", "level": 2.0, "value": 61.5}],
                    "gap": {"s": 8.25},
                    "level": {"s": 2.0},
                }
            },
        ),
        "large": record("large", data=data, failure="out of memory at batch_size 32: lower it"),
    }


def three_runs(folder: Path) -> Path:
    """The folder `runs` of three runs."""
    for name, one in three().items():
        put(folder / "runs" / name, one, () if one.failure else PICTURES)
    return folder / "runs"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return three_runs(tmp_path)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the three runs as they were made, beside them; for reading alone."""
    return made(three_runs(tmp_path_factory.mktemp("shown")))


def made(runs: Path, *options: str) -> Path:
    out = runs.parent / "report"
    main([str(runs), "-o", str(out), *options])
    problems = re.findall(r'class="problem">([^<]*)', (out / INDEX).read_text(encoding="utf-8"))
    assert problems == []
    return out


# ---------------------------------------------------------------- a strict reader of HTML

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, kind: str | None = None) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and kind in (None, *child.attributes.get("class", "").split()):
                    yield child
                yield from child.all(tag, kind)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class Reader(HTMLParser):
    """Refuses what a browser would mend: tags that do not close, attributes given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].children.append(node)
        if tag not in VOID:
            self.stack.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def parsed(out: Path) -> Node:
    reader = Reader()
    reader.feed((out / INDEX).read_text(encoding="utf-8"))
    reader.close()
    assert len(reader.stack) == 1
    return reader.stack[0]


def table(root: Node, label: str) -> dict[str, list[str]]:
    """Cells by the name of the row, of the first table with this caption."""
    found = next(t for t in root.all("table") if any(c.text == label for c in t.all("caption")))
    return {
        next(row.all("th")).text: [cell.text for cell in row.all("td")]
        for body in found.all("tbody")
        for row in body.all("tr")
        if list(row.all("th"))
    }


# ---------------------------------------------------------------- the page as a document


def test_the_page_is_well_formed_and_has_an_order(report: Path):
    root = parsed(report)
    ids = [n.attributes["id"] for tag in ("h2", "h3", "main", "p") for n in root.all(tag)
           if "id" in n.attributes]  # fmt: skip
    assert len(ids) == len(set(ids))
    text = (report / INDEX).read_text(encoding="utf-8")
    levels = [int(n) for n in re.findall(r"<h([1-6])", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    inside = {a.attributes["href"][1:] for a in root.all("a") if a.attributes["href"][0] == "#"}
    assert inside <= set(ids)
    assert {"main", "critters-table", "critters-options"} <= inside


def test_every_file_that_is_linked_is_there_and_every_file_is_linked(report: Path):
    root = parsed(report)
    linked = {a.attributes["href"] for a in root.all("a") if a.attributes["href"][0] != "#"}
    linked |= {image.attributes["src"] for image in root.all("img")}
    written = {p.relative_to(report).as_posix() for p in report.rglob("*") if p.is_file()}
    assert linked == written - {INDEX}
    assert len([name for name in linked if name.startswith("pictures/")]) == 2 * len(SHEETS) + 1


def test_nothing_is_loaded_from_elsewhere(report: Path):
    root, text = parsed(report), (report / INDEX).read_text(encoding="utf-8")
    for tag in ("link", "iframe", "object", "embed", "form", "base", "video", "audio"):
        assert not list(root.all(tag))
    assert not re.search(r"https?:|url\(|@import|(src|href)=\"//", text)
    (policy,) = (m.attributes["content"] for m in root.all("meta") if "content" in m.attributes
                 and m.attributes.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (own,) = root.all(tag)
        digest = base64.b64encode(hashlib.sha256(own.text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_picture_says_what_it_shows_and_how_large_it_is(report: Path):
    images = list(parsed(report).all("img"))
    assert len(images) == 2 * len(SHEETS) + 1
    for image in images:
        assert len(image.attributes["alt"].split()) >= 4
        with Image.open(report / image.attributes["src"]) as opened:
            assert opened.size == tuple(int(image.attributes[k]) for k in ("width", "height"))
    alts = [image.attributes["alt"] for image in images]
    assert "Samples of joint at 64 and 32 pixels, a block of images for each resolution." in alts
    assert "Real test images of critters." in alts
    for chart in parsed(report).all("svg", "chart"):
        assert chart.attributes["role"] == "img"
        assert "better" in chart.attributes["aria-label"]


def test_pixels_have_one_size_in_all_pictures_of_a_kind():
    """A method of one level has half the width of one of two, a line holds the widest."""

    def of(*sizes: tuple[int, int]) -> list[int]:
        figures = [Figure(Picture(str(i), *size), "", "") for i, size in enumerate(sizes)]
        gallery = Gallery("", "", figures)
        return [gallery.twelfths(figure) for figure in figures]

    assert of((1616, 404), (804, 404)) == [12, 6]
    assert of((804, 404), (804, 804)) == [6, 6]
    assert of((700, 400)) == [6]
    assert of((404, 1204), (404, 1204)) == [4, 4]


# ---------------------------------------------------------------- what stands on it


def test_a_table_has_the_numbers_of_its_frame(report: Path):
    root = parsed(report)
    found = values_of(tabulate(records(report.parent / "runs"), "main"))
    first = next(root.all("table"))
    (methods,) = first.all("tbody", "methods")
    shown = {
        next(row.all("th")).text: [cell.attributes.get("data-value") for cell in row.all("td")]
        for row in methods.all("tr")
    }
    assert set(shown) == {"flat", "joint"}
    for name, cells in shown.items():
        told = [None if c is None else float(c) for c in cells]
        wanted = found.loc[name].drop(("", "failure")).astype(float)
        assert told == [None if value != value else value for value in wanted]


def test_the_best_is_bold_and_numbers_stand_at_the_right(report: Path, runs: Path):
    assert not list(next(parsed(report).all("table")).all("strong"))  # no spread is known
    for path in paths(runs):
        one = Record.read(path)
        known: dict[str, Any] = {"values": (1.0, 1.0), "spread": 0.5}
        replace(one, quality=tuple(replace(q, **known) for q in one.quality)).write(path)
    first = next(parsed(made(runs)).all("table"))
    heads = list(list(first.all("tr"))[1].all("th"))
    column = next(i for i, head in enumerate(heads) if "FD-EffLite0" in head.text)
    methods = next(first.all("tbody", "methods"))
    cells = {next(r.all("th")).text: list(r.all("td"))[column - 1] for r in methods.all("tr")}
    assert [strong.text for strong in cells["joint"].all("strong")] == ["98.5 ± 0.5"]
    assert not list(cells["flat"].all("strong"))
    assert cells["flat"].attributes["class"] == "number"
    assert heads[column].attributes["class"] == "number"


def test_quality_stands_over_the_cost_of_the_trajectory_that_made_the_images():
    """A coarse level of joint ones costs all of them, and an image that is pooled what its own
    method's finest does; a network alone is in no chart."""
    whole = {"trajectory": (64, 32), "part": None}
    alone = cost(32, 100.0, 33.5, trajectory=(32,), part="alone")
    joint = replace(
        three()["joint"], cost=(alone, *(cost(s, 1.0, 20.8, **whole) for s in (64, 32)))
    )
    low = record("low", resolutions=(32,), quality=rows(9.0)[1:3], cost=(cost(32, 1.0, 7.0),))
    entries = [LabelledRecord(one.name, one, look) for look, one in enumerate((joint, low))]
    for view in ("native", "pooled"):
        charts = next(c for c in trade_charts(entries) if c.name == f"FD-EffLite0 at 32 px, {view}")
        drawn = {one.name: one.svg for one in charts.images}["sampled images/s"]
        assert "at 20.8; low" in drawn and "at 7. " in drawn and "33.5" not in drawn


def test_failures_and_the_scale_stand_apart(report: Path):
    first = next(parsed(report).all("table"))
    (failures,) = first.all("tbody", "failures")
    (row,) = failures.all("tr")
    assert next(row.all("th")).text == "large"
    assert [cell.text for cell in row.all("td")] == ["out of memory at batch_size 32: lower it"]
    (scale,) = first.all("tbody", "scale")
    assert [head.text for head in scale.all("th")] == ["real images", "Gaussian"]


def test_each_chart_is_a_file_too_that_needs_nothing_of_the_page(report: Path):
    text = (report / INDEX).read_text(encoding="utf-8")
    files = sorted((report / "charts").iterdir())
    assert files and {f"charts/{file.name}" for file in files} == set(
        re.findall(r'href="(charts/[^"]*)" download', text)
    )
    for file in files:
        root = ElementTree.parse(file).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert escape_html(root.attrib["aria-label"]) in text
        style = root.findtext("{http://www.w3.org/2000/svg}style") or ""
        assert ".line" in style and "var(" not in style


def test_downloads_are_what_the_formats_write(report: Path):
    found = records(report.parent / "runs")
    for kind, ending in (("markdown", "md"), ("latex", "tex"), ("csv", "csv")):
        for preset in ("main", "all"):
            written = (report / f"tables/critters-{preset}.{ending}").read_bytes()
            assert written == FORMATS[kind](tabulate(found, preset)).encode()


def test_quality_is_drawn_against_each_cost(report: Path):
    text = (report / INDEX).read_text(encoding="utf-8")
    assert re.search(r"FD-EffLite0 at 64 px \(lower is better\) against sampled images/s "
                     r"\(higher is better\)\. flat 120.5 at 9; joint 98.5 at 5.5\. "
                     r"On the Pareto front: joint, flat", text)  # fmt: skip
    assert "sampling memory, MiB" in text
    assert "flat 120.5 at 75; joint 98.5 at 75. On the Pareto front: joint." in text
    assert "precision at 64 px (higher is better)" in text


def test_the_final_image_pooled_costs_what_the_final_image_does(report: Path):
    text = (report / INDEX).read_text(encoding="utf-8")
    chart = (
        r"FD-EffLite0 at 32 px, {} \(lower is better\) against sampled images/s [^.]*\. "
        r"(.*?)\. On"
    )
    native, pooled = (re.findall(chart.format(view), text) for view in ("native", "pooled"))
    assert "joint 49.25 at 20" in native  # its own level, which alone is sampled at 32 px
    assert "flat 61.25 at 9; joint 50.25 at 5.5" in pooled


def test_learning_curves_are_over_images_flops_and_time(report: Path):
    text = (report / INDEX).read_text(encoding="utf-8")
    for axis in ("training images", "training FLOPs", "training time, s"):
        assert f"over {axis}. joint half-life 1000 from 300 to 75" in text
    assert "Each point is of 512 images." in text
    assert "Half-life of the averaged weights, in images: solid 1000, dashed 10k." in text


def test_curves_are_named_and_ordered_as_the_qualities_of_the_table(tmp_path: Path):
    found = [curve(n, 1.0 / n, metric=name) for name in ("a", "b", "c") for n in (1, 2)]
    found += [replace(row, level=32, view="pooled") for row in found[:2]]
    found[0] = replace(found[0], n_reference=1500, floor=9.5)
    measured = tuple(quality(64, "native", 1.0, metric=name) for name in ("c", "a", "b"))
    one = record("one", quality=measured, curves=tuple(found))
    (section,) = page([put(tmp_path, one, ())], ReportFiles()).sections
    names = [charts.name for charts in section.curves]
    assert names == ["c at 64 px", "a at 64 px", "b at 64 px", "a at 32 px, pooled"]
    note = "Each point is of 512 images against 1500 (noise floor 9.5) or 512 images."
    assert section.curves[1].note == note


def test_a_quality_of_a_single_row_is_drawn_only_where_there_is_no_other():
    codec = quality(64, "native", 5.0, metric="rFD")
    one, other = (record(n, quality=rows(9.0), cost=(cost(64, 1.0, 2.0),)) for n in ("a", "b"))
    one = replace(one, quality=(*one.quality, codec))

    def drawn(*found: Record) -> set[str]:
        return {it.name for it in page(found, ReportFiles()).sections[0].groups[0].trade}

    assert "rFD at 64 px" in drawn(one)
    assert "rFD at 64 px" not in drawn(one, other)
    assert drawn(one, other) == drawn(other)
    assert drawn(one, record("c", failure="out of memory")) == drawn(one)


def test_a_method_keeps_its_colour_over_seeds_and_data_sets(tmp_path: Path):
    files = ReportFiles()
    first = record("b", quality=rows(1.0), config={"seed": 0})
    found = [first, replace(first, config={"seed": 1}), record("a"), record("c")]
    found += [record("b", data="elpv", quality=rows(2.0)), record("x", data="elpv")]
    shown = page(found, files)
    looks = {(s.data, e.label): e.look for s in shown.sections for e in s.entries}
    assert looks["critters", "b (seed=0)"] == looks["critters", "b (seed=1)"] == looks["elpv", "b"]
    assert len({look for (data, _), look in looks.items() if data == "critters"}) == 3
    assert looks["elpv", "x"] not in (looks["elpv", "b"], looks["critters", "a"])


def test_a_colour_does_not_change_when_a_record_is_edited(runs: Path):
    put(runs / "elpv", three("elpv")["joint"], ())
    before = {e.record.name: e.look for e in page(records(runs), ReportFiles()).sections[0].entries}
    path = runs / "joint/record.json"
    path.write_text(path.read_text().replace("98.5", "10.5"))
    after, (other,) = (section.entries for section in page(records(runs), ReportFiles()).sections)
    assert other.look == before["joint"]
    assert {e.record.name: e.look for e in after} == before
    assert [e.label for e in after if e.record.edited] == ["joint (edited)"]
    origin = table(parsed(made(runs)), "Where each row is from")
    assert origin["joint (edited)"][0] == "edited by hand"
    assert origin["flat"][0] == "as measured"


def test_only_the_options_that_differ_are_told_first(report: Path):
    root = parsed(report)
    assert table(root, "Options that differ") == {"denoiser.name": ["unet", "nested_unet"]}
    assert table(root, "Options that all rows share")["denoiser.width"] == ["64"]


def test_options_of_one_row_alone_stand_apart(runs: Path):
    third = record("third", config={"seed": 0, "denoiser": {"name": "unet", "depth": 2}})
    put(runs / "third", third, ())
    root = parsed(made(runs))
    assert table(root, "Options of third alone") == {"denoiser.depth": ["2"]}
    assert set(table(root, "Options that differ")) == {"denoiser.name", "denoiser.width", "lr"}
    assert "Options of flat alone" not in root.text


def test_an_option_may_go_on_in_the_next_line_after_its_dots(report: Path, runs: Path):
    text = (report / INDEX).read_text(encoding="utf-8")
    assert "<td>" in text
    assert "denoiser.<wbr>name" in text
    put(runs / "flat", record("flat 0.5.a&b", quality=rows(1.0)), ())
    assert "flat 0.5.<wbr>a&amp;b" in (made(runs) / INDEX).read_text(encoding="utf-8")


def test_origin_tells_commit_machine_seeds_and_time(report: Path):
    root = parsed(report)
    short = table(root, "Where each row is from")["joint"]
    hash_ = Record.read(report.parent / "runs" / "joint").hash
    assert short == [
        *("as measured", "0123456789 with changes", "cpu (Abacus 1)"),
        *("cpu (Abacus 1), float32", "2.15.0", "training 7", "2026-01-01 00:00 UTC"),
        *("1 h 05 min", hash_[:12]),
    ]
    full = table(root, "Provenance of joint")
    assert full["command"] == ["python -m benchmarks.run method=joint"]
    assert full["record hash"] == [hash_]
    assert full["git.commit"] == ["0123456789abcdef"]
    assert full["started"] == ["2026-01-01T00:00:00+00:00"]


def test_costs_timed_again_elsewhere_name_the_machine_of_the_timing(runs: Path):
    trained = {"cpu": "Abacus 1", "gpu": {"names": ["Loom 9"]}}
    timed = {"machine": {"cpu": "Abacus 2", "gpu": None}}
    made_of = {"cost": (cost(64, 1.0, 2.0),), "quality": rows(1.0)}
    for name, provenance in {
        "same": {"machine": trained},
        "again": {"machine": trained, "cost": timed},
        "unknown": {},
    }.items():
        put(runs / name, record(name, provenance=provenance, **made_of), ())
    found = table(parsed(made(runs)), "Where each row is from")
    assert found["same"][2:4] == ["cuda (Loom 9)", "cpu (Abacus 1), float32"]
    assert found["again"][2:4] == ["cuda (Loom 9)", "cpu (Abacus 2), float32"]
    assert found["unknown"][2:4] == ["–", "cpu, float32"]
    assert found["large"][3] == "–"  # which failed before its costs


def test_durations_are_sorted_by_their_seconds(runs: Path):
    ended = ("00:00:54", "00:02:00", "01:05:00")
    for i, end in enumerate(ended):
        moments = {"started": "2026-01-01T00:00:00+00:00", "ended": f"2026-01-01T{end}+00:00"}
        put(runs / f"r{i}", record(f"r{i}", provenance=moments, quality=rows(1.0)), ())
    (origin,) = (
        found
        for found in parsed(made(runs)).all("table")
        if any(c.text == "Where each row is from" for c in found.all("caption"))
    )
    values = {
        next(row.all("th")).text: next(
            (c.attributes.get("data-value") for c in row.all("td") if " min" in c.text or
             c.text.endswith(" s")), None)
        for row in next(origin.all("tbody")).all("tr")
    }  # fmt: skip
    assert [values[f"r{i}"] for i in range(3)] == ["54.0", "120.0", "3900.0"]


def test_metrics_are_told_with_their_identity_in_full(report: Path):
    told = table(parsed(report), "Metrics in full")
    row = told["FD-EffLite0 at 64 px"]
    assert row[0] == str(identity(64))
    assert row[1:] == ["lower", "512", "1536", "10.04", "nuclear", "all"]
    assert told["precision at 64 px"][1] == "higher"


def test_the_rank_agreement_of_metrics_is_a_table_for_each_level(tmp_path: Path):
    for i, name in enumerate("abc"):
        aspect = {"better": "high", "metric": "precision", "identity": Identity("k=3")}
        put(tmp_path / "runs" / name, record(name, quality=(
            quality(64, "native", 10.0 + i),
            quality(64, "native", (0.9, 0.1, 0.5)[i], **aspect),
        )), ())  # fmt: skip
    found = table(parsed(made(tmp_path / "runs")), "Rank agreement (Kendall's tau) at 64 px")
    assert found == {"FD-EffLite0": ["1.00", "0.33"], "precision": ["0.33", "1.00"]}


def test_budgets_tell_plan_and_spending_by_stage(report: Path):
    root = parsed(report)
    (found,) = (t for t in root.all("table") if "Plan and spending" in t.text)
    cells = [[c.text for c in row.all("td")] for b in found.all("tbody") for row in b.all("tr")]
    assert ["plan: images 192,000"] in cells
    assert ["stage 64x32", "6,000", "32", "–", "–", "–", "75 %", "–"] in cells
    assert ["planned", "–", "–", "192,000", "15P", "–", "–", "–"] in cells
    assert ["spent", "–", "–", "192,000", "14P", "1 h 20 min", "–", "–"] in cells
    (name,) = found.all("tbody")
    assert [head.attributes.get("rowspan") for head in name.all("th")] == ["4"]


def test_an_analysis_is_shown_with_gap_and_numbers(runs: Path):
    Image.new("RGB", (50, 40)).save(runs / "flat/exposure_bias.png")
    root = parsed(made(runs))
    assert table(root, "Gaps of exposure bias") == {"flat": ["s", "8.25", "2"]}
    assert "61.5" in table(root, "Numbers of exposure bias")["flat"]
    assert any("Curves of flat" in image.attributes["alt"] for image in root.all("img"))


def test_scaling_figures_are_those_of_the_folder_of_runs(runs: Path):
    folder = runs / "scaling"
    folder.mkdir()
    Image.new("RGB", (50, 40)).save(folder / "scaling.png")
    content = {
        "conditions": {"hardware": "cpu (Abacus 1)"},
        "exponents": {"joint": {"seconds": "2.04 ± 0.10", "flops": "–"}},
        "rows": [
            {"method": "joint", "resolution": 32, "seconds": 0.125, "flops": 3e9},
            {"method": "joint", "resolution": 64, "failure": "out of memory at batch 1"},
        ],
    }
    (folder / "scaling.json").write_text(json.dumps(content))
    root = parsed(made(runs))
    assert table(root, "Exponents of the side") == {"joint": ["2.04 ± 0.10", "–"]}
    assert table(root, "Conditions") == {"hardware": ["cpu (Abacus 1)"]}
    cells = [[cell.text for cell in row.all("td")] for row in root.all("tr")]
    assert ["32", "–", "0.125", "–", "3G", "–", "–"] in cells
    assert ["64", "–", "–", "–", "–", "–", "out of memory at batch 1"] in cells
    assert any("over its side" in image.attributes["alt"] for image in root.all("img"))


def test_scaling_of_several_methods_is_in_order_and_keeps_it(runs: Path):
    """They are measured side by side; a name that stands for several rows cannot be sorted."""
    (runs / "scaling").mkdir()
    measured = [
        {"method": name, "resolution": side, "seconds": 0.1 * side}
        for side in (32, 64, 128)
        for name in ("joint", "flat")
    ]
    (runs / "scaling/scaling.json").write_text(json.dumps({"rows": measured}))
    root = parsed(made(runs))
    (found,) = (t for t in root.all("table") if [c.text for c in t.all("caption")] == ["Measured"])
    rows_of = list(next(found.all("tbody")).all("tr"))
    assert [[head.text for head in row.all("th")] for row in rows_of] == [
        ["flat"], [], [], ["joint"], [], []
    ]  # fmt: skip
    assert [next(row.all("td")).text for row in rows_of] == ["32", "64", "128"] * 2
    for one in root.all("table", "sortable"):
        for body in one.all("tbody"):
            assert all(len(list(row.all("th"))) == 1 for row in body.all("tr"))


def test_exponents_are_sorted_as_numbers(runs: Path):
    (runs / "scaling").mkdir()
    told = {"joint": {"seconds": "2.4"}, "flat": {"seconds": "2.14 ± 0.10"}, "x": {"seconds": "–"}}
    (runs / "scaling/scaling.json").write_text(json.dumps({"exponents": told}))
    cells = {cell.text: cell.attributes.get("data-value") for cell in parsed(made(runs)).all("td")}
    assert cells["2.4"] == "2.4"
    assert cells["2.14 ± 0.10"] == "2.14"


def test_published_numbers_stand_apart_when_asked_for(report: Path, runs: Path):
    assert not list(parsed(report).all("tbody", "published"))
    root = parsed(made(runs, "--published", "method=ADM"))
    bodies = list(next(root.all("table")).all("tbody", "published"))
    assert len(bodies) == 1
    assert all("ADM" in head.text for head in bodies[0].all("th"))


# ---------------------------------------------------------------- names and scales of charts


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """What each name takes, with letters of 6 units."""
    found = {}
    for x, y, anchor, name in re.findall(
        r'<text class="name" x="(\S+)" y="(\S+)" text-anchor="(\w+)">([^<]*)<', svg
    ):
        wide = 6 * len(name)
        left = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        found[name] = (left, float(y) - 9, left + wide, float(y) + 2)
    return found


def test_names_cover_neither_marks_nor_each_other_nor_the_axis():
    """Points of a comparison that had names on the marks of others."""
    found = {
        "rin": (16.9, 0.41), "cascaded": (21.4, 0.36), "mdm": (12.6, 0.187), "chen": (13.0, 0.146),
        "latent": (8.53, 0.203), "simple_diffusion": (11.5, 0.121), "end_to_end": (13.0, 0.131),
    }  # fmt: skip
    points = [Point(name, x, y, 0) for name, (x, y) in found.items()]
    svg = scatter(points, Axis("GFLOPs", "low"), Axis("KD", "low"))
    placed = boxes(svg)
    assert set(placed) == set(found)
    marks = re.findall(r'class="mark[^"]*" d="M(\S+) (\S+)a5 5', svg)
    centres = [(float(x) + 5, float(y)) for x, y in marks]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    for i, (name, a) in enumerate(placed.items()):
        for b in [*taken, *[*placed.values()][:i]]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, name
        assert a[3] < HEIGHT - BOTTOM


def test_what_has_an_upper_end_is_drawn_by_a_linear_scale():
    points = [Point("a", 1, 0.1, 0), Point("b", 2, 0.5, 0), Point("c", 3, 0.9, 0)]

    def heights(better: str) -> list[float]:
        svg = scatter(points, Axis("images/s", "high"), Axis("m", better))
        return [float(y) for y in re.findall(r'class="mark[^"]*" d="M\S+ (\S+)a5 5', svg)]

    a, b, c = heights("high")
    assert a - b == pytest.approx(b - c, abs=0.2)
    a, b, c = heights("low")
    assert a - b > 2 * (b - c)


def test_the_name_of_a_line_has_the_mark_of_the_line():
    drawn = [
        Line(name, [(1, 2.0), (2, y)], i) for i, (name, y) in enumerate({"a": 1, "b": 1.01}.items())
    ]
    svg = lines(drawn, Axis("images"), Axis("loss", "low"))
    assert [len(re.findall(rf'class="mark c{look}"', svg)) for look in (0, 1)] == [2, 2]


# ---------------------------------------------------------------- what it survives


def test_what_comes_from_records_is_shown_and_never_run(tmp_path: Path):
    other = record(HOSTILE, quality=rows(50.0), cost=(cost(64, 1.0, 2.0),))
    bad = replace(
        other,
        data=HOSTILE,
        method=HOSTILE,
        budget=HOSTILE,
        quality=(*rows(1.0), quality(64, "native", 3.0, metric=HOSTILE, route=HOSTILE)),
        curves=(
            curve(10, 1.0, identity=Identity(HOSTILE), metric=HOSTILE),
            curve(20, 2.0, stage=HOSTILE),
        ),
        training={
            "notes": [HOSTILE],
            "stages": [{"name": HOSTILE, "steps": HOSTILE}],
            "plan": {HOSTILE: 1.0},
        },  # fmt: skip
        config={HOSTILE: HOSTILE, "other": 1},
        analysis={HOSTILE: {"gap": {HOSTILE: 1.0}, "rows": [{"stage": HOSTILE}]}},
        provenance={"command": HOSTILE, HOSTILE: HOSTILE, "git": {"commit": HOSTILE}},
    )
    put(tmp_path / "runs/bad", bad)
    put(tmp_path / "runs/other", replace(bad, config={HOSTILE: "x"}))
    put(tmp_path / "runs/failed", replace(bad, quality=(), failure=HOSTILE))
    out = made(tmp_path / "runs")
    root, text = parsed(out), (out / INDEX).read_text(encoding="utf-8")
    assert len(list(root.all("script"))) == 1
    assert not [i for i in root.all("img") if i.attributes["src"] == "x"]
    assert "{{7*7}}" in text  # neither dropped nor evaluated
    assert HOSTILE in root.text
    for node in (n for tag in ("a", "img", "svg", "th", "td", "div") for n in root.all(tag)):
        assert not [name for name in node.attributes if name.startswith("on")]
    assert all(p.resolve().is_relative_to(out) for p in out.rglob("*"))


def test_missing_pictures_are_named_and_leave_no_hole(tmp_path: Path):
    for name, one in three().items():
        put(tmp_path / "runs" / name, one, ("samples.png",) if name == "joint" else ())
    root = parsed(made(tmp_path / "runs"))
    assert len(list(root.all("img"))) == 1
    assert "No such picture of: flat, large." in root.text
    assert "Nearest neighbours" not in root.text


def test_a_broken_picture_is_left_out_and_said(runs: Path, capsys: pytest.CaptureFixture[str]):
    whole = (runs / "joint/film.png").read_bytes()
    (runs / "joint/film.png").write_bytes(whole[: len(whole) // 2])
    (runs / "flat/film.png").write_text("<svg onload='alert(1)'/>")
    root = parsed(made(runs))
    assert "joint/film.png is no whole PNG" in root.text
    assert "flat/film.png is no whole PNG" in capsys.readouterr().err
    assert not [i for i in root.all("img") if "Film" in i.attributes["alt"]]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"quality": [{**quality(64, "native", 1.0).plain(), "resolution": None}]},
        {"cost": [17]},
        {"name": 5},
        {"curves": [{"metric": "FD"}]},
        {"training": [1, 2]},
        {"provenance": {"git": {"commit": 7}, "machine": "a"}},
        {"config": {"a": {"b": {}}}, "scale": {"real": [{}]}},
    ],
)
def test_a_record_that_cannot_be_shown_does_not_keep_others_from_it(runs: Path, spoilt):
    path = runs / "flat/record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **spoilt}))
    root = parsed(made(runs))
    assert "98.5" in next(root.all("table")).text
    assert "joint" in next(root.all("table")).text


def test_a_file_that_is_no_record_is_told(runs: Path, capsys: pytest.CaptureFixture[str]):
    (runs / "flat/record.json").write_text("{half")
    root = parsed(made(runs))
    assert "is no JSON" in next(s for s in root.all("section") if "Left out" in s.text).text
    assert "left out: " in capsys.readouterr().err
    assert "joint" in root.text


def test_rows_that_may_not_share_a_table_have_tables_of_their_own(runs: Path):
    put(runs / "gpu", record("gpu", quality=rows(90.0), cost=(cost(64, 1.0, 2.0, device="cuda"),)))
    out = made(runs)
    root = parsed(out)
    assert [h.text for h in root.all("h4")][:2] == ["Table 1 of 2", "Table 2 of 2"]
    assert (out / "tables/critters-2-main.csv").is_file()
    for one in root.all("table"):
        if list(one.all("tbody", "methods")) and "Comparison" in one.text:
            assert not {"gpu", "flat"} <= {head.text for head in one.all("th")}


def test_each_data_set_has_a_section(runs: Path):
    for name, one in three("elpv").items():
        put(runs / f"elpv-{name}", one, ())
    root = parsed(made(runs))
    assert [h.text for h in root.all("h2")] == ["critters", "elpv"]
    for section in root.all("section"):
        first = next(section.all("table"))
        assert {"joint", "flat", "large"} <= {head.text for head in first.all("th")}


def test_names_of_data_sets_become_names_of_files():
    found = slugs(["critters", "Critters", "../../etc", "a b/c", "–", "a-b-c"])
    assert list(found.values()) == ["critters", "critters-2", "etc", "a-b-c", "data", "a-b-c-2"]


def test_failures_alone_make_a_page(tmp_path: Path):
    put(tmp_path / "runs/large", three()["large"], ())
    root = parsed(made(tmp_path / "runs"))
    assert "out of memory" in next(root.all("table")).text
    assert "No row has both a quality and a cost." in root.text


# ---------------------------------------------------------------- files


def test_the_same_records_give_the_same_bytes(runs: Path):
    found = records(runs)
    shuffled = random.Random(1).sample(found, len(found))
    one, two = ReportFiles(), ReportFiles()
    assert render(page(found, one)) == render(page(shuffled, two))
    assert one.contents == two.contents


def test_a_second_report_leaves_no_file_of_the_first(runs: Path):
    out = made(runs)
    before = {p: p.stat().st_mtime_ns for p in (out / "pictures").iterdir()}
    assert {p.suffix for p in before} == {".png", ".webp"}
    shutil.rmtree(runs / "joint")
    made(runs)
    left = set((out / "pictures").iterdir())
    assert left < set(before)
    assert all(p.stat().st_mtime_ns == before[p] for p in left)
    linked = {image.attributes["src"] for image in parsed(out).all("img")}
    assert {p.relative_to(out).as_posix() for p in left} == linked


def refused(*words: str) -> None:
    """The command ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1


def test_a_folder_of_other_files_is_not_written_to(runs: Path, capsys: pytest.CaptureFixture[str]):
    refused(str(runs), "-o", str(runs))
    assert "holds other files: name a new folder by -o" in capsys.readouterr().err
    assert not (runs / INDEX).exists()
    (runs / INDEX).write_text("a page of someone else")
    refused(str(runs), "-o", str(runs))


def test_the_page_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Until all files are there an old page stays, whose pictures are still there as well."""
    written: list[str] = []

    def full(path: Path, content: bytes) -> None:
        written.append(path.name)
        if len(written) == 2:
            raise OSError("disk full")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr("benchmarks.report.__main__.write", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path / "r", {INDEX: b"page", "pictures/a.png": b"1", "tables/a.md": b"2"})
    assert INDEX not in written
    assert not (tmp_path / "r" / INDEX).exists()


def pages() -> list[dict[str, bytes]]:
    """Files of an older report and of the one that follows it; each page links its own."""
    older = {"pictures/a.png": b"1", "tables/a.md": b"2"}
    newer = {"pictures/b.png": b"3", "tables/a.md": b"4"}
    return [
        {**files, INDEX: MADE_BY + "".join(f'<a href="{name}">' for name in files).encode()}
        for files in (older, newer)
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Killed(BaseException):
    pass


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("when", ["write", "move"])
def test_a_report_that_was_cut_off_anywhere_is_made_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, when: str
):
    first, second = pages()
    for place in range(20):
        folder = tmp_path / str(place)
        if older:
            write_report(folder, first)
        calls = iter(range(100))
        with monkeypatch.context() as patch:
            own = {"write": os.fsync, "move": os.replace}[when]

            def killed(*given: Any, own: Any = own, calls: Any = calls, place: int = place) -> None:
                if next(calls) == place:
                    raise Killed
                own(*given)

            patch.setattr(os, {"write": "fsync", "move": "replace"}[when], killed)
            patch.setattr(Path, "unlink", lambda path, **options: None)  # a kill cleans nothing
            try:
                write_report(folder, second)
            except Killed:
                pass
            else:
                break
        assert content(folder).get(INDEX) in (first[INDEX] if older else None, second[INDEX])
        write_report(folder, second)
        assert content(folder) == second
    assert place >= 3


def test_a_file_of_somebody_else_in_a_report_stays(tmp_path: Path):
    first, second = pages()
    write_report(tmp_path, first)
    (tmp_path / "pictures" / "mine.png").write_bytes(b"x")
    write_report(tmp_path, second)
    assert content(tmp_path) == {**second, "pictures/mine.png": b"x"}


def test_a_list_of_files_removes_nothing_outside(tmp_path: Path):
    (tmp_path / "mine.png").write_bytes(b"x")
    folder = tmp_path / "report"
    folder.mkdir()
    names = ["../mine.png", "pictures/../../mine.png", str(tmp_path / "mine.png"), 7]
    for listed in (names, 7, {}):
        (folder / ".begun.json").write_text(json.dumps(listed))
        write_report(folder, pages()[0])
    assert (tmp_path / "mine.png").exists() and content(folder) == pages()[0]


def test_conditions_choose_records(runs: Path):
    entries = parsed(made(runs, "--where", "name=flat"))
    assert "joint" not in entries.text


@pytest.mark.parametrize("there", [True, False])
def test_no_run_is_an_error_that_says_how_to_make_one(tmp_path: Path, there: bool, capsys):
    folder = tmp_path / "runs"
    if there:
        folder.mkdir()
    refused(str(folder), "-o", str(tmp_path / "r"))
    said = capsys.readouterr().err
    assert ("benchmarks.run method=mdm" if there else "does not exist: name a folder") in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (12.345, "12.3 s"),
        (59.99, "60 s"),
        (61, "1 min 01 s"),
        (599.4, "9 min 59 s"),
        (600, "10 min"),
        (3599, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations(seconds: float, told: str):
    assert duration_text(seconds) == told


def test_options_in_lists_have_a_place_and_lists_of_numbers_are_one():
    node = {"a": {"b": [{"c": 1}, {"c": 2}]}, "d": [1, 2], "e": {}, "f": []}
    assert option_leaves(node) == {"a.b.0.c": 1, "a.b.1.c": 2, "d": [1, 2], "e": {}, "f": []}


# ---------------------------------------------------------------- in a browser


def browser_binary() -> str | None:
    named = os.environ.get("BROWSER_BINARY")
    known = ("chromium", "chromium-browser", "google-chrome")
    return named or next(filter(None, map(shutil.which, known)), None)


@pytest.fixture
def browser() -> Iterator[Any]:
    binary = browser_binary()
    if binary is None:
        pytest.skip("no browser: install chromium, or name one by $BROWSER_BINARY")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Any, out: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page from its file, and what goes wrong on it as a list that fills."""
    shown, wrong = browser.new_context(**options).new_page(), []
    shown.on("console", lambda message: wrong.append(message.text))
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("requestfailed", lambda request: wrong.append(request.url))
    shown.goto((out / INDEX).resolve().as_uri())
    return shown, wrong


def names(shown: Any) -> list[str]:
    """Rows of the first table that is seen, from above."""
    return (
        shown.locator("table.sortable:visible tbody.methods").first.locator("th").all_inner_texts()
    )


@pytest.mark.slow
def test_a_browser_sorts_the_table_by_click_and_by_enter(runs: Path, browser: Any):
    put(runs / "third", record("third", quality=rows(101.5), cost=(cost(64, 1.0, None),)))
    shown, wrong = opened(browser, made(runs))
    head = shown.locator("th:visible", has_text="FD-EffLite0").first
    assert names(shown) == ["flat", "joint", "third"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(shown) == ["joint", "third", "flat"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(shown) == ["flat", "third", "joint"]
    rate = shown.locator("th:visible", has_text="sample img/s").first
    rate.locator("button").focus()
    shown.keyboard.press("Enter")
    assert rate.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") == "none"
    assert names(shown) == ["joint", "flat", "third"]  # by number, and what is missing last
    shown.keyboard.press("Enter")
    assert names(shown) == ["flat", "joint", "third"]
    assert shown.locator("tbody.failures:visible th").first.inner_text() == "large"
    assert wrong == []


@pytest.mark.slow
def test_a_browser_shows_every_picture_and_no_error(runs: Path, browser: Any):
    shown, wrong = opened(browser, made(runs))
    images = shown.locator("main img")
    assert images.count() == 2 * len(SHEETS) + 1
    for i in range(images.count()):
        images.nth(i).scroll_into_view_if_needed()
        images.nth(i).evaluate("image => image.decode()")
        assert images.nth(i).evaluate("image => image.naturalWidth") > 0
    first = shown.locator("a.enlarge").first
    first.focus()
    shown.keyboard.press("Enter")
    dialog = shown.locator("dialog")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("src").endswith(first.get_attribute("href"))
    shown.keyboard.press("ArrowRight")
    second = shown.locator("a.enlarge").nth(1)
    assert dialog.locator("img").get_attribute("src").endswith(second.get_attribute("href"))
    shown.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert second.evaluate("link => link === document.activeElement")
    assert wrong == []


@pytest.mark.slow
def test_tab_reaches_every_control_in_order_and_shows_where_it_is(runs: Path, browser: Any):
    shown, wrong = opened(browser, made(runs))
    wanted = shown.evaluate(
        """() => [...document.querySelectorAll("a, button, select, summary, [tabindex='0']")]
            .filter((one) => one.checkVisibility()).length"""
    )
    reached = []
    for _ in range(wanted):
        shown.keyboard.press("Tab")
        reached.append(
            shown.evaluate(
                """() => { const at = document.activeElement, box = at.getBoundingClientRect();
                return [at.tagName, at.textContent.trim().slice(0, 20), box.left >= 0,
                        getComputedStyle(at).outlineStyle]; }"""
            )
        )
    assert reached[0][:3] == ["A", "Skip to the results", True]  # seen once it has the focus
    tags = [tag for tag, *_ in reached]
    assert {"A", "BUTTON", "SELECT", "SUMMARY", "DIV"} == set(tags)
    assert all(style != "none" for *_, style in reached)
    assert tags.index("SELECT") < tags.index("BUTTON") < len(tags) - 1 - tags[::-1].index("SUMMARY")
    shown.keyboard.press("Shift+Tab")
    shown.locator(".skip").focus()
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "main"
    assert wrong == []


@pytest.mark.slow
def test_a_choice_shows_one_of_several_and_lists_of_one_kind_go_together(runs: Path, browser: Any):
    for name, one in three("elpv").items():
        put(runs / f"elpv-{name}", one, ())
    shown, wrong = opened(browser, made(runs))
    columns = shown.get_by_label("Columns")
    assert columns.count() == 2
    assert shown.locator("table:visible", has_text="latency ms").count() == 0
    columns.first.select_option(label="cost")
    assert columns.nth(1).evaluate("list => list.selectedOptions[0].text") == "cost"
    assert shown.locator("table:visible", has_text="latency").count() == 2
    over = shown.get_by_label("Over")
    over.first.select_option(label="FLOPs")
    assert "over training FLOPs" in shown.locator(".single:visible svg").first.get_attribute(
        "aria-label"
    )
    assert shown.locator(".single:visible").count() == 2  # one for each data set
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("script", [True, False])
def test_a_narrow_page_does_not_scroll_sideways(
    runs: Path, browser: Any, scheme: str, script: bool
):
    name = "end_to_end_with_a_very_long_name_that_has_no_place_to_break_at_all_" * 2
    long = record(name, quality=rows(90.0), cost=(cost(64, 1.0, 2.0),))
    put(runs / "long", replace(long, config={"a" * 120: "b" * 300}))
    size = {"width": 360, "height": 740}
    shown, wrong = opened(
        browser, made(runs), viewport=size, color_scheme=scheme, java_script_enabled=script
    )
    assert shown.locator("summary:visible", has_text="cost").count() == (0 if script else 1)
    if not script:
        shown.locator("summary", has_text="cost").first.click()
    width = shown.locator("html").evaluate("page => page.scrollWidth") if script else None
    for box in shown.locator("main > *, section > *:visible, .box:visible").all():
        placed = box.bounding_box()
        assert placed is None or placed["x"] + placed["width"] <= 360
    assert width in (None, 360)
    assert wrong == []


@pytest.mark.slow
def test_colours_follow_the_scheme_of_the_reader(runs: Path, browser: Any):
    out = made(runs)
    paper = {}
    for scheme in ("light", "dark"):
        shown, _ = opened(browser, out, color_scheme=scheme)
        paper[scheme] = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}
