"""What an option may be: its annotation in the constructor, checked before anything is built.

`Annotated[int, Between(1)]` narrows a number, and the names below are the usual ranges. A number is
finite unless its range says otherwise; true is no number, 2.0 no whole number, and text is neither.
Lists stand for sequences and tuples, text for paths, and a mapping for the part that is built of it
where the annotation is `Part | Mapping[str, Any]`. What is not annotated, or by a name that cannot
be resolved, may be anything.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

ROLES: dict[type, str] = {}  # what the base class of a registry is called


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
        number = float(value)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            return False
        over = self.low < number if self.above else self.low <= number
        return over and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return "" if not math.isfinite(self.high) else f", {self.high:g} or less"
        if not math.isfinite(self.high):
            return f" above {self.low:g}" if self.above else f", {self.low:g} or more"
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f" {low} to {'below ' if self.below else ''}{self.high:g}"


@dataclass(frozen=True)
class Length:
    """How many entries a list has: `n`, or as many and more."""

    n: int
    more: bool = False

    def holds(self, value: Collection[Any]) -> bool:
        return len(value) >= self.n if self.more else len(value) == self.n

    def __str__(self) -> str:
        n = NUMBERS[self.n] if self.n < len(NUMBERS) else str(self.n)
        return f"{n} or more" if self.more else n


NUMBERS = ("no", "one", "two", "three", "four", "five")

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


def fits(value: Any, annotation: Any) -> bool:
    """Does a value of a config fit an annotation?"""
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
        return any(fits(value, one) for one in inside)
    if annotation is Path or (origin or annotation) is PathLike:
        return isinstance(value, (str, PathLike))
    if (origin or annotation) in LISTS:
        if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, set, frozenset)):
            return False
        return length.holds(value) and _fit_all(value, origin, inside)
    if origin is Callable:
        return callable(value)
    if (origin or annotation) in MAPPINGS:
        of_key, of_value = inside or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(key, of_key) and fits(one, of_value) for key, one in value.items()
        )
    if isinstance(annotation, type) and not annotation.__module__.startswith("jaxtyping"):
        try:
            return isinstance(value, annotation)
        except TypeError:  # a protocol that cannot be asked at run time
            return True
    return True


def _bare(annotation: Any) -> tuple[Any, Between, Length]:
    """An annotation without its notes, the range of a number, the length of a list."""
    notes: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)  # type: ignore[assignment]
    ranges = next((note for note in notes if isinstance(note, Between)), Between())
    length = next((note for note in notes if isinstance(note, Length)), Length(0, more=True))
    return annotation, ranges, length


def _fit_all(values: Collection[Any], origin: Any, inside: tuple[Any, ...]) -> bool:
    if origin is tuple and inside[-1:] != (...,):
        return len(values) == len(inside) and all(map(fits, values, inside))
    return not inside or all(fits(value, inside[0]) for value in values)


def words(annotation: Any, several: bool = False) -> str:
    """An annotation in plain English: `a list of numbers, or null`."""
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
        return _choice(inside, several)
    if annotation is Path or (origin or annotation) is PathLike:
        return "paths" if several else "a path"
    if (origin or annotation) in LISTS:
        return f"{'lists' if several else 'a list'}{_contents(origin, inside, length)}"
    if (origin or annotation) in MAPPINGS:
        of = f" of {words(inside[1], True)} by name" if inside and inside[1] is not Any else ""
        return f"{'mappings' if several else 'a mapping'}{of or ' {option: value, ...}'}"
    if isinstance(annotation, type):
        name = ROLES.get(annotation)
        name = name or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", annotation.__name__).lower()
        return f"{name}s" if several else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    return "values" if several else "a value"


def _contents(origin: Any, inside: tuple[Any, ...], length: Length) -> str:
    if not inside:
        return ""
    if origin is tuple and inside[-1] is not ...:
        length = Length(len(inside))
    n = "" if length == Length(0, more=True) else f"{length} "
    return f" of {n}{words(inside[0], length != Length(1)).removeprefix('a ')}"


def _choice(inside: Sequence[Any], several: bool) -> str:
    """Of a union; a part and its node are one, and null comes last."""
    kinds = [one for one in inside if one is not type(None)]
    parts = [one for one in kinds if isinstance(one, type) and _is_part(one)]
    nodes = [one for one in kinds if (get_origin(one) or one) in MAPPINGS]
    if parts and nodes:
        kinds = [one for one in kinds if one not in nodes]
    said = list(dict.fromkeys(words(one, several) for one in kinds))
    if parts and nodes:
        node = " as {name: ..., options}" if parts[0] in ROLES else " as a mapping of its options"
        said[-1] += node
    said += ["null"] * (type(None) in inside)
    return ", or ".join(said)


def _is_part(kind: type) -> bool:
    return kind not in (int, float, bool, str, Path, type(None), *LISTS, *MAPPINGS)


def parts(annotation: Any) -> Iterator[type]:
    """Classes in a union with `Mapping[str, Any]`: what a mapping will be built as."""
    inside = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType) and NODE in inside:
        yield from (one for one in inside if isinstance(one, type) and _is_part(one))


def items(annotation: Any) -> Any:
    """What the entries of a list are annotated as."""
    for one in (annotation, *get_args(annotation)):
        if get_origin(one) in LISTS:
            return get_args(one)[0]
    return Any


def check(value: Any, annotation: Any, place: str, default: Any = None) -> None:
    """ValueError where a value does not fit; place: the option's path. default: of the option, for
    an example."""
    if fits(value, annotation):
        return
    name = place.rpartition(".")[2].rpartition(" ")[2]
    example = f", such as {shown(default)}" if _tells(default, annotation) else ""
    if get_origin(annotation) is Literal:
        example = (
            "" if value is None else suggest(str(value), [str(one) for one in get_args(annotation)])
        )
    raise ValueError(f"{place}={shown(value)}: {name} takes {words(annotation)}{example}")


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
    """ValueError where a field of a dataclass does not fit: the check of `registry.checked`, for
    those who call the constructor."""
    kinds = hints(type(part))  # type: ignore[arg-type]
    for one in fields(part):
        if one.init:
            value, kind = getattr(part, one.name), kinds.get(one.name, Any)
            check(value, kind, f"{at}.{one.name}", one.default)


def shown(value: Any) -> str:
    """A value as a config has it, in one short line."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {shown(one)}' for key, one in value.items())}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def hints(entry: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations of a constructor's parameters, resolved one by one."""
    kind = isinstance(entry, type)
    function = inspect.unwrap(entry.__init__ if kind else entry)  # type: ignore[misc]
    modules = [vars(sys.modules[c.__module__]) for c in getattr(entry, "__mro__", ()) if kind]
    scopes = [getattr(function, "__globals__", {}), *modules]
    found = getattr(function, "__annotations__", {})
    return {name: _resolved(annotation, scopes) for name, annotation in found.items()}


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
