"""The work on a table grows with its records and not with their square: calls are counted, at n
records and at twice as many."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.content import page
from benchmarks.report.pictures import ReportFiles
from benchmarks.tables import beside as neighbours
from benchmarks.tables.beside import beside
from benchmarks.tables.best import places
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.formats.terminal import rich_table
from benchmarks.tables.mixing import Company
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.table import tabulate
from hierdiff.results import record as records
from hierdiff.results.folders import readable
from hierdiff.results.record import Record
from tests.benchmarks.rows import five, ten


def written(folder: Path, count: int) -> Path:
    """Runs of two names and of options that differ; every second under another seed."""
    for i in range(count):
        config = {"seed": i % 2, "width": i // 4, "folder": f"runs/{i}"}
        ten("ab"[i // 2 % 2], 1 + i / 100, config=config).write(folder / f"{i:03}")
    return folder


def calls(work: Callable[[], Any]) -> int:
    """How many calls of functions the work takes."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(one.callcount for one in profile.getstats())


def grown(tmp_path: Path, work: Callable[[Path], Any]) -> float:
    """By which factor the calls grow from 8 to 16 runs, which is two where they are in proportion
    (and less with what is done once)."""
    few, many = written(tmp_path / "few", 8), written(tmp_path / "many", 16)
    work(few)  # imports, and what is made once in a process
    return calls(lambda: work(many)) / calls(lambda: work(few))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_calls_for_a_table_grow_in_proportion_to_its_records(tmp_path: Path, preset: str):
    def work(folder: Path) -> None:
        table = tabulate(readable(folder)[0], preset)
        rich_table(table)
        for form in FORMATS.values():
            form(table)

    assert grown(tmp_path, work) < 2.2


def test_the_calls_for_the_runs_beside_one_grow_in_proportion_to_them(tmp_path: Path):
    def work(folder: Path) -> None:
        assert len(beside(Record.read(folder / "000"), folder / "000")) >= 8

    assert grown(tmp_path, work) < 2.2


@pytest.mark.slow
def test_the_calls_for_a_page_grow_in_proportion_to_its_records(tmp_path: Path):
    def work(folder: Path) -> None:
        found = page(readable(folder)[0], ReportFiles())
        assert [len(section.groups) for section in found.sections] == [1]

    assert grown(tmp_path, work) < 2.4  # names of points are placed apart from each other


def test_a_record_is_read_once_and_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, hashed = written(tmp_path, 12), []

    def counted(content: Any) -> str:
        hashed.append(content["name"])
        return original(content)

    original = records.content_hash
    monkeypatch.setattr(records, "content_hash", counted)
    found, _ = readable(folder)
    for preset in PRESETS:
        tabulate(found[::2], preset)  # of one seed, so that none is merged
    assert len(hashed) == len(found) == 12


def test_a_record_beside_a_run_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, compared = written(tmp_path, 12), []

    class Counted(neighbours.Company):
        def check(self, record: Record) -> None:
            compared.append(record.path)
            super().check(record)

    monkeypatch.setattr(neighbours, "Company", Counted)
    assert len(beside(Record.read(folder / "000"), folder / "000")) == 12
    assert len(compared) == len(set(compared)) == 11


def test_a_company_of_many_alike_keeps_no_more_than_one_of_one():
    one, many = Company([five()[0]]), Company([five()[0]] * 12)
    assert one.scale and one.conditions == many.conditions
    assert {k: len(v) for k, v in one.scale.items()} == {k: len(v) for k, v in many.scale.items()}


def test_places_are_decided_once_for_all_formats(monkeypatch: pytest.MonkeyPatch):
    decided = []

    def counted(table: Any) -> Any:
        decided.append(table)
        return places(table)

    monkeypatch.setattr("benchmarks.tables.table.places", counted)
    table = tabulate([ten("a"), ten("b", 2.0)])
    for form in (*FORMATS.values(), rich_table):
        form(table)
    assert len(decided) == 1 and "**" in FORMATS["markdown"](table)
