"""One generic registry: a part is found by a short name, or by `package.module:Class`.

A config node is `{"name": "unet", "widths": [64, 96]}`; `build` calls the constructor with the
other keys, so the constructor's signature is the schema and there is no second one: its names say
which options there are, its annotations what they may be (`hierdiff.options`). `rule: Sampler` is
an option whose node is built before the constructor is called, which gets the sampler; with
`inner: Later[Denoiser]` the constructor gets the node and builds it itself. Packages announce their
parts through the entry-point group `hierdiff.plugins`: an entry is a module that registers them, or
one that names such modules in a list `hierdiff_plugins`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, Union, cast

from hierdiff import options
from hierdiff.options import suggest as suggest

T = TypeVar("T")
Node = Mapping[str, Any]
# A part, or its node, which the constructor builds itself, with facts that it alone knows.
Later = Union[T, Mapping[str, Any]]  # noqa: UP007  (mypy takes no `|` of a type variable)

PLUGINS = "hierdiff.plugins"


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Imports every module announced under `hierdiff.plugins`, and those named by its
    `hierdiff_plugins` if it has that list, once per process.

    Raises:
        ImportError: names the plugin that does not import.
    """
    for entry in entry_points(group=PLUGINS):
        try:
            for module in getattr(entry.load(), "hierdiff_plugins", ()):
                importlib.import_module(module)
        except Exception as error:
            raise ImportError(
                f"plugin {entry.name!r} ({entry.value}) does not import: {error}: "
                f"mend it or uninstall its package"
            ) from error


class UnknownOption(ValueError):
    """A constructor has no such option. path: of it in the config, "" where that is not known."""

    def __init__(self, message: str, option: str, path: str):
        super().__init__(message)
        self.option, self.path = option, path


