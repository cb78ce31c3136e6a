"""How far a piece of work is: a bar on a terminal, lines with the time left anywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from hierdiff.config import printable

log = logging.getLogger(__name__)

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
FIRST, EVERY = 10.0, 60.0  # seconds to the first line, and between lines


def track(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """The items, with a progress bar on stderr, or lines in the log if it is no terminal.

    total: their number.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return in_lines(items, what, total)
    return track(items, escape(printable(what)), total, console=console)


def in_lines(
    items: Iterable[Any], what: str, total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Any]:
    """The items, with a line in the log from time to time; nothing of work that is soon done.

    clock: seconds.
    """
    began = clock()
    due = began + FIRST
    for done, item in enumerate(items, 1):
        now = clock()
        if due <= now and done < total:
            rest = timedelta(seconds=round((now - began) / done * (total - done)))
            log.info("%s: %d of %d, about %s left", printable(what), done, total, rest)
            due = now + EVERY
        yield item


def quiet(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """The items, and not a word."""
    return items
