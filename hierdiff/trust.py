"""Whose code a config out of a file may import: what it names as `package.module:Class`.

Nothing is imported here; where the code of a module lies is looked up without running it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pkgutil
import site
import sys
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


def imported_names(node: Any) -> Iterator[str]:
    """Every `package.module:Class` name in a config, however deep."""
    rest = [node]
    while rest:
        node = rest.pop()
        if isinstance(node, Mapping):
            name = node.get("name")
            if isinstance(name, str) and ":" in name:
                yield name
            rest.extend(reversed(list(node.values())))
        elif isinstance(node, (list, tuple)):
            rest.extend(reversed(node))


def check_trust(
    cfg: Any, trusted: Collection[str] = (), source: str | Path = "the checkpoint"
) -> None:
    """Refuses a config read from the file `source` that would import code nobody vouched for.

    trusted: packages by name, which opens installed ones and what this process has imported
    already; other code in the working folder or beside `source` is opened by its path alone
    (`./my_nets.py`, `./my_package`). Nothing is imported here.

    Raises:
        PermissionError: names the class and how to allow it.
    """
    packages = {word for word in trusted if not _is_path(word)}
    paths = [Path(word).expanduser().resolve() for word in trusted if _is_path(word)]
    for name in imported_names(cfg):
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise PermissionError(
                f"{source} wants to import {name!r}, which is no package.module:Class: "
                f"use a file that hierdiff wrote"
            )
        package = module.partition(".")[0]
        files = origins(module)
        local = [file for file in files if _is_local(file, source)]
        by_name = package in packages and (module in sys.modules or not local)
        by_path = bool(files) and all(_within(file, paths) for file in files)
        if not (by_name or by_path):
            way = f"trust=[{package}]"
            if local:
                way += f" where it is installed, here by the path of its code, trust=[{local[-1]}]"
            reason = "is not an installed one" if package in packages else "is not trusted"
            raise PermissionError(
                f"{source} wants to import {name!r}, and package {package!r} {reason}: "
                f"if you know its author, allow it by {way} (--trust for commands of dashes)"
            )


def _is_path(word: str) -> bool:
    return "/" in word or os.sep in word or word.endswith(".py")


def _within(file: Path, places: Collection[Path]) -> bool:
    return any(place == file or place in file.parents for place in places)


def _is_local(file: Path, source: str | Path) -> bool:
    """In the working folder or beside the file `source`, and not among installed packages."""
    near = [Path.cwd(), *([source.resolve().parent] if isinstance(source, Path) else [])]
    return _within(file, near) and not is_installed(file)


def is_installed(file: Path) -> bool:
    """Among the packages of this Python, or in its standard library."""
    return _within(file, _places())


@functools.cache
def _places() -> tuple[Path, ...]:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [*map(sysconfig.get_path, kinds), *site.getsitepackages()]
    return tuple(Path(one).resolve() for one in installed)


def origins(module: str) -> list[Path]:
    """The files that an import of `module` runs, its parents' first; [] where there are none.

    They are looked up without importing anything.
    """
    package, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    files: list[Path] = []
    while spec is not None:
        if spec.has_location and spec.origin:
            files.append(Path(spec.origin).resolve())
        # a module that replaced itself on import may give paths where strings are usual
        folders = [os.fspath(folder) for folder in spec.submodule_search_locations or ()]
        spec = _spec(parts.pop(0), folders) if parts else None
    return files


def _spec(name: str, folders: Collection[str]) -> ModuleSpec | None:
    """Of a module in folders; `PathFinder` would want the parent of a namespace imported."""
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = []
    for folder in folders:
        finder: Any = pkgutil.get_importer(folder)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        namespace.submodule_search_locations += spec.submodule_search_locations if spec else ()
    return namespace if namespace.submodule_search_locations else None
