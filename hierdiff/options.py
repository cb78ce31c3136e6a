"""What an option may be: its annotation in the constructor, checked before anything is built.

`Annotated[int, Between(1)]` narrows a number, and the names below are the usual ranges. A number is
finite unless its range says otherwise; true is no number, 2.0 no whole number, and text is neither.
Lists stand for sequences and tuples, and text for paths. Where the annotation is a part (the base
class of a registry), a config gives its node, a mapping. What is not annotated, or by a name that
cannot be resolved, may be anything.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

ROLES: dict[type, Any] = {}  # every registry, by the base class of its parts


@dataclass(frozen=True)
class Between:
    """A range of numbers, both ends included; above, below: not the lower, not the upper one.
    infinite: and infinity."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    infinite: bool = False

    def holds(self, value: Real) -> bool:
        """Whether a number is in the range; NaN never is."""
        number = float(value)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            return False
        over = self.low < number if self.above else self.low <= number
        return over and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return "" if not math.isfinite(self.high) else f", {self.high:.10g} or less"
        if not math.isfinite(self.high):
            return f" above {self.low:.10g}" if self.above else f", {self.low:.10g} or more"
        low = f"above {self.low:.10g}" if self.above else f"from {self.low:.10g}"
        return f" {low} to {'below ' if self.below else ''}{self.high:.10g}"


@dataclass(frozen=True)
class Length:
    """How many entries a list has: `n`, or as many and more."""

    n: int
    more: bool = False

    def holds(self, value: Collection[Any]) -> bool:
        """Whether a list has that many entries."""
        return len(value) >= self.n if self.more else len(value) == self.n

    def __str__(self) -> str:
        n = NUMBERS[self.n] if self.n < len(NUMBERS) else str(self.n)
        return f"{n} or more" if self.more else n


@dataclass(frozen=True)
class Own:
    """Marks an option that shares its name with a fact of the data and means something else: it is
    never filled in from the facts."""


NUMBERS = ("no", "one", "two", "three", "four", "five")

ANY_NUMBER, ANY_LENGTH = Between(), Length(0, more=True)

Count = Annotated[int, Between(1)]
Natural = Annotated[int, Between(0)]
Positive = Annotated[float, Between(0, above=True)]
NonNegative = Annotated[float, Between(0)]
Share = Annotated[float, Between(0, 1)]
Limit = Annotated[float, Between(infinite=True)]  # of a log-SNR: may be infinite
Pair = Annotated[Sequence[float], Length(2)]

LISTS = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
MAPPINGS = (dict, Mapping)
NODE = Mapping[str, Any]


def fits(value: Any, annotation: Any, nodes: bool = False) -> bool:
    """Does a value fit an annotation? nodes: a mapping may stand for a part."""
    annotation, ranges, length = _bare(annotation)
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        kind = Integral if annotation is int else Real
        return isinstance(value, kind) and not isinstance(value, bool) and ranges.holds(value)
    if annotation in (None, type(None)):
        return value is None
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin in (Union, types.UnionType):
        return any(fits(value, one, nodes) for one in inside)
    if annotation is Path or (origin or annotation) is PathLike:
        return isinstance(value, (str, PathLike))
    if (origin or annotation) in LISTS:
        if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, set, frozenset)):
            return False
        return length.holds(value) and _fit_all(value, origin, inside, nodes)
    if origin is Callable:
        return callable(value)
    if (origin or annotation) in MAPPINGS:
        of_key, of_value = inside or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(key, of_key) and fits(one, of_value, nodes) for key, one in value.items()
        )
    if isinstance(annotation, type) and not annotation.__module__.startswith("jaxtyping"):
        if nodes and annotation in ROLES and isinstance(value, Mapping):
            return True
        try:
            return isinstance(value, annotation)
        except TypeError:  # a protocol that cannot be asked at run time
            return True
    return True


def _bare(annotation: Any) -> tuple[Any, Between, Length]:
    """An annotation without its notes, the range of a number, the length of a list."""
    notes = _notes(annotation)
    if not notes:
        return annotation, ANY_NUMBER, ANY_LENGTH
    ranges = next((note for note in notes if isinstance(note, Between)), ANY_NUMBER)
    length = next((note for note in notes if isinstance(note, Length)), ANY_LENGTH)
    return get_args(annotation)[0], ranges, length


