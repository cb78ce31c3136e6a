"""Processes that apply one function to many items, in order: files are decoded beside the step.

What comes back does not depend on how many there are. A worker ends with the process that started
it, also when that one is killed, and leaves Ctrl-C and SIGTERM to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")
FEW = 8  # items that are not worth another process
MOST = 16  # workers that nobody asked for by number
CHUNK = 64  # items at most that a worker takes at once
SLAB = 8 * CHUNK  # items for each worker that are on their way


def default_workers() -> int:
    """One process for each core that this process may use and shares with no other of the run, but
    for one, which computes."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # systems without affinity
        cores = os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(cores // local - 1, 0), MOST)


class Workers(Generic[In, Out]):
    """`count` processes that call `function`; 0: this one.

    function: must be picklable; what it raises is a result. The processes start with the first
    items that are worth them, and each process that holds a copy of this object has its own.
    """

    def __init__(self, function: Callable[[In], Out], count: int):
        self.function, self.count = function, count
        self._pool: ProcessPoolExecutor | None = None
        self._owner = -1
        self._lock = threading.Lock()

    def map(self, items: Sequence[In]) -> Iterator[Out | Exception]:
        """The result for each item, or what it raised, in order.

        Raises:
            RuntimeError: where a worker was killed.
        """
        if self.count == 0 or len(items) <= FEW:
            yield from map(_Call(self.function), items)
            return
        slab = SLAB * self.count  # results wait in memory until they are taken
        chunk = min(CHUNK, max(1, len(items) // (2 * self.count)))
        try:
            for first in range(0, len(items), slab):
                some = items[first : first + slab]
                yield from self._started().map(_called, some, chunksize=chunk)
        except BrokenProcessPool as error:
            self.close()
            raise RuntimeError(
                f"one of {self.count} processes that decode images was killed, by want of memory "
                f"as a rule: set fewer, data.reading.workers={self.count // 2}"
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None or self._owner != os.getpid():
                kind = "spawn" if sys.platform == "win32" else "forkserver"
                context = multiprocessing.get_context(kind)
                self._pool = ProcessPoolExecutor(
                    self.count, context, initializer=_begin, initargs=(self.function,)
                )
                self._owner = os.getpid()
                weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
            return self._pool

    def close(self) -> None:
        """Ends the processes; the next items start new ones."""
        with self._lock:
            if self._pool is not None and self._owner == os.getpid():
                self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Workers, (self.function, self.count)


class _Call(Generic[In, Out]):
    """A function whose exceptions are results."""

    def __init__(self, function: Callable[[In], Out]):
        self.function = function

    def __call__(self, item: In) -> Out | Exception:
        try:
            return self.function(item)
        except Exception as error:  # decoders raise many kinds on a broken file
            return _plain(error)


def _plain(error: Exception) -> Exception:
    """One that can be sent to another process; the system's errors stay what they are."""
    if isinstance(error, OSError) and error.strerror:
        return OSError(error.errno, error.strerror)
    return ValueError(str(error) or type(error).__name__)


_CALL: _Call[Any, Any] | None = None  # of a worker


def _begin(function: Callable[[Any], Any]) -> None:
    global _CALL
    _CALL = _Call(function)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _called(item: Any) -> Any:
    if _CALL is None:
        raise RuntimeError("a worker has no function: it was not started by Workers")
    return _CALL(item)
