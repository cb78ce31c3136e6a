"""Signals ask a run to end after the present step, with a checkpoint; another one ends it at once.

Ctrl-C and SIGHUP are a user's. SIGTERM and SIGUSR1 are a cluster's, which wants the machine back:
the run is to be started again, and its exit code says so. What comes within a second is the same
signal: one to a group of processes may reach a process twice.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from hierdiff.config import AGAIN, stop_signals

REQUEUE = 85  # exit code of a command that a cluster stopped: give it again, and it goes on
USER, CLUSTER = 1, 2  # who asked, the latter before the former where processes differ


class Interrupted(KeyboardInterrupt):
    """The run ended early by request, with a checkpoint; the message says how to go on.

    requeue: whether a cluster asked, which is to start it again.
    """

    def __init__(self, message: str, *, requeue: bool = False):
        super().__init__(message)
        self.requeue = requeue


class StopRequest:
    """Who asked the run to end by a signal inside the `with`; old handlers come back after it.

    by: 0 for nobody, else `USER` or `CLUSTER`.
    """

    def __init__(self) -> None:
        self.by = 0
        self._time: float | None = None  # of the first signal, by the monotonic clock
        self._old: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.by)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *stop_signals(), *_of_cluster()):
                self._old.setdefault(number, signal.signal(number, self._receive))
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
        cluster = number == signal.SIGTERM or number in _of_cluster()
        self.by = max(self.by, CLUSTER if cluster else USER)


def _of_cluster() -> list[int]:
    """SIGUSR1, where the system has it: what Slurm and submitit send before the time is up."""
    return [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
