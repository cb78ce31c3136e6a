"""The page of runs while they train, and what stands beside their samples."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report.__main__ import INDEX, main
from benchmarks.report.live import ALIVE, POINTS, live_folders, live_run
from benchmarks.report.pictures import ReportFiles, shown_labels
from tests.benchmarks.rows import five

REFRESH = '<meta http-equiv="refresh" content="7">'


def training(folder: Path, lines: int = 3) -> Path:
    """A run of which there are some lines of a log and a sheet."""
    (folder / "samples").mkdir(parents=True)
    made = [
        {"step": i, "stage": "32", "images": 8 * i, "loss": 2.0 / i, "loss/32": 1.0 / i}
        for i in range(1, lines + 1)
    ]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in made))
    (folder / "config.yaml").write_text("trainer: {steps: 4000}\n")
    Image.new("RGB", (40, 20), "red").save(folder / "samples" / "step_0000003.png")
    return folder


def test_a_run_in_training_says_how_far_it_is(tmp_path: Path):
    files = ReportFiles()
    run = live_run(training(tmp_path / "mdm"), files)
    assert (run.name, run.progress) == ("mdm", "step 3 of 4,000, stage 32, 24 images")
    assert run.charts is not None and "total" in run.charts.images[0].svg
    assert run.gallery is not None and run.gallery.figures[0].caption == "after 3 steps"
    assert len(files.contents) == 1


def test_a_long_log_is_thinned_to_its_means(tmp_path: Path):
    run = live_run(training(tmp_path / "mdm", 10 * POINTS), ReportFiles())
    assert run.charts is not None
    assert run.charts.images[0].svg.count("L") < 3 * POINTS


def test_a_run_is_live_until_its_record_or_an_hour_of_silence(tmp_path: Path):
    folder = training(tmp_path / "mdm")
    assert live_folders([tmp_path]) == [folder]
    later = max(path.stat().st_mtime for path in folder.iterdir()) + ALIVE + 1
    assert live_folders([tmp_path], now=later) == []
    five()[0].write(folder)
    assert live_folders([tmp_path]) == []


def test_the_page_is_written_again_and_ends_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    folder, pages = training(tmp_path / "runs" / "mdm"), []

    def meanwhile(seconds: float) -> None:
        assert seconds == 7
        pages.append((tmp_path / "page" / INDEX).read_text(encoding="utf-8"))
        if len(pages) == 1:
            with (folder / "log.jsonl").open("a") as log:
                log.write('{"step": 9, "stage": "32", "images": 72, "loss": 0.1}\n')
            os.utime(folder / "log.jsonl", (2e9, 2e9))
        else:
            five()[0].write(folder)

    monkeypatch.setattr("benchmarks.report.__main__.time.sleep", meanwhile)
    main([str(tmp_path / "runs"), "-o", str(tmp_path / "page"), "--watch", "7"])
    assert [REFRESH in page for page in pages] == [True, True]
    assert "step 3 of 4,000" in pages[0] and "step 9 of 4,000" in pages[1]
    last = (tmp_path / "page" / INDEX).read_text(encoding="utf-8")
    assert "refresh" not in last and "In training" not in last and "1 run on critters" in last
    assert capsys.readouterr().out.count("1 in training") == 2


def test_the_class_or_caption_of_each_sample_stands_beneath_the_sheet(tmp_path: Path):
    five()[0].write(tmp_path / "runs" / "a")
    Image.new("RGB", (80, 20), "red").save(tmp_path / "runs" / "a" / "samples.png")
    facts = [
        {"image": 0, "class": "fox", "caption": None},
        {"image": 1, "class": "owl", "caption": "an <owl>"},
    ]
    (tmp_path / "runs" / "a" / "shown.json").write_text(json.dumps(facts))
    main([str(tmp_path / "runs"), "-o", str(tmp_path / "page")])
    page = (tmp_path / "page" / INDEX).read_text(encoding="utf-8")
    assert '<ol class="labels"><li>fox</li><li>an &lt;owl&gt;</li></ol>' in page


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": 1}', '[{"class": null}]', "\x00"])
def test_labels_that_cannot_be_read_are_none(tmp_path: Path, content: str):
    (tmp_path / "shown.json").write_text(content)
    assert shown_labels(tmp_path) == []
