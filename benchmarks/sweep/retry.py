"""Failures that may pass by themselves, and how often a run was tried.

A run that failed is tried again from its last checkpoint. What it was refused for, a loss that is
not finite and a lack of memory or of disk would come again: the same options compute the same.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import torch

from hierdiff.results.record import FILE, Record

ASIDE = "failed.json"  # the record of the last try, while and after the run is tried again
# what a network file system says while its server is away
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EAGAIN, errno.EBUSY)


def may_pass(error: BaseException) -> bool:
    """Whether a try that ended so may end otherwise the next time: devices and file systems fail,
    refusals and lacks stay."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, NotImplementedError)):
        return False
    if isinstance(error, OSError):
        return isinstance(error, (ConnectionError, TimeoutError)) or error.errno in AWAY
    return isinstance(error, RuntimeError)


def signal_may_pass(code: int) -> bool:
    """`may_pass` of the exit code of a process: of a signal, but SIGKILL, which comes where memory
    runs out."""
    return code < 0 and code != -signal.SIGKILL


def set_aside(folder: Path) -> None:
    """Keeps the record of a failed try beside the place of the next one."""
    os.replace(folder / FILE, folder / ASIDE)


def tries_of(folder: Path) -> int:
    """The number of the present try in a folder, from 1."""
    try:
        return 1 + int(Record.read(folder / ASIDE).provenance.get("tries", 1))
    except (OSError, ValueError, TypeError):
        return 1