class Registry(Generic[T]):
    """Constructors of one role ("denoiser", "sampler", ...) by name.

    base: the class that everything built must be an instance of; where a constructor annotates an
    option with it, a config gives a node of this role. default: the name of a node without one;
    None where each must have a name.
    """

    def __init__(self, role: str, base: type[T], default: str | None = None):
        self.role = role
        self.base = base
        self.default = default
        self._entries: dict[str, Callable[..., T]] = {}
        options.ROLES[base] = self

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"<registry of {self.role}: {', '.join(self.names())}>"

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator: `@denoisers.register("my_net")` above a class or a function.

        Raises:
            ValueError: where another class has the name.
        """

        def keep(entry: Any) -> Any:
            other = self._entries.get(name)
            if other is not None and where(other) != where(entry):
                raise ValueError(
                    f"{self.role} {name!r} is already {where(other)}: "
                    f"give {where(entry)} another name"
                )
            self._entries[name] = entry
            return entry

        return keep

    def names(self) -> list[str]:
        """All names, in order, those of plugins too."""
        load_plugins()
        return sorted(self._entries)

    def get(self, name: str, at: str = "") -> Callable[..., T]:
        """The constructor of `name`; at: path of the node, for errors.

        Raises:
            ValueError: for an unknown name, with the nearest known one.
        """
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
        """The constructor of a node's name; at: path of the node, for errors.

        Raises:
            ValueError: for what is no node, or has an unknown name.
        """
        if self.default is not None and not isinstance(node, Mapping):
            raise ValueError(
                f"{at or self.role}={options.literal(node)}: {self.role} takes a mapping of its "
                f"options"
            )
        name = self.name_in(node) if isinstance(node, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(
                f"{_path(at)}{options.words(self.base)} is given as {{name: ..., options}}, got "
                f"{options.literal(node)}: add a name, one of {', '.join(self.names())}"
            )
        return self.get(name, at)

    def name_of(self, part: Any) -> str | None:
        """The name under which the class of a part is registered; None where it is not."""
        return next((name for name, one in self._entries.items() if one is type(part)), None)

    def name_in(self, node: Node) -> Any:
        """The name of a node, or the default one; None where there is neither."""
        return node.get("name", self.default)

    def label(self, node: Node) -> str:
        """A node in words: `sampler 'ddim'`, or the role alone where it has one class."""
        name = self.name_in(node)
        return self.role if name == self.role else f"{self.role} {name!r}"

    def build(
        self,
        node: Later[T],
        *,
        offered: Node | None = None,
        at: str = "",
        elsewhere: Mapping[str, str] | None = None,
    ) -> T:
        """The part of a node; a part that is already built is passed through.

        Parts inside are built first, where the constructor's annotation is a part (`arguments`).
        `offered` holds facts (channels, classes, ...): the constructor, and those of the parts
        inside,
        get the facts that their signatures name and that no node sets itself. For errors, at: path
        of
        the node in the config; elsewhere: paths of those options that stand in another place.

        Raises:
            ValueError: before anything is built, for an unknown name, option or value.
            TypeError: where the constructor gives something else than this role's parts.
        """
        if isinstance(node, self.base):
            return node
        entry, node = self.named(node, at), cast(Node, node)
        check_node(entry, node, self.label(node), at, elsewhere)
        return self._built(node, offered or {}, at, elsewhere)

    def _built(
        self, node: Node, offered: Node, at: str, elsewhere: Mapping[str, str] | None = None
    ) -> T:
        """As `build`, of a node whose options are checked.

        Raises:
            TypeError: where the constructor gives something else.
        """
        what = self.label(node)
        entry = self.named(node, at)
        chosen = _arguments(entry, node, what, offered, at, elsewhere)
        try:
            part = entry(**chosen)
        except TypeError as error:
            if "multiple values for keyword" not in str(error):
                raise
            raise TypeError(f"{what}: {error}: name it in {where(entry)}, which sets it") from error
        if not isinstance(part, self.base):
            raise TypeError(
                f"{what} built a {type(part).__name__}, which is no {self.base.__name__}: "
                f"subclass it"
            )
        return part

    def takes(self, node: Later[T], option: str) -> bool:
        """Does the constructor of a node name `option`? False for a part that is already built."""
        if isinstance(node, self.base):
            return False
        name = self.name_in(cast(Node, node))
        return isinstance(name, str) and option in options.parameters(self.get(name))

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


def single(role: str) -> Callable[[type[T]], type[T]]:
    """Decorator of the class of a role that has one: its node is its options, without a name."""

    def keep(cls: type[T]) -> type[T]:
        return cast(type[T], Registry(role, cls, default=role).register(role)(cls))

    return keep


def roles() -> dict[str, Registry[Any]]:
    """Every registry by its role."""
    return {registry.role: registry for registry in options.ROLES.values()}


def build(base: type[T], node: Later[T], *, offered: Node | None = None, at: str = "") -> T:
    """`Registry.build` of the role with this base class."""
    registry: Registry[T] = options.ROLES[base]
    return registry.build(node, offered=offered, at=at)


def check_node(
    entry: Callable[..., Any],
    node: Node,
    what: str,
    at: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> None:
    """Checks that `entry` takes every option of a node but its name, with that value, nodes inside
    too.

    Missing options are not looked for. what: the part in words. at, elsewhere: as in
    `Registry.build`.

    Raises:
        UnknownOption: with the nearest option that there is.
        ValueError: where a value does not fit its annotation.
    """
    parameters = options.parameters(entry)
    chosen = _options(node)
    unknown = [] if options.is_open(parameters) else [o for o in chosen if o not in parameters]
    for option in unknown:
        near = suggest(str(option), parameters) or ","
        raise UnknownOption(
            f"{_path(at, option)}{what} has no option {option!r}{near} "
            f"options: {', '.join(parameters) or 'none'}{_loose(entry)}",
            str(option),
            f"{at}.{option}" if at else "",
        )
    hints = options.hints(entry)
    for option, value in chosen.items():
        if option in hints and option in parameters:
            place = _place(option, what, at, elsewhere)
            options.check(value, hints[option], place, parameters[option].default, nodes=True)
            _each_part(value, hints[option], place, _check_part)


def arguments(
    entry: Callable[..., Any],
    node: Node,
    what: str,
    *,
    offered: Node | None = None,
    at: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What to call `entry` with: the options of a node, checked, with the parts inside built.

    A mapping becomes a part where the annotation is one, in lists and mappings of parts too; where
    it is `Later[Part]` the constructor gets the node. Arguments and errors: as in `Registry.build`
    and `check_node`.
    """
    check_node(entry, node, what, at, elsewhere)
    return _arguments(entry, node, what, offered or {}, at, elsewhere)


