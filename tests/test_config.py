"""Commands work in whatever environment they are given: streams, encodings, homes, signals."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from logging import INFO, WARNING, makeLogRecord
from pathlib import Path
from typing import Any

import pytest

from hierdiff.config import Once, OneLine, one_line, printable, reported
from hierdiff.data import cache
from hierdiff.data.cache import cache_folder
from tests.benchmarks.rows import five
from tests.benchmarks.test_run import QUICK

TABLES = [sys.executable, "-m", "benchmarks.tables"]


def test_what_a_terminal_would_obey_is_written_as_its_escape():
    assert printable("a\x1b[31mb\x9bc\u202ed\ud800") == r"a\x1b[31mb\x9bc\u202ed\ud800"
    assert printable("a\nb\tc\u2028d") == "a b c d"
    assert one_line(" a \n\n b ") == "a b"
    assert printable("é 日本 😀 [red]") == "é 日本 😀 [red]"


def test_messages_of_a_log_are_one_plain_line():
    record = logging.LogRecord("a", logging.INFO, "", 0, "read %s", ("\x1b[2J\n",), None)
    assert OneLine().format(record) == r"read \x1b[2J "


def ended(main: Callable[[], Any]) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        reported(main)()
    return end.value.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_end_a_command_as_ctrl_c_does(number, capsys):
    closed, before = [], signal.getsignal(number)

    def main() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            closed.append(True)

    assert ended(main) == 130 and closed
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_hang_up_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert reported(lambda: os.kill(os.getpid(), signal.SIGHUP))() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_is_said_to_a_reader_that_is_gone(monkeypatch, capsys):
    def main() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    assert ended(main) == 141
    assert capsys.readouterr().err == ""


def test_an_encoding_without_a_sign_gets_a_plainer_one(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    reported(lambda: print("1 ± 2 – 日"))()
    assert out.buffer.getvalue() == b"1 +- 2 - \\u65e5\n"


def test_without_a_home_that_can_be_written_to_the_cache_is_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HIERDIFF_CACHE", raising=False)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "hierdiff"
    (tmp_path / "file").write_text("")
    own = tmp_path / f"hierdiff-{os.getuid()}"
    for unknown in (True, False):
        cache._temporary.cache_clear()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        if unknown:
            monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        assert cache_folder() == own
        assert own.stat().st_mode & 0o777 == 0o700
        assert cache_folder("~/mine").name == "mine"
    own.rmdir()
    own.symlink_to(tmp_path / "home")
    cache._temporary.cache_clear()
    with pytest.raises(OSError, match="is another user's: set HIERDIFF_CACHE"):
        cache_folder()


def table(tmp_path: Path, redirect: str = "", **environment: str) -> Any:
    for i, one in enumerate(five()):
        one.write(tmp_path / str(i))
    line = f'"$@" {redirect}'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", "bash", *TABLES, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
    )


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.slow
def test_a_table_is_printed_into_any_stream(tmp_path: Path):
    whole = table(tmp_path)
    assert whole.returncode == 0 and "–".encode() in whole.stdout
    plain = table(tmp_path, **ASCII)
    assert (plain.returncode, plain.stderr) == (0, b"") and plain.stdout.isascii()
    for redirect in ("2>&-", "<&-", "2>&- <&-"):
        assert table(tmp_path, redirect).stdout == whole.stdout
    assert table(tmp_path, ">&-").returncode == 0
    gone = table(tmp_path, "| true")
    assert gone.returncode in (0, 141) and gone.stderr == b""


STRANGE: dict[str, dict[str, str | None]] = {
    "a notebook's backend": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "a backend that is not there": {"MPLBACKEND": "nonsense"},
    "no home": {"HOME": None, "USER": None, "LOGNAME": None},
    "ASCII": {**ASCII},
    "a terminal that knows nothing": {"TERM": "dumb", "COLUMNS": "7", "NO_COLOR": "1"},
    "another zone": {"TZ": "Asia/Kathmandu", "LC_NUMERIC": "de_DE.UTF-8", "LANG": "C"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "no home" else pytest.mark.trial)
        for name in STRANGE
    ],
)
def test_a_run_ends_with_its_row(name: str, tmp_path: Path):
    environment = {k: v for k, v in {**os.environ, **STRANGE[name]}.items() if v is not None}
    words = ["method=end_to_end", "data.resolution=16", "method.resolutions=[16]", *QUICK]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *words, f"folder={tmp_path / 'run'}"],
        env={**environment, "JAXTYPING_DISABLE": "1"},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    assert b"Traceback" not in run.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"record.json", "loss.png", "samples.png", "weights.safetensors"} <= names


def test_a_warning_is_passed_on_once_and_other_lines_each_time():
    once = Once()
    lines = [(WARNING, "no cache"), (WARNING, "no cache"), (INFO, "step"), (INFO, "step")]
    records = [makeLogRecord({"levelno": level, "msg": text}) for level, text in lines]
    assert [once.filter(record) for record in records] == [True, False, True, True]
