"""Progress where the output is no terminal."""

import logging

from benchmarks.progress import EVERY, FIRST, in_lines


def told(caplog, seconds, total):
    """The lines of a work of so many items, each of which takes some seconds."""
    now = [0.0]

    def work():
        for item in range(total):
            now[0] += seconds
            yield item

    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert list(in_lines(work(), "samples", total, lambda: now[0])) == list(range(total))
    return [record.getMessage() for record in caplog.records]


def test_a_line_says_how_far_the_work_is_and_how_long_it_takes_on(caplog):
    assert told(caplog, FIRST, 4)[0] == "samples: 1 of 4, about 0:00:30 left"
    assert told(caplog, EVERY, 3) == [
        "samples: 1 of 3, about 0:02:00 left",
        "samples: 2 of 3, about 0:01:00 left",
    ]


def test_lines_are_few(caplog):
    assert told(caplog, FIRST / 11, 10) == []
    assert len(told(caplog, 1.0, 1000)) == 1 + (1000 - int(FIRST) - 1) // int(EVERY)
