"""The process of a job: started, asked to end with its sweep, gone where its sweep is gone."""

from __future__ import annotations

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

INTERRUPTED = 130  # exit code of a run that was asked to stop
FOLLOWS = "HIERDIFF_FOLLOWS"  # tells a job's process that its input closes when its sweep ends
BUSY = 75  # exit code of a run whose folder another process works on (EX_TEMPFAIL)


@contextmanager
def noting_signals(ledger: Ledger | None = None) -> Iterator[list[int]]:
    """Inside, Ctrl-C is added to the list and work goes on: the job has got it as well.

    SIGTERM and SIGHUP, which reach this process alone, are added too and stop the ledger.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def notice(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT and ledger is not None:
            ledger.stop()

    numbers = (signal.SIGINT, *stop_signals())
    before = {number: signal.signal(number, notice) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_process(
    command: Sequence[str], ledger: Ledger | None = None, interrupts: Sequence[int] = ()
) -> tuple[int, str]:
    """The exit code and the last line of stderr, which passes through as it comes.

    interrupts: signals that this process has got, see `noting_signals`. Where the sweep is
    stopped, or a launcher's signal handler raises (submitit's does before a job's time is up), the
    process is asked to end, with its checkpoint, and waited for.
    """
    last = b""
    with spawning(command) as process, stopping_with_sweep(process, ledger, interrupts):
        assert process.stderr is not None
        try:
            while chunk := process.stderr.read1():  # type: ignore[attr-defined]
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
    """Inside, the process is asked to end as soon as the ledger says that the sweep is stopped,
    unless it has had Ctrl-C itself."""
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
    """A process that ends when this one is gone (`follow_sweep`), and that ignores the signals by
    which Slurm tells all those of a job that its time is up, if this one answers them."""
    main = threading.current_thread() is threading.main_thread()
    answered = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2) if main}
    answered = {n: handler for n, handler in answered.items() if callable(handler)}
    for number in answered:
        signal.signal(number, signal.SIG_IGN)
    theirs, ours = os.pipe()  # which the system closes when this process ends, however it does
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
        for number, handler in answered.items():
            signal.signal(number, handler)
    try:
        with process:
            yield process
    finally:
        os.close(ours)


def follow_sweep() -> None:
    """In a job's process: ends it, as SIGTERM does, when the process of the sweep is gone."""
    if os.environ.pop(FOLLOWS, None) is None:
        return

    def watch() -> None:
        while os.read(0, 1):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
