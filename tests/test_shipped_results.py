"""The records in results/ are whole, of today's protocol, and what the pages print."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tables.__main__ import main
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.table import tabulate
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.results.folders import readable
from hierdiff.results.record import Record

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "results" / "study" / "critters-32px-4e13"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_page_prints_the_table_of_the_records(part):
    records, left_out = readable(part)
    assert not left_out
    table = FORMATS["markdown"](tabulate(records))
    rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    found = [page.name for page in PAGES if rows in page.read_text()]
    assert rows and found, f"python -m benchmarks.tables {part} prints what no page has:\n{rows}"


def test_the_study_has_its_rows_by_other_metrics(capsys: pytest.CaptureFixture[str]):
    main([str(STUDY), "--spec", str(ROOT / "examples" / "study.yaml")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 5 and "\n".join(rows) in (ROOT / "docs" / "study.md").read_text()
