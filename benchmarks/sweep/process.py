"""The process of a job: it ends when its sweep is stopped, and when its sweep is gone."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from benchmarks.sweep.ledger import Ledger
from hierdiff.config import stop_signals

INTERRUPTED = 130  # exit code of a run that was interrupted
FOLLOWS = "HIERDIFF_FOLLOWS"  # environment of a job whose stdin closes when its sweep ends
BUSY = 75  # exit code of a run whose folder another process works on (EX_TEMPFAIL)


@contextmanager
def noting_signals(ledger: Ledger | None = None) -> Iterator[list[int]]:
    """A context in which signals are added to the list and work goes on.

    Ctrl-C reaches the job as well. SIGTERM, SIGHUP and SIGUSR1 may reach this process alone: they
    stop the ledger.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def notice(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT and ledger is not None:
            ledger.stop("cluster" if of_cluster([number]) else "user")

    numbers = [signal.SIGINT, *stop_signals()]
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        numbers.append(signal.SIGUSR1)
    before = {number: signal.signal(number, notice) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def of_cluster(numbers: Sequence[int]) -> bool:
    """Whether a cluster sent one of these signals, which starts again what it ends."""
    return bool({signal.SIGTERM, signal.SIGUSR1} & set(numbers))


def run_process(
    command: Sequence[str], ledger: Ledger | None = None, interrupts: Sequence[int] = ()
) -> tuple[int, str]:
    """The exit code and the last line of stderr, which passes through as it comes.

    interrupts: signals that this process has received, see `noting_signals`. If the sweep is
    stopped, or a launcher's signal handler raises (as submitit's does before the time of a job is
    up), the process gets SIGTERM, writes its checkpoint, and is waited for.
    """
    last = b""
    with spawning(command) as process, stopping_with_sweep(process, ledger, interrupts):
        assert isinstance(process.stderr, io.BufferedReader)
        try:
            while chunk := process.stderr.read1():
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
                last = (last + chunk)[-4000:]
            process.wait()
        except BaseException:
            process.terminate()
            process.communicate()
            raise
    lines = last.decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return process.returncode, lines[-1].strip() if lines else ""


@contextmanager
def stopping_with_sweep(
    process: subprocess.Popen[bytes], ledger: Ledger | None, interrupts: Sequence[int]
) -> Iterator[None]:
    """A context in which the process gets SIGTERM as soon as the sweep is stopped, unless it has
    received Ctrl-C itself."""
    over = threading.Event()

    def watch(ledger: Ledger) -> None:
        while not over.wait(0.2):
            if ledger.stopped and signal.SIGINT not in interrupts:
                process.terminate()
                return

    watcher = threading.Thread(target=watch, args=(ledger,), daemon=True)
    if ledger is not None:
        watcher.start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def spawning(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when this one is gone (see `follow_sweep`).

    It ignores the signals by which Slurm announces the end of a job's time to all processes of the
    job, if this process handles them.
    """
    main = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2) if main}
    handlers = {n: handler for n, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, signal.SIG_IGN)
    theirs, ours = os.pipe()  # the system closes `ours` when this process ends, for whatever reason
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, FOLLOWS: "1"},
        )
    finally:
        os.close(theirs)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        with process:
            yield process
    finally:
        os.close(ours)


def follow_sweep() -> None:
    """In the process of a job: sends it SIGTERM when the process of the sweep is gone."""
    if os.environ.pop(FOLLOWS, None) is None:
        return

    def watch() -> None:
        while os.read(0, 1):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
