from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tables.published import (
    FILE,
    Published,
    columns,
    kinds,
    read_rows,
    row_labels,
    select_rows,
    source_notes,
)

HEAD = FILE.read_text(encoding="utf-8").splitlines()[0]
LINE = (
    "ADM,ImageNet,64,FID,2.07,296,,250,classifier,DDPM,50000,ADM suite,README,2105.05233,"
    "https://example.org,2026-11-27,source"
)


def test_every_published_number_passes_its_checks():
    rows = read_rows()
    assert len(rows) == len(FILE.read_text(encoding="utf-8").splitlines()) - 1
    found = {(row.method, row.resolution): row for row in rows if row.metric == "FID"}
    one = found["DiT-XL/2", 256]
    assert (one.value, one.gmacs, one.nfe, one.parameters) == (2.27, 119.0, "250x2", "675+49")
    assert (one.tool, one.count, one.verified) == ("ADM suite", 50000, "source")
    assert found["CDM", 64].gmacs is None and found["CDM", 64].count is None


def test_what_was_read_since_addresses_are_kept_has_one_with_its_day():
    rows = [row for row in read_rows() if row.address or row.read]
    assert {row.method for row in rows} >= {
        *("PixelDiT-XL", "DeCo-XL/16", "PixNerd-XL/16", "DiMR-XL/2R", "MPDiT-XL", "MSF"),
        *("SR-DiT-B/1", "FD-loss one-step generator", "LapFlow"),
    }
    assert all(row.address and row.read for row in rows)


def test_no_number_is_from_memory():
    assert {row.verified for row in read_rows()} == {"source", "restated"}
    assert not {3.21, 2.17, 3.17, 8.18, 3.51, 18.35, 13.43} & {row.value for row in read_rows()}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FID", "FD-EffLite0", "metric 'FD-EffLite0' is unknown: one of FID, IS"),
        (",source", ",memory", "verified is 'memory'"),
        (",source", ",", "verified is empty"),
        ("2.07", "two", "could not convert"),
        ("2.07", "-1", "above 0"),
        ("2.07", "inf", "above 0"),
        ("ImageNet,64", "ImageNet,64.5", "invalid literal"),
        ("296", "296M", "parameters '296M' does not have the form"),
        ("250,", "250 x 2,", "nfe '250 x 2' does not have the form"),
        ("2105.05233", "https://arxiv.org", "url"),
        ("https://example.org", "example.org", "address 'example.org' does not have the form"),
        ("2026-11-27", "yesterday", "read 'yesterday' does not have the form"),
        ("README", "", "source is empty"),
        (",ADM suite", "", "other columns"),
        (LINE, f"{LINE}\n{LINE}", "line 3: ADM, ImageNet, 64, FID is there already"),
        ("50000", "0", "above 0"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number_and_what_is_wrong(tmp_path: Path, old, new, message):
    path = tmp_path / "published.csv"
    path.write_text(f"{HEAD}\n{LINE}\n")
    assert len(read_rows(path)) == 1
    path.write_text(f"{HEAD}\n{LINE.replace(old, new)}\n")
    with pytest.raises(ValueError, match=r"published\.csv, line \d: ") as error:
        read_rows(path)
    assert message in str(error.value)


def test_other_columns_are_refused(tmp_path: Path):
    (tmp_path / "p.csv").write_text(f"{HEAD},more\n")
    with pytest.raises(ValueError, match="has columns .*'more'"):
        read_rows(tmp_path / "p.csv")


def test_conditions_keep_what_they_name():
    rows = select_rows(read_rows(), ["method=ADM,CDM", "resolution=256", "metric=FID"])
    assert {(row.method, row.resolution, row.metric) for row in rows} == {
        ("ADM", 256, "FID"),
        ("CDM", 256, "FID"),
    }
    for wrong in ("tool=ADM suite", "method", "method="):
        with pytest.raises(
            ValueError, match="write method=, dataset=, resolution= or metric=VALUE"
        ):
            select_rows(read_rows(), [wrong])
    with pytest.raises(ValueError, match="no published number has method=XYZ"):
        select_rows(read_rows(), ["method=XYZ"])


def test_fids_of_different_tools_have_different_marks():
    rows = select_rows(
        read_rows(), ["metric=FID", "resolution=256", "method=ADM,DiT-XL/2,CDM,EDM2-XXL"]
    )
    marks = {row.method: row_labels(rows)[row].split()[-1] for row in rows}
    assert marks == {"ADM": "†1", "DiT-XL/2": "†1", "CDM": "†2"}
    assert list(kinds(rows).values()) == ["†1", "†2"]
    assert set(row_labels(select_rows(rows, ["method=ADM,DiT-XL/2"])).values()) == {
        "ADM †",
        "DiT-XL/2 †",
    }


def test_notes_say_tool_count_source_and_what_was_read_second_hand():
    told = list(source_notes(select_rows(read_rows(), ["method=CDM", "resolution=256"])))
    assert told == [
        "† published, not measured here: ImageNet, by TF-GAN, a number of images not stated",
        "published in arXiv: CDM 2106.15282",
        "recipes as stated: CDM at 256 px guidance none",
        "read in tables or notes of others, not at the source: CDM (IS)",
    ]
    assert list(source_notes([])) == []


def test_columns_are_finest_first_and_hold_what_was_published():
    rows: list[Published] = select_rows(read_rows(), ["method=RIN with input scaling"])
    found = columns(rows, quality=True, cost=True)
    assert list(dict.fromkeys(column.group for column in found)) == ["512 px", "256 px"]
    by_heading = {column.heading: cells for column, cells in found.items()}
    assert by_heading["256 px published FID ↓"] == {"RIN with input scaling †": 3.42}
    assert by_heading["512 px published params M"] == {"RIN with input scaling †": "320"}
    assert {column.title for column in columns(rows, quality=True, cost=False)} == {
        "published FID ↓",
        "published IS ↑",
    }


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path):
    path = tmp_path / "published.csv"
    path.write_bytes(b"\xef\xbb\xbf" + FILE.read_bytes().replace(b"\n", b"\r\n"))
    assert read_rows(path) == read_rows()
    path.write_bytes(FILE.read_bytes() + b"caf\xe9")
    with pytest.raises(ValueError, match="is no UTF-8"):
        read_rows(path)
