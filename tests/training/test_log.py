"""Lines of a run's log are means of what was told since the line before."""

from pathlib import Path

import pytest

from hierdiff.files.log import read_log
from hierdiff.training.log import Log


def test_a_mean_is_over_the_steps_that_told_its_name(tmp_path: Path):
    log = Log(tmp_path / "log.jsonl")
    for told in ({"loss": 1.0}, {"loss": 3.0, "weight": 8.0}, {"loss": 5.0, "weight": 4.0}):
        log.add(told)
    log.line(step=3)
    log.add({"loss": 2.0})
    log.line(step=4)
    assert read_log(log.path) == [{"step": 3, "loss": 3.0, "weight": 6.0}, {"step": 4, "loss": 2.0}]


def test_a_name_that_starts_inside_an_interval_survives_a_resume(tmp_path: Path):
    told: list[dict[str, float]] = [{"loss": 1.0}, {"loss": 2.0, "weight": 6.0}, {"weight": 2.0}]
    log = Log(tmp_path / "log.jsonl")
    for values in told[:2]:
        log.add(values)
    again = Log(tmp_path / "log.jsonl")
    again.load(log.state())
    again.add(told[2])
    again.line(step=3)
    assert read_log(again.path) == [{"step": 3, "loss": 1.5, "weight": 4.0}]


def test_no_line_is_written_where_nothing_was_told(tmp_path: Path):
    log = Log(tmp_path / "log.jsonl")
    log.line(step=1)
    assert read_log(log.path) == []


def test_sums_of_an_older_checkpoint_are_read(tmp_path: Path):
    """They had one count for all."""
    log = Log(tmp_path / "log.jsonl")
    log.load({"bytes": 0, "sums": {"loss": 8.0}, "count": 4})
    log.line(step=4)
    assert read_log(log.path) == [{"step": 4, "loss": 2.0}]


def test_a_damaged_line_is_named(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1, "name": "a\xe2\x80\xa8b"}\n{"step": 2}\n{"step": 3')
    assert [line["step"] for line in read_log(path)] == [1, 2]
    path.write_bytes(b'{"step": 1}\n{"step" 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl:2 is no line of a log"):
        read_log(path)
