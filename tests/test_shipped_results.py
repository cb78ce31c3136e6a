"""The records in results/ are whole, of today's protocol, and what the pages print."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from hierdiff.metrics.identity import PROTOCOL
from hierdiff.results.folders import readable
from hierdiff.results.record import Record

ROOT = Path(__file__).resolve().parents[1]
QUOTE = runpy.run_path(str(ROOT / "docs" / "quote.py"))
PAGES = [page for page in QUOTE["PAGES"] if "<!-- tables" in page.read_text(encoding="utf-8")]
RECORDS = sorted((ROOT / "results").rglob("record.json"))
PARTS = sorted({path.parents[1] for path in RECORDS})


def test_there_are_records():
    assert {path.parent.name for path in RECORDS} >= {"mdm-s0", "end_to_end-s0"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "/".join(path.parts[-4:-1]))
def test_a_record_is_as_it_was_written(path):
    record = Record.read(path)
    assert not record.edited and record.failure is None
    assert record.provenance["protocol"] == PROTOCOL
    assert record.provenance["git"]["dirty"] is False
    assert record.provenance["inputs"]["data"]
    assert not Path(str(record.config["folder"])).is_absolute()  # it says nothing of a machine


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_quotes_the_tables_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert QUOTE["quoted"](text) == text, "python docs/quote.py"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_records_of_a_folder_are_all_of_today_and_quoted_on_a_page(part):
    _, left_out = readable(part)
    assert not left_out
    whole = re.compile(rf"<!-- tables {part.relative_to(ROOT).as_posix()}(: caption rows)? -->")
    assert any(whole.search(page.read_text(encoding="utf-8")) for page in PAGES)