def _notes(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def is_own(annotation: Any) -> bool:
    """Is it marked as `Own`?"""
    return any(isinstance(note, Own) for note in _notes(annotation))


def _fit_all(values: Collection[Any], origin: Any, inside: tuple[Any, ...], nodes: bool) -> bool:
    if origin is tuple and inside[-1:] != (...,):
        pairs = zip(values, inside, strict=False)
        return len(values) == len(inside) and all(fits(value, one, nodes) for value, one in pairs)
    return not inside or all(fits(value, inside[0], nodes) for value in values)


def words(annotation: Any, several: bool = False, nodes: bool = False) -> str:
    """An annotation in plain English: `a list of numbers, or null`. nodes: as in `fits`."""
    annotation, ranges, length = _bare(annotation)
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        what = "whole number" if annotation is int else "number"
        return f"{what}s{str(ranges).replace(',', ' of')}" if several else f"a {what}{ranges}"
    if annotation in (None, type(None)):
        return "null"
    if annotation is bool:
        return "true or false"
    if annotation is str:
        return "texts" if several else "a text"
    if origin is Literal:
        one_of = "" if len(inside) == 1 else "any of " if several else "one of "
        return one_of + ", ".join(map(str, inside))
    if origin in (Union, types.UnionType):
        return _choice(inside, several, nodes)
    if annotation is Path or (origin or annotation) is PathLike:
        return "paths" if several else "a path"
    if (origin or annotation) in LISTS:
        return f"{'lists' if several else 'a list'}{_contents(origin, inside, length, nodes)}"
    if (origin or annotation) in MAPPINGS:
        known = bool(inside) and inside[1] is not Any
        of = f" of {words(inside[1], True, nodes)} by name" if known else ""
        return f"{'mappings' if several else 'a mapping'}{of or ' {option: value, ...}'}"
    if isinstance(annotation, type) and annotation is not Any:
        role = ROLES.get(annotation)
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", annotation.__name__).lower()
        name = name if role is None else role.role
        one = f"{name}s" if several else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        return one + _form(annotation) * (nodes and role is not None)
    return "values" if several else "a value"


def _form(kind: type) -> str:
    """How a config writes a part."""
    role = ROLES.get(kind)
    bare = role is None or role.default is not None
    return " as a mapping of its options" if bare else " as {name: ..., options}"


def _contents(origin: Any, inside: tuple[Any, ...], length: Length, nodes: bool) -> str:
    if not inside:
        return ""
    if origin is tuple and inside[-1] is not ...:
        length = Length(len(inside))
    n = "" if length == ANY_LENGTH else f"{length} "
    return f" of {n}{words(inside[0], length != Length(1), nodes).removeprefix('a ')}"


def _choice(inside: Sequence[Any], several: bool, nodes: bool) -> str:
    """Of a union; a part and its node are one, and null comes last."""
    kinds = [one for one in inside if one is not type(None)]
    parts = [one for one in kinds if _is_part(one)]
    if parts and NODE in kinds:
        kinds = [one for one in kinds if one != NODE]
    phrases = list(dict.fromkeys(words(one, several, nodes) for one in kinds))
    if parts and NODE in inside and not phrases[-1].endswith(_form(parts[0])):
        phrases[-1] += _form(parts[0])
    phrases += ["null"] * (type(None) in inside)
    return ", or ".join(phrases)


def _is_part(kind: Any) -> bool:
    scalars = (int, float, bool, str, Path, type(None))
    return isinstance(kind, type) and kind not in (*scalars, *LISTS, *MAPPINGS)


def part(annotation: Any) -> tuple[type | None, bool]:
    """The class that a mapping stands for, None for a plain mapping, and whether its node may stay.

    It may where the constructor builds the part itself, from `Part | Mapping[str, Any]`.
    """
    annotation, *_ = _bare(annotation)
    union = get_origin(annotation) in (Union, types.UnionType)
    inside = get_args(annotation) if union else (annotation,)
    later = NODE in inside
    kinds = [one for one in inside if _is_part(one)]
    known = [one for one in kinds if one in ROLES]
    return next(iter(known or (kinds if later else [])), None), later


def items(annotation: Any) -> Any:
    """What the entries of a list are annotated as."""
    return _inside(annotation, LISTS, 0)


def values(annotation: Any) -> Any:
    """What the values of a mapping are annotated as."""
    return _inside(annotation, MAPPINGS, 1)


def _inside(annotation: Any, kinds: Collection[Any], place: int) -> Any:
    for one in (annotation, *get_args(annotation)):
        if get_origin(one) in kinds:
            return get_args(one)[place]
        if get_origin(one) is Annotated and get_origin(get_args(one)[0]) in kinds:
            return get_args(get_args(one)[0])[place]
    return Any


def check(
    value: Any, annotation: Any, place: str, default: Any = None, nodes: bool = False
) -> None:
    """Checks that a value fits an annotation.

    place: the option's path. default: of the option, for an example. nodes: as in `fits`.

    Raises:
        ValueError: names the option, the value and what it takes.
    """
    if fits(value, annotation, nodes):
        return
    name = place.rpartition(".")[2].rpartition(" ")[2]
    example = f", such as {literal(default)}" if _tells(default, annotation) else ""
    if get_origin(annotation) is Literal:
        example = (
            "" if value is None else suggest(str(value), [str(one) for one in get_args(annotation)])
        )
    raise ValueError(
        f"{place}={literal(value)}: {name} takes {words(annotation, nodes=nodes)}{example}"
    )


def suggest(word: str, known: Collection[str]) -> str:
    """`", did you mean 'x'?"` for the nearest known word, or `""`."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _tells(default: Any, annotation: Any) -> bool:
    """Does a default show what its option may be?"""
    if isinstance(default, (bool, str)) or get_origin(annotation) is Literal:
        return False
    return isinstance(default, (Real, list, tuple)) and default != () and fits(default, annotation)


def check_fields(part: Any, at: str) -> None:
    """Checks the fields of a dataclass for those who call its constructor; errors as in `check`.

    at: path of the part, for errors.
    """
    kinds = hints(cast(Any, type(part)))
    for one in fields(part):
        if one.init:
            value, kind = getattr(part, one.name), kinds.get(one.name, Any)
            check(value, kind, f"{at}.{one.name}", one.default)


def literal(value: Any) -> str:
    """A value as a config has it, in one short line."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {literal(one)}' for key, one in value.items())}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(literal, value))}]"
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _chain(entry: Any) -> list[Any]:
    """A constructor and, while these take `**options`, the ones of the classes that they are handed
    on to."""
    if not isinstance(entry, type):
        return [entry]
    inits = [vars(c)["__init__"] for c in entry.__mro__[:-1] if "__init__" in vars(c)]
    taken = [is_open(inspect.signature(init).parameters) for init in inits]
    end = taken.index(False) + 1 if False in taken else len(inits)
    return [entry, *inits[1:end]]


def is_open(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Do they take `**options`?"""
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@cache
def parameters(entry: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of a constructor. Those of a class that takes `**options` are followed by those of
    the class that it inherits from, to which it hands them on.

    `**options` themselves are among them where their annotation says what they take (`**sizes:
    int`, `**rest: object`): any name is an option then.
    """
    found: dict[str, inspect.Parameter] = {}
    for one in _chain(entry):
        found = {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD}
        theirs = dict(inspect.signature(one).parameters)
        if one is not entry:
            theirs.pop(next(iter(theirs)))  # self
        found |= {name: p for name, p in theirs.items() if name not in found}
    kinds = hints(entry) if is_open(found) else {}
    return {
        name: p
        for name, p in found.items()
        if p.kind is not p.VAR_POSITIONAL
        and (p.kind is not p.VAR_KEYWORD or kinds.get(name, Any) is not Any)
    }


@cache
def hints(entry: Any) -> Mapping[str, Any]:
    """Annotations of a constructor's parameters, resolved one by one."""
    kind = isinstance(entry, type)
    modules = [vars(sys.modules[c.__module__]) for c in getattr(entry, "__mro__", ()) if kind]
    known: dict[str, Any] = {}
    for one in reversed(_chain(entry)):
        function = inspect.unwrap(entry.__init__ if kind and one is entry else one)
        scopes = [getattr(function, "__globals__", {}), *modules]
        found = getattr(function, "__annotations__", {})
        known |= {name: _resolved(annotation, scopes) for name, annotation in found.items()}
    return known


def _resolved(annotation: Any, scopes: Sequence[dict[str, Any]]) -> Any:
    for scope in scopes:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            found = typing.get_type_hints(holder, globalns=scope, include_extras=True)["it"]
        except Exception:  # noqa: S112  (a drop-in's annotation may be anything)
            continue
        if isinstance(found, TypeVar):
            return found.__bound__ or Any
        return getattr(found, "__supertype__", found)
    return Any
