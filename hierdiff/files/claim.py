"""Claims: a file says which process holds something, on file systems that know no locks.

The creation of a name is atomic also on a network file system, so that of several processes one
links its file to the name. The holder renews the file every `BEAT` seconds. A claim is taken over
when its holder is gone: at once if the process ran on this machine, otherwise after `STALE` seconds
without a change by the clock of whoever watches, so that clocks of machines need not agree.

Who takes a claim over first claims its succession, a name with the token of the old claim: of
several that find it abandoned, one gets it. A claim that was let go stays as a free one: names are
replaced and never removed, so that nobody removes the claim of another.
"""

from __future__ import annotations

import _thread
import hashlib
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from hierdiff.files.reading import from_json

log = logging.getLogger(__name__)
BEAT = 10.0  # seconds between two renewals
STALE = 120.0  # seconds without a change after which a claim of another machine is abandoned
UNREADABLE = 2.0  # ... of a file that names no holder: in the making, or of an older version
POLL = 0.5  # seconds between two looks
SIZE = 512  # bytes of a claim, so that it is renewed in place


class Held(OSError):
    """Another process holds a claim."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim.

    token: of this claim alone. machine: a digest, equal where process numbers mean the same.
    began: when the process started, by the system's count; "" where unknown. renewed: seconds since
    1970, which change while the holder lives. free: whether it was let go.
    """

    token: str
    host: str
    machine: str
    pid: int
    began: str
    renewed: float
    free: bool = False

    @classmethod
    def here(cls) -> Holder:
        """This process, with a new token."""
        pid, host = os.getpid(), socket.gethostname()[:100]
        return cls(secrets.token_hex(8), host, machine(), pid, began_at(pid), time.time())

    @property
    def lives(self) -> bool | None:
        """Whether the process is there; None where this machine cannot know."""
        if self.free:
            return False
        if self.machine != machine():
            return None
        began = began_at(self.pid)
        if began and self.began:
            return began == self.began
        return None if process_exists(self.pid) else False

    def content(self) -> bytes:
        """The bytes of the file."""
        return json.dumps(asdict(self)).encode().ljust(SIZE)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def machine() -> str:
    """A digest of the host, its start and the space of process numbers (that of a container)."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def began_at(pid: int) -> str:
    """When a process started, in ticks since the start of Linux; "" for no such process, one that
    has ended and is waited for by nobody, and on other systems."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]


