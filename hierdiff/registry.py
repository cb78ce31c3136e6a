"""One generic registry: a part is found by a short name, or by `package.module:Class`.

A config node is `{"name": "unet", "widths": [64, 96]}`; `build` calls the constructor with the
other keys, so the constructor's signature is the schema and there is no second one: its names say
which options there are, its annotations what they may be (`hierdiff.options`), those of the parts
inside too. Packages announce their parts through the entry-point group `hierdiff.plugins`; an entry
is a module.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from hierdiff import options
from hierdiff.options import suggest as suggest

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


REGISTRIES: dict[str, Registry[Any]] = {}  # every registry by its role


class UnknownOption(ValueError):
    """A constructor has no such option. path: of it in the config, "" where that is not known."""

    def __init__(self, message: str, option: str, path: str):
        super().__init__(message)
        self.option, self.path = option, path


class Registry(Generic[T]):
    """Constructors of one role ("denoiser", "sampler", ...) by name.

    `base` is the class that everything built must be an instance of. default: the name of a node
    without one; None where each must have a name.
    """

    def __init__(self, role: str, base: type[T], default: str | None = None):
        self.role = role
        self.base = base
        self.default = default
        self._entries: dict[str, Callable[..., T]] = {}
        REGISTRIES[role] = self
        options.ROLES[base] = role

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

    def get(self, name: str, at: str = "") -> Callable[..., T]:
        """The constructor of `name`; unknown names raise with the nearest known one. at: path of
        the node, for errors."""
        load_plugins()
        if ":" in name:
            return self._imported(name, at)
        if name not in self._entries:
            raise ValueError(
                f"{_path(at, 'name')}unknown {self.role} {name!r}"
                f"{suggest(name, self._entries) or ','} known: "
                f"{', '.join(self.names())}; a class of your own goes by package.module:Class"
            )
        return self._entries[name]

    def named(self, node: Any, at: str = "") -> Callable[..., T]:
        """The constructor of a node's name. ValueError for what is no node, or has another name."""
        if not isinstance(node, Mapping) or not isinstance(self.name_in(node), str):
            raise ValueError(
                f"{_path(at)}{options.words(self.base)} is given as {{name: ..., options}}, got "
                f"{options.shown(node)}: add a name, one of {', '.join(self.names())}"
            )
        return self.get(self.name_in(node), at)

    def name_in(self, node: Node) -> Any:
        """The name of a node, or the default one; None where there is neither."""
        return node.get("name", self.default)

    def build(
        self,
        node: Node | T,
        *,
        offered: Node | None = None,
        at: str = "",
        elsewhere: Mapping[str, str] | None = None,
    ) -> T:
        """The part of a node; a part that is already built is passed through.

        `offered` holds facts (channels, classes, ...): the constructor gets those that its
        signature names and that the node does not set itself. For errors, at: path of the node in
        the config; elsewhere: paths of those options that stand in another place.
        """
        if isinstance(node, self.base):
            return node
        entry, node = self.named(node, at), cast(Node, node)
        what = f"{self.role} {self.name_in(node)!r}"
        chosen = checked(entry, node, what, at, elsewhere)
        parameters = inspect.signature(entry).parameters
        facts = {k: v for k, v in (offered or {}).items() if k in parameters and k not in chosen}
        part = entry(**complete(entry, {**chosen, **facts}, what, at))
        if not isinstance(part, self.base):
            raise TypeError(
                f"{what} built a {type(part).__name__}, which is no "
                f"{self.base.__name__}: subclass it"
            )
        return part

    def takes(self, node: Node | T, option: str) -> bool:
        """Does the constructor of a node name `option`? False for a part that is already built."""
        if isinstance(node, self.base):
            return False
        name = self.name_in(cast(Node, node))
        return isinstance(name, str) and option in inspect.signature(self.get(name)).parameters

    def _imported(self, path: str, at: str) -> Callable[..., T]:
        module, _, attribute = path.partition(":")
        try:
            entry = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{_path(at, 'name')}{self.role} {path!r} cannot be imported ({error}): write "
                f"package.module:Class and run where the package can be imported"
            ) from error
        if not (isinstance(entry, type) and issubclass(entry, self.base)):
            raise ValueError(
                f"{_path(at, 'name')}{self.role} {path!r} is not a subclass of "
                f"{self.base.__name__}: only such a class can be built by its path"
            )
        return entry


def _path(at: str, option: str = "") -> str:
    """The path of an option in front of an error, nothing where it is not known."""
    return f"{at}{option and f'.{option}'}: " if at else ""


def checked(
    entry: Callable[..., Any],
    node: Node,
    what: str,
    at: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The options of a node (all but its name), each of which `entry` must take and its annotation
    allow, those of the nodes inside too.

    what: the part in words. at, elsewhere: as in `Registry.build`. Error: ValueError.
    """
    parameters = inspect.signature(entry).parameters
    chosen = {key: value for key, value in node.items() if key != "name"}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in chosen:
            if option not in parameters:
                near = suggest(str(option), parameters) or ","
                raise UnknownOption(
                    f"{_path(at, option)}{what} has no option {option!r}{near} "
                    f"options: {', '.join(parameters) or 'none'}",
                    str(option),
                    f"{at}.{option}" if at else "",
                )
    hints = options.hints(entry)
    for option, value in chosen.items():
        if option in hints and option in parameters:
            own = f"{at}.{option}" if at else f"{what}: {option}"
            place = (elsewhere or {}).get(option, own)
            options.check(value, hints[option], place, parameters[option].default)
            _check_inside(value, hints[option], place)
    return chosen


def _check_inside(value: Any, annotation: Any, place: str) -> None:
    """The nodes in a value, which a constructor will build: unnamed ones may not be whole yet."""
    if isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            _check_inside(one, options.items(annotation), f"{place}[{i}]")
    elif isinstance(value, Mapping):
        for part in options.parts(annotation):
            if part not in options.ROLES:
                checked(part, value, part.__name__.lower(), place)
                continue
            role = REGISTRIES[options.ROLES[part]]
            name = role.name_in(value)
            if name is not None or "name" in value:
                if not isinstance(name, str):
                    raise ValueError(
                        f"{place}.name={options.shown(name)}: choose one of "
                        f"{', '.join(role.names())}"
                    )
                checked(role.get(name, place), value, f"{role.role} {name!r}", place)


def complete(
    entry: Callable[..., Any], chosen: dict[str, Any], what: str, at: str = ""
) -> dict[str, Any]:
    """`chosen`, if no option that `entry` has no default for is missing. Error: ValueError."""
    for name, parameter in inspect.signature(entry).parameters.items():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.default is parameter.empty and name not in chosen:
            kind = options.words(options.hints(entry).get(name, Any))
            raise ValueError(f"{_path(at, name)}{what} needs the option {name!r}: give it {kind}")
    return chosen


def constructed(cls: type[T], node: Node | T, at: str = "") -> T:
    """`cls(**node)` for a role with one class, same errors; a built part passes through.

    at: path of the node in the config, for errors.
    """
    if isinstance(node, cls):
        return node
    what = at or cls.__name__.lower()
    if not isinstance(node, Mapping):
        raise ValueError(f"{what}={options.shown(node)}: {what} takes a mapping of its options")
    return cls(**complete(cls, checked(cls, node, cls.__name__.lower(), at), what))


def where(entry: Any) -> str:
    return f"{entry.__module__}:{entry.__qualname__}"
