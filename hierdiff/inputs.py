"""What a run is made from beside its options: hashes of its data, of files and of others' code.

A record and a checkpoint carry them, and are the answer to the same options only while they hold:
`changed` names the first input that has another content than it had. The version of hierdiff itself
is provenance and no input: a record says which commit made it, and later ones still print it.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from hierdiff.files.digest import read_json, sha256_of_file, write_json
from hierdiff.files.reading import Damaged
from hierdiff.registry import PLUGINS
from hierdiff.trust import imported_names, is_installed, origins

# folders that options name and that are no input: the digest of the data stands for its files
NO_INPUT = ("data.root", "data.test_root", "data.cache", "method.codec.cache")
LARGE = 1 << 20  # bytes from which on a file's hash is kept
MANY = 10_000  # files of a folder that an option names; `/` and a home have more
SETTLED = 2.0  # seconds after which a change of a file has another time stamp


class TooMany(ValueError):
    """A folder has more files than an input of a run."""


def inputs(
    options: Mapping[str, Any], *, data: str | None = None, files: Mapping[str, Path] | None = None
) -> dict[str, str]:
    """SHA-256 of each input by name.

    The names are `data`, the whole path of an option that names a file or folder, and those of
    `sources`.

    options: a resolved config. data: digest of the data. files: further ones, by name.

    Raises:
        ValueError: where an option names a folder of more than `MANY` files.
    """
    digests = {"data": data} if data is not None else {}
    for key, value in leaves(options):
        path = _path(value) if "." in key and not key.endswith(".name") else None
        if path is not None and key not in NO_INPUT:
            try:
                digests[key] = digest(path)
            except TooMany as error:
                if not key.startswith("data."):  # whose digest stands for its images
                    raise ValueError(f"{key}={value}: {error}") from error
    for name, path in (files or {}).items():
        digests[name] = digest(path)
    return digests | sources(options)


def sources(options: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of code by `source of PACKAGE`: what a resolved config names as
    `package.module:Class`, and what is announced as a plugin."""
    digests = {}
    modules = [name.partition(":")[0] for name in imported_names(options)]
    for module in [*modules, *(entry.module for entry in entry_points(group=PLUGINS))]:
        source = source_of(module)
        if source is not None:
            digests[f"source of {module.partition('.')[0]}"] = source
    return digests


def changed(was: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first input whose content differs; an input that only one of the two has does not
    count."""
    return next((name for name in sorted({*was} & {*now}) if was[name] != now[name]), None)


def source_of(module: str) -> str | None:
    """SHA-256 of the Python files of a module's package, or of the file of a single module.

    The files of imported code that is not installed are part of it. None for hierdiff's own modules
    and for modules without files.
    """
    if module.partition(".")[0] in _own():
        return None
    cached = _SOURCES.get(module)
    if cached is None or cached.stamp != _stamp(cached.files):
        files = _source_files(module)
        if not files:
            return None
        cached = Source(files, _stamp(files), _of_all(dict(files)))
        if time.time() - max(max(times) for *_, times in cached.stamp) > SETTLED:
            _SOURCES[module] = cached
    return cached.digest


Stamp = tuple[tuple[int, int, tuple[float, float]], ...]


class Source(NamedTuple):
    """What a module's source is made of, its state on the disk, and its digest."""

    files: tuple[tuple[str, Path], ...]
    stamp: Stamp
    digest: str


_SOURCES: dict[str, Source] = {}  # of this process, each as long as nothing on the disk changes


def _stamp(files: Iterable[tuple[str, Path]]) -> Stamp:
    """Sizes and times of change of the files and of their folders, where a new file shows."""
    places = dict.fromkeys(place for _, path in files for place in (path, path.parent))
    stats = [place.stat() for place in places if place.exists()]
    return tuple((one.st_ino, one.st_size, (one.st_mtime, one.st_ctime)) for one in stats)


def _source_files(module: str) -> tuple[tuple[str, Path], ...]:
    found = origins(module)
    if not found:
        return ()
    files = _files_of(module, found[0])
    rest = list(files.values())
    seen, asked = set(rest), set[str]()
    while rest:
        names = dict.fromkeys(_imports(rest.pop()))
        for name in [name for name in names if name not in asked]:
            asked.add(name)
            package, found = name.partition(".")[0], origins(name)
            if package in _own() or not found or is_installed(found[0]):
                continue
            new = {
                f"{package}:{place}": path
                for place, path in _files_of(name, found[0]).items()
                if path not in seen
            }
            files |= new
            rest += new.values()
            seen.update(new.values())
    return tuple(files.items())


def _files_of(module: str, first: Path) -> dict[str, Path]:
    """The Python files of a module's package, or its own, by their place in its folder; first: what
    an import of it runs first."""
    whole = first.name.startswith("__init__.") or first.parent.name == module.partition(".")[0]
    paths = sorted(first.parent.rglob("*.py")) if whole else [first]
    return {path.relative_to(first.parent).as_posix(): path for path in paths}


def _imports(path: Path) -> Iterator[str]:
    """The modules that a file imports by their whole names, anywhere in it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # its import says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names.

    Raises:
        TooMany: before any is read, for a folder of more than `MANY` files and folders.
    """
    if path.is_file():
        return sha256(path)
    inside = list(itertools.islice(path.rglob("*"), MANY + 1))
    if len(inside) > MANY:
        raise TooMany(
            f"{path} holds more than {MANY} files, too many to be an input of a run: name the "
            f"folder inside that is one"
        )
    return _of_all({p.relative_to(path).as_posix(): p for p in sorted(inside)})


def sha256(path: Path) -> str:
    """SHA-256 of a file's content.

    That of a large file is stored in the cache folder under its path, inode, size and times of
    change. A file whose size is 0 is not read: those of the system (`/proc`) may never end.
    """
    from hierdiff.data.cache import cache_folder  # which imports this module

    stat = path.stat()
    last = max(stat.st_mtime, stat.st_ctime)
    cached = None
    if stat.st_size >= LARGE and time.time() - last > SETTLED:
        times = (stat.st_mtime_ns, stat.st_ctime_ns)
        key = repr((str(path.resolve()), stat.st_dev, stat.st_ino, stat.st_size, times))
        name = hashlib.sha256(key.encode()).hexdigest()
        cached = cache_folder() / "hashes" / f"{name}.json"
        with contextlib.suppress(OSError, Damaged):
            return str(read_json(cached))
    if stat.st_size == 0:
        return hashlib.sha256().hexdigest()
    found = sha256_of_file(path)
    if cached is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            write_json(cached, found)
    return found


def _of_all(paths: Mapping[str, Path]) -> str:
    total = hashlib.sha256()
    for name, path in paths.items():
        if path.is_file():
            total.update(f"{name}\0{sha256(path)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their whole paths, places in lists too: `method.stages.0.weights`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}{key}.")
    elif isinstance(node, (list, tuple)):
        for place, value in enumerate(node):
            yield from leaves(value, f"{prefix}{place}.")
    else:
        yield prefix.removesuffix("."), node


def _path(value: Any) -> Path | None:
    """The file or folder that a value names, if it is there."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        return None
    try:
        path = Path(value).expanduser()
        return path if path.is_file() or path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, an unknown home
        return None


@cache
def _own() -> frozenset[str]:
    """Packages that come with hierdiff."""
    own = {"hierdiff", "benchmarks"}
    for entry in entry_points(group=PLUGINS):
        if entry.dist is not None and entry.dist.name == "hierdiff":
            own.add(entry.module.partition(".")[0])
    return frozenset(own)