def process_exists(pid: int) -> bool:
    """Whether a process of this machine has the number and has not ended."""
    if os.name != "posix":  # there, a signal 0 would end it
        return True
    if Path("/proc/self/stat").exists():
        return bool(began_at(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Watch:
    """How long claims have been seen unchanged, by the monotonic clock of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def unchanged(self, path: Path, content: bytes) -> float:
        """Seconds since this content of the file was first seen."""
        before = self._seen.get(path)
        if before is None or before[0] != content:
            before = self._seen[path] = (content, self._clock())
        return self._clock() - before[1]

    def abandoned(self, path: Path, content: bytes) -> bool:
        """Whether a claim with this content may be taken over."""
        holder = holder_of(content)
        lives = None if holder is None else holder.lives
        if lives is not None:
            return not lives
        return self.unchanged(path, content) >= (UNREADABLE if holder is None else STALE)


@contextmanager
def claimed(path: Path, watch: Watch | None = None) -> Iterator[None]:
    """Holds the claim `path`, in a folder that exists; it is renewed by a thread meanwhile.

    If it is lost to another process (this one did not run for `STALE` seconds), the main thread
    gets SIGTERM where it handles that.

    watch: decides at once by what it has seen, so that a claim of another machine is taken over by
        a later call; None: waits until it is renewed, or abandoned.

    Raises:
        Held: where another process holds it.
        OSError: where the folder cannot be written to.
    """
    me = Holder.here()
    own = _beside(path, me.token)
    try:
        own.write_bytes(me.content())
        _take(path, own, me, watch)
    finally:
        own.unlink(missing_ok=True)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, me, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        with suppress(OSError):
            _rewrite(path, replace(me, free=True))


def holder_at(path: Path) -> Holder | None:
    """Who holds a claim, None for nobody; a holder on another machine may be gone."""
    holder = holder_of(_read(path) or b"")
    return None if holder is None or holder.lives is False else holder


def holder_of(content: bytes) -> Holder | None:
    """The holder of the bytes of a claim; None where they name none."""
    try:
        return Holder(**from_json(content))
    except (ValueError, TypeError):
        return None


def _take(path: Path, own: Path, me: Holder, watch: Watch | None) -> None:
    """Gives the file `own` of this process the name `path`.

    Raises:
        Held: where another process has it.
    """
    patient, watch = watch is None, watch or Watch()
    first: bytes | None = None
    while not _link(own, path, me):
        content = _read(path)
        if content is None:  # it was removed with its folder's first holder
            continue
        if not watch.abandoned(path, content):
            first = content if first is None else first
            if not patient or _is_renewed(first, content):
                raise Held(f"{path} is held by {holder_of(content) or 'an unknown process'}")
            time.sleep(POLL)
            continue
        successor = _beside(path, _token(content))
        _take(successor, own, me, None if patient else watch)
        try:
            now = _read(path)
            if now is not None and _token(now) == _token(content):
                os.replace(successor, path)
                return
        finally:
            successor.unlink(missing_ok=True)


def _beside(path: Path, token: str) -> Path:
    """A name beside a claim; what a kill leaves under it is cleaned like any half-written file."""
    return path.with_name(f".{path.name.lstrip('.')[:40]}.{token}.part")


def _is_renewed(first: bytes, content: bytes) -> bool:
    """Whether the holder of a claim is known to live: it does here, or it has renewed the claim."""
    holder = holder_of(content)
    return holder is not None and (holder.lives is True or content != first)


def _token(content: bytes) -> str:
    """The token of a claim; of a file that names no holder, a digest."""
    holder = holder_of(content)
    return hashlib.sha256(content).hexdigest()[:16] if holder is None else holder.token


def _link(own: Path, path: Path, me: Holder) -> bool:
    """Whether the name `path` is new and ours; a copy of the file where there are no hard links."""
    try:
        os.link(own, path)
    except FileExistsError:  # by ourselves, where the answer of a server was lost
        return _is_same(own, path)
    except FileNotFoundError:  # it was cleaned away; an error where the folder is gone
        own.write_bytes(me.content())
        return False
    except OSError:
        try:
            with path.open("xb") as file:
                file.write(me.content())
        except FileExistsError:
            return False
    return True


def _is_same(own: Path, path: Path) -> bool:
    try:
        return own.samefile(path)
    except FileNotFoundError:
        return False


def _read(path: Path) -> bytes | None:
    """The bytes of a claim, None where there is none. Opening a file asks the server for its
    content, where its time and size may be remembered."""
    try:
        with path.open("rb") as file:
            return file.read(SIZE)
    except FileNotFoundError:
        return None


def _renew(path: Path, me: Holder, over: threading.Event) -> None:
    """Renews a claim until `over`, or until another process has it."""
    while not over.wait(BEAT):
        try:
            if not _rewrite(path, replace(me, renewed=time.time())):
                log.error("%s was taken over: this process did not run for %g s", path, STALE)
                _thread.interrupt_main(signal.SIGTERM)
                return
        except FileNotFoundError:  # its folder was removed
            return
        except OSError as error:
            log.warning("%s cannot be renewed: %s", path, error)


def _rewrite(path: Path, me: Holder) -> bool:
    """Writes a claim anew, in place, so that what took its name stays; whether it is still ours."""
    with path.open("r+b") as file:
        if _token(file.read(SIZE)) != me.token:
            return False
        file.seek(0)
        file.write(me.content())
        file.flush()
        os.fsync(file.fileno())
        return True
