"""C that is compiled on the machine that runs it, when it is first needed, and kept in the cache.

Plain C, called through ctypes with addresses. `#pragma omp` takes its threads from the OpenMP that
torch has loaded: a second one would have threads of its own, beside those of torch. Without a
compiler, or where anything else stands in the way, there is no library, and a line of the log says
why: whoever asks for one can do without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hierdiff.files.atomic import write
from hierdiff.files.cache import built_by_one
from hierdiff.files.digest import check_seal, seal
from hierdiff.files.reading import Damaged

log = logging.getLogger(__name__)
# no `-ffast-math`: NaN, infinity and the order of sums stay as they are written
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
THREADS = ("-fopenmp",)  # when compiling, not when linking
TIME = 120.0  # seconds that a compiler may take
used: dict[str, str] = {}  # compiler of each file whose library was loaded, for the record


@functools.cache
def library(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """The functions of a C file; definitions: `NAME=VALUE`, of its macros. None where it cannot be
    compiled, kept or loaded; CC= (nothing) in the environment has it so."""
    try:
        compiler, version = _compiler()
        flags = (*FLAGS, *(f"-D{one}" for one in definitions))
        try:
            loaded = ctypes.CDLL(str(_built(source, compiler, version, (*flags, *THREADS))))
        except (OSError, RuntimeError):  # a compiler or a torch without this OpenMP
            loaded = ctypes.CDLL(str(_built(source, compiler, version, flags)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _say(source.name, str(error))
        return None
    used[source.name] = version
    return loaded


@functools.cache
def _say(name: str, reason: str) -> None:
    log.info("%s is not compiled, torch's own operations take its place: %s", name, reason)


def _compiler() -> tuple[list[str], str]:
    """The command of the system's C compiler and the first line of what it says of its version.

    Raises:
        OSError: where there is none.
    """
    given = os.environ.get("CC")
    for name in ("cc", "gcc", "clang") if given is None else (given,):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            said = subprocess.run([*command, "--version"], capture_output=True, timeout=TIME)
            return command, said.stdout.decode(errors="replace").partition("\n")[0]
    raise OSError("there is no C compiler" + ("" if given is None else f" CC={given!r}"))


def _built(source: Path, compiler: Sequence[str], version: str, flags: Sequence[str]) -> Path:
    """The library in the cache folder, compiled unless it is there whole.

    Its name tells machines apart that share the folder, since code for one may be none for another,
    and users.

    Raises:
        OSError: where it cannot be written, or another user wrote it.
        RuntimeError: where it does not compile.
    """
    from hierdiff.data.cache import cache_folder

    user = os.getuid() if hasattr(os, "getuid") else None
    parts = (source.read_text("utf-8"), version, *compiler, *flags, _processor(), str(user))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    place = cache_folder() / "native" / f"{source.stem}-{name}.so"
    if not _is_whole(place):
        with built_by_one(place) as part:
            if not _is_whole(place):  # else another process was first
                part.mkdir()
                content = _compile(source, part, compiler, flags)
                seal(place, hashlib.sha256(content).hexdigest())
                write(place, content)
    if user not in (None, place.stat().st_uid):
        raise OSError(f"{place} is another user's")
    return place


def _is_whole(place: Path) -> bool:
    try:
        check_seal(place)
    except (FileNotFoundError, Damaged):
        return False
    return True


def _compile(source: Path, folder: Path, compiler: Sequence[str], flags: Sequence[str]) -> bytes:
    """The content of the library; folder: for what is made on the way.

    Raises:
        RuntimeError: with what the compiler says.
    """
    code, result = folder / "code.o", folder / "library.so"
    # linked alone: its functions are sought among those that the process has
    for step in (
        (*flags, "-c", str(source), "-o", str(code)),
        ("-shared", "-nostdlib", str(code), "-o", str(result)),
    ):
        ran = subprocess.run([*compiler, *step], capture_output=True, timeout=TIME)
        if ran.returncode:
            lines = ran.stderr.decode(errors="replace").splitlines() or [f"code {ran.returncode}"]
            worst = next((line for line in lines if "error" in line), lines[0])
            raise RuntimeError(f"{shlex.join(compiler)} fails: {worst}")
    return result.read_bytes()


def _processor() -> str:
    """What `-march=native` looks at, of all cores."""
    kinds = ("model name", "flags", "Features", "CPU")
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n")
    except OSError:
        return "\n".join(os.uname()) if hasattr(os, "uname") else ""
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
