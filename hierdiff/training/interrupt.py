"""Ctrl-C, SIGTERM and SIGHUP ask a run to end after the present step; another one ends it at once.

What comes within a second is the same one: a signal to a group of processes may reach one twice.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from hierdiff.config import AGAIN, stop_signals


class Interrupted(KeyboardInterrupt):
    """The run ended early by request, with a checkpoint; the message says how to go on."""


class StopRequest:
    """True once a signal was received inside the `with`; old handlers come back after it."""

    def __init__(self) -> None:
        self._time: float | None = None  # of the first signal, by the monotonic clock
        self._old: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._time is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *stop_signals()):
                self._old[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._time is not None and now - self._time >= AGAIN:
            raise KeyboardInterrupt
        self._time = now if self._time is None else self._time