def _arguments(
    entry: Callable[..., Any],
    node: Node,
    what: str,
    offered: Node,
    at: str,
    elsewhere: Mapping[str, str] | None,
) -> dict[str, Any]:
    parameters, hints, chosen = (
        options.parameters(entry),
        options.hints(entry),
        _options(node),
    )
    facts = {
        name: fact
        for name, fact in offered.items()
        if name in parameters and name not in chosen and not options.is_own(hints.get(name))
    }
    complete(entry, {**chosen, **facts}, what, at)
    inside = {**offered, **{name: chosen[name] for name in offered if name in chosen}}

    def built(base: type, node: Node, place: str, later: bool) -> Any:
        return node if later else options.ROLES[base]._built(node, inside, place)

    for option, value in chosen.items():
        place = _place(option, what, at, elsewhere)
        chosen[option] = _each_part(value, hints.get(option, Any), place, built)
    return {**chosen, **facts}


def _loose(entry: Callable[..., Any]) -> str:
    """Where `**options` do not say what they take: how the author lets them take any name."""
    parameters = inspect.signature(entry).parameters.values()
    names = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    return "".join(f"; {where(entry)} takes any name if it says **{one}: object" for one in names)


def _options(node: Node) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "name"}


def _place(option: str, what: str, at: str, elsewhere: Mapping[str, str] | None) -> str:
    return (elsewhere or {}).get(option, f"{at}.{option}" if at else f"{what}: {option}")


def _each_part(
    value: Any, annotation: Any, place: str, act: Callable[[type, Node, str, bool], Any]
) -> Any:
    """`value` with `act(base, node, place, later)` instead of each node in it."""
    if isinstance(value, Mapping):
        base, later = options.part(annotation)
        if base is not None:
            return act(base, value, place, later)
        kind = options.values(annotation)
        return (
            {key: _each_part(one, kind, f"{place}.{key}", act) for key, one in value.items()}
            if kind is not Any
            else value
        )
    if isinstance(value, (list, tuple)):
        kind = options.items(annotation)
        parts = [_each_part(one, kind, f"{place}[{i}]", act) for i, one in enumerate(value)]
        same = all(one is part for one, part in zip(value, parts, strict=True))
        return value if same else parts
    return value


def _check_part(base: type, node: Node, place: str, later: bool) -> None:
    """One that a constructor builds itself may have no name yet."""
    registry = options.ROLES.get(base)
    if registry is None:
        check_node(base, node, base.__name__.lower(), place)
    elif not later or "name" in node or registry.default is not None:
        check_node(registry.named(node, place), node, registry.label(node), place)


def complete(entry: Callable[..., Any], chosen: Node, what: str, at: str = "") -> None:
    """Checks that no option is missing that `entry` has no default for.

    Raises:
        ValueError: names the option and what it takes.
    """
    for name, parameter in options.parameters(entry).items():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.default is parameter.empty and name not in chosen:
            kind = options.words(options.hints(entry).get(name, Any), nodes=True)
            raise ValueError(f"{_path(at, name)}{what} needs the option {name!r}: give it {kind}")


def where(entry: Any) -> str:
    """The place of a class or function, `package.module:Name`."""
    return f"{entry.__module__}:{entry.__qualname__}"
