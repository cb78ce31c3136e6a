"""One image of a table is read from its page, whatever the writer; memory is bounded."""

from __future__ import annotations

import random
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierdiff.data import pages
from hierdiff.data import parquet as tables
from hierdiff.data.parquet import Cell, Columns, read_cell, read_table
from hierdiff.files.reading import Damaged

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
COUNT = 60


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_pages", OrderedDict())


def contents(nulls: bool = False) -> list[bytes | None]:
    """Files of 0 to 3,000 bytes, some of them there twice."""
    draw = np.random.default_rng(0)
    sizes = [0, 1, *draw.integers(2, 3000, COUNT - 2).tolist()]
    found: list[bytes | None] = [draw.bytes(size) for size in sizes]
    found[7] = found[31] = found[3]
    return [None if nulls and i % 5 == 0 else one for i, one in enumerate(found)]


def written(path: Path, values: list[bytes | None], struct: bool, **options: Any) -> Path:
    given = [one if one is None else {"bytes": one, "path": "x"} for one in values]
    table = pa.table({"number": range(len(values)), "image": given if struct else values})
    pq.write_table(table, path, **{"row_group_size": 25, "write_batch_size": 4, **options})
    return path


def cells(path: Path) -> list[Cell]:
    return [row.cell for row in read_table(path, Columns("image", None, None, None))]


def check(path: Path, values: list[bytes | None]) -> None:
    """Every image in random order; one that is null is an error."""
    order = list(enumerate(cells(path)))
    random.Random(0).shuffle(order)
    for number, cell in order:
        if values[number] is None:
            with pytest.raises(Damaged, match="no bytes"):
                read_cell(cell)
        else:
            assert read_cell(cell) == values[number]


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("nulls", [True, False])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli"])
def test_pages_hold_what_was_written(tmp_path, struct, nulls, version, dictionary, codec):
    values = contents(nulls)
    path = written(
        *(tmp_path / "a.parquet", values, struct),
        **{"data_page_version": version, "use_dictionary": dictionary, "compression": codec},
        **{"data_page_size": 4000, "dictionary_pagesize_limit": 9000},
    )
    chunk = pages.chunk_of(str(path), pages.stamp(str(path)), 0, "image")
    assert chunk is not None and len(chunk.pages) > 2
    assert (chunk.dictionary is not None) == dictionary
    check(path, values)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lz4"},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY"}},
    ],
)
def test_forms_that_are_unknown_are_read_by_row_groups(tmp_path, options):
    values = contents()
    path = written(tmp_path / "a.parquet", values, False, **options)
    assert pages.chunk_of(str(path), pages.stamp(str(path)), 0, "image") is None
    check(path, values)


def test_one_image_costs_its_page_and_the_last_pages_are_kept(tmp_path, monkeypatch):
    values = contents()
    options = {"use_dictionary": False, "row_group_size": COUNT, "write_batch_size": 1}
    path = written(tmp_path / "a.parquet", values, True, data_page_size=3000, **options)
    some, read = cells(path), []
    chunk = pages.chunk_of(str(path), pages.stamp(str(path)), 0, "image")
    whole = sum(page.packed for page in chunk.pages)
    monkeypatch.setattr(
        tables, "values_of", lambda *given: read.append(given[1]) or pages.values_of(*given)
    )
    read_cell(some[40])
    assert [page.first <= 40 < page.first + page.rows for page in read] == [True]
    assert read[0].packed < whole / 8
    for _ in range(2):
        for cell in some:
            read_cell(cell)
    assert len(read) == len(chunk.pages)  # each once, since all fit
    monkeypatch.setattr(tables, "KEPT", 8000)
    for cell in some:
        read_cell(cell)
        held = sum(page.nbytes for page in tables._pages.values())
        assert held <= 8000 or len(tables._pages) == 1


def test_a_file_that_was_changed_anywhere_gives_an_error_or_bytes_and_never_hangs(tmp_path):
    values = contents()
    path = written(tmp_path / "a.parquet", values, True, data_page_size=4000, compression="none")
    whole, draw = path.read_bytes(), random.Random(1)
    chunk = pages.chunk_of(str(path), pages.stamp(str(path)), 0, "image")
    starts = [page.start for page in chunk.pages]
    some = cells(path)
    for trial in range(30):
        broken = bytearray(whole)
        for _ in range(3):
            broken[draw.choice(starts) + draw.randrange(-30, 30)] = draw.randrange(256)
        other = tmp_path / f"{trial}.parquet"
        other.write_bytes(broken)
        for cell in some[:25:6]:
            with suppress(ValueError, OSError, IndexError, KeyError, TypeError):
                assert isinstance(read_cell(cell._replace(path=str(other))), bytes)


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    path = written(tmp_path / "a.parquet", contents(), True)
    first = read_cell(cells(path)[5])
    written(path, contents()[::-1], True)
    assert read_cell(cells(path)[5]) == contents()[::-1][5] != first
