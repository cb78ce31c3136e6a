"""What entry points share: errors in one line, what a terminal can show, and the resolved config as
a file.

Exit codes: 1 for an error, 130 for Ctrl-C, SIGTERM and SIGHUP, 141 where nobody reads the output;
commands that train have 85 for SIGTERM and SIGUSR1 (`hierdiff.training.interrupt`).
HIERDIFF_TRACEBACK=1 shows where an error came from.
"""

from __future__ import annotations

import codecs
import functools
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from typing_extensions import override

from hierdiff.files.reading import check_regular

R = TypeVar("R")
T = TypeVar("T")
LARGEST = 1 << 24  # bytes of a config
DEEPEST = 60  # options in options

EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, TypeError)


def reported(main: Callable[..., R]) -> Callable[..., R]:
    """`main` as the body of a command: messages go to stderr, expected errors as one line."""

    @functools.wraps(main)
    def command(*args: Any, **kwargs: Any) -> R:
        prepare_streams()
        log_to_stderr()
        os.environ["MPLBACKEND"] = "agg"  # figures are files; one that is inherited may not be here
        try:
            with stopped_by_signals():
                result = main(*args, **kwargs)
                sys.stdout.flush()
                return result
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(nobody_reads())
        except EXPECTED as error:
            if os.environ.get("HIERDIFF_TRACEBACK") == "1" or _is_bug(error):
                raise
            print(f"error: {_one_line(error)}", file=sys.stderr)
            sys.exit(1)

    return command


AGAIN = 1.0  # seconds in which a signal that comes again is the same one, sent to a group as well


def stop_signals() -> list[int]:
    """SIGTERM and SIGHUP, those that nobody else handles and that are not ignored (nohup)."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [n for n in numbers if signal.getsignal(n) in (signal.SIG_DFL, _stop)]


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    again = bool(_stopped) and now - _stopped[-1] < AGAIN
    _stopped.append(now)
    if not again:
        raise KeyboardInterrupt


_stopped: list[float] = []  # when


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the process as Ctrl-C does, which lets go of its folders."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        _stopped.clear()
        before = {number: signal.signal(number, _stop) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- what a terminal can show

# Controls, lone surrogates, and what changes the direction of writing.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN = {"–": "-", "−": "-", "—": "-", "±": "+-", "↑": "^", "↓": "v", "→": "->", "…": "..."}


def printable(text: str) -> str:
    """Text from elsewhere on one line; what a terminal would obey is written as its escape."""
    return UNSEEN.sub(lambda sign: " " if sign[0].isspace() else ascii(sign[0])[1:-1], text)


def print_whole(console: Any, table: Any) -> None:
    """Prints a table of rich, in a narrow terminal as wide as its cells: rich would cut digits
    off."""
    wide = console.options.update(max_width=10_000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def with_bar(items: Sequence[T], what: str, least: int) -> Iterable[T]:
    """The items; with a bar, on a terminal and where there are `least` or more."""
    if len(items) < least or not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True))


def one_line(text: str) -> str:
    """`printable`, and a single space wherever there is any."""
    return printable(" ".join(text.split()))


class OneLine(logging.Formatter):
    """A message of the log on one line, a traceback below it."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Once(logging.Filter):
    """Passes each warning on once: a method is built several times, on shapes and for the run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        new = text not in self.seen
        self.seen.add(text)
        return new


def log_to_stderr() -> None:
    """Sends log messages to stderr, each on one line and each warning once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    handler.addFilter(Once())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Fabric announces its precision: the record says it
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)


def prepare_streams() -> None:
    """Output fails neither for a sign that the encoding lacks nor for want of a stream."""
    codecs.register_error("hierdiff", _plainer)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="hierdiff")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, ascii(sign)[1:-1]) for sign in lost), error.end


def nobody_reads() -> int:
    """The exit code of a command whose reader is gone (`| head`); what is left goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue
    return 128 + 13


def _is_bug(error: BaseException) -> bool:
    """A TypeError from the registry speaks to the user; any other one is ours to mend."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_by = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, TypeError) and raised_by != "hierdiff.registry"


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        text = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return one_line(text) or type(error).__name__


def to_yaml(node: Mapping[str, Any]) -> bytes:
    """A config as the bytes of a YAML file, in UTF-8 and in its own order."""
    import yaml

    return yaml.safe_dump(dict(node), sort_keys=False, allow_unicode=True).encode()


def from_yaml(path: Path) -> dict[str, Any]:
    """The config in a file that somebody else may have written: plain values, without aliases.

    Raises:
        ValueError: for a file that is too large, too deep or no config.
        OSError: where it cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not read")
            return super().compose_node(parent, index)

    try:
        check_regular(path)
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        node = yaml.load(text.decode(), Loader)  # noqa: S506  (a SafeLoader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            f"{path} is no config of a run ({_one_line(error)}): copy it again from its run"
        ) from error
    if not isinstance(node, dict):
        raise ValueError(f"{path} is no config of a run: it holds a {type(node).__name__}")
    check_depth(node, path)
    return node


def check_depth(node: Any, source: Path) -> None:
    """Checks that lists and mappings nest at most `DEEPEST` deep.

    Raises:
        ValueError: names the file `source`.
    """
    if is_deeper(node, DEEPEST):
        raise ValueError(f"{source} nests more than {DEEPEST} lists and options: no run does that")


def is_deeper(node: Any, most: int) -> bool:
    """Whether lists and mappings nest more than `most` deep."""
    layer = [node]
    for _ in range(most):
        layer = [node for node in layer if isinstance(node, (Mapping, list, tuple))]
        children = [node.values() if isinstance(node, Mapping) else node for node in layer]
        layer = [child for row in children for child in row]
    return bool(layer)


def folder_of_configs() -> str:
    """The YAML files of the commands, which are part of the package."""
    return str(Path(__file__).resolve().parent / "configs")
