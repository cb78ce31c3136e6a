"""A progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hierdiff.config import printable

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


def track(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """The items, with a progress bar on stderr if it is a terminal; total: their number."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    console = Console(stderr=True)
    what = escape(printable(what))
    return track(items, what, total, console=console, disable=not console.is_terminal)
