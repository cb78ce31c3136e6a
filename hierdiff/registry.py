"""One generic registry: a part is found by a short name, or by `package.module:Class`.

A config node is `{"name": "unet", "widths": [64, 96]}`; `build` calls the constructor with the
other keys, so the constructor's signature is the schema and there is no second one. Packages
announce their parts through the entry-point group `hierdiff.plugins`; an entry is a module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Node = Mapping[str, Any]

PLUGINS = "hierdiff.plugins"


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import every module announced under `hierdiff.plugins`, once per process."""
    for entry in entry_points(group=PLUGINS):
        try:
            entry.load()
        except Exception as error:
            raise ImportError(
                f"plugin {entry.name!r} ({entry.value}) does not import: {error}: "
                f"mend it or uninstall its package"
            ) from error


def suggest(word: str, known: Collection[str]) -> str:
    """`", did you mean 'x'?"` for the nearest known word, or `""`."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


ROLES: dict[str, Registry[Any]] = {}  # every registry by its role


class Registry(Generic[T]):
    """Constructors of one role ("denoiser", "sampler", ...) by name.

    `base` is the class that everything built must be an instance of.
    """

    def __init__(self, role: str, base: type[T]):
        self.role = role
        self.base = base
        self._entries: dict[str, Callable[..., T]] = {}
        ROLES[role] = self

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"<registry of {self.role}: {', '.join(self.names())}>"

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator: `@denoisers.register("my_net")` above a class or a function."""

        def keep(entry: Any) -> Any:
            taken = self._entries.get(name)
            if taken is not None and where(taken) != where(entry):
                raise ValueError(
                    f"{self.role} {name!r} is already {where(taken)}: "
                    f"give {where(entry)} another name"
                )
            self._entries[name] = entry
            return entry

        return keep

    def names(self) -> list[str]:
        load_plugins()
        return sorted(self._entries)

    def get(self, name: str) -> Callable[..., T]:
        """The constructor of `name`; unknown names raise with the nearest known one."""
        load_plugins()
        if ":" in name:
            return self._imported(name)
        if name not in self._entries:
            raise ValueError(
                f"unknown {self.role} {name!r}{suggest(name, self._entries) or ','} known: "
                f"{', '.join(self.names())}; a class of your own goes by package.module:Class"
            )
        return self._entries[name]

    def build(self, node: Node | T, *, offered: Node | None = None) -> T:
        """The part of a node; a part that is already built is passed through.

        `offered` holds facts (channels, classes, ...): the constructor gets those that its
        signature names and that the node does not set itself.
        """
        if isinstance(node, self.base):
            return node
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
            raise ValueError(
                f"a {self.role} is given as {{name: ..., options}}, got {node!r}: "
                f"add a name, one of {', '.join(self.names())}"
            )
        entry = self.get(node["name"])
        parameters = inspect.signature(entry).parameters
        options = checked(entry, node, f"{self.role} {node['name']!r}")
        facts = {k: v for k, v in (offered or {}).items() if k in parameters and k not in options}
        part = entry(**options, **facts)
        if not isinstance(part, self.base):
            raise TypeError(
                f"{self.role} {node['name']!r} built a {type(part).__name__}, which is no "
                f"{self.base.__name__}: subclass it"
            )
        return part

    def takes(self, node: Node | T, option: str) -> bool:
        """Does the constructor of a node name `option`? False for a part that is already built."""
        if isinstance(node, self.base) or not isinstance(node.get("name"), str):  # type: ignore[union-attr]
            return False
        return option in inspect.signature(self.get(node["name"])).parameters  # type: ignore[index]

    def _imported(self, path: str) -> Callable[..., T]:
        module, _, attribute = path.partition(":")
        try:
            entry = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{self.role} {path!r} cannot be imported ({error}): write package.module:Class "
                f"and run where the package can be imported"
            ) from error
        if not (isinstance(entry, type) and issubclass(entry, self.base)):
            raise ValueError(
                f"{self.role} {path!r} is not a subclass of {self.base.__name__}: "
                f"only such a class can be built by its path"
            )
        return entry


def checked(entry: Callable[..., Any], node: Node, what: str) -> dict[str, Any]:
    """The options of a node (all but its name), each of which `entry` must take."""
    parameters = inspect.signature(entry).parameters
    options = {key: value for key, value in node.items() if key != "name"}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    for option in options:
        if option not in parameters:
            raise ValueError(
                f"{what} has no option {option!r}{suggest(option, parameters) or ','} "
                f"options: {', '.join(parameters)}"
            )
    return options


def constructed(cls: type[T], node: Node | T) -> T:
    """`cls(**node)` for a role with one class, same errors; a built part passes through."""
    if isinstance(node, cls):
        return node
    return cls(**checked(cls, node, cls.__name__.lower()))  # type: ignore[arg-type]


def where(entry: Any) -> str:
    return f"{entry.__module__}:{entry.__qualname__}"


def imported_names(node: Any) -> Iterator[str]:
    """Every `package.module:Class` name in a config, however deep."""
    if isinstance(node, Mapping):
        name = node.get("name")
        if isinstance(name, str) and ":" in name:
            yield name
        for value in node.values():
            yield from imported_names(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from imported_names(value)


def check_trust(cfg: Any, trusted: Collection[str] = ()) -> None:
    """Refuse a config read from a file that would import code from packages nobody vouched for."""
    for name in imported_names(cfg):
        package = name.partition(":")[0].partition(".")[0]
        if package not in trusted:
            raise PermissionError(
                f"the checkpoint wants to import {name!r}, and package {package!r} is not trusted: "
                f"if you know its author, allow it by trust=[{package}]"
            )
