"""Names of classes: the order in which people count them, and which class a user means."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from numbers import Integral

from hierdiff.registry import suggest

LISTED = 12  # names in a message at most


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key to sort text by, with the whole numbers in it as numbers: 2 before 11, a2 before a11.

    Digits of other scripts count too; names of equal numbers ("1", "01") keep an order of their own
    when `text` itself is the next key.
    """
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    )


def in_natural_order(names: Iterable[str]) -> list[str]:
    """The names with whole numbers as numbers: 2 before 11, a2 before a11."""
    return sorted(names, key=lambda name: (natural(name), name))


def names_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in nothing but case, Unicode form or the spaces around words."""
    groups: dict[str, list[str]] = {}
    for name in names:
        same = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(same, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def class_index(label: object, class_names: Sequence[str]) -> int:
    """The row (0, 1, ...) in `class_names` of a class that a user names; -1 is "none".

    A name wins over an index, also a name of digits that a command line turned into a number: with
    the classes 1 ... 12, both 2 and "2" are the class "2".

    Raises:
        ValueError: with the way out, for an unknown name, an index out of range, and for what is
            neither text nor a whole number; for a number that may mean two classes ("02" or the
            one at place 2), and one that is no class where all are called by numbers.
    """
    if not isinstance(label, (str, Integral)) or isinstance(label, bool):
        raise ValueError(
            f"class {label!r} is neither a name nor a whole number: "
            f"write a name in quotes, labels=['{label}']"
        )
    text = unicodedata.normalize("NFC", str(label))
    names = [unicodedata.normalize("NFC", name) for name in class_names]
    places = [place for place, name in enumerate(names) if name == text]
    if len(places) == 1:
        return places[0]
    if places:
        raise ValueError(f"class {text!r} is there {len(places)} times: give its number, {places}")
    number = _whole(text)
    if number is None:
        raise ValueError(
            f"unknown class {text!r}{suggest(text, names)}: choose from {class_list(names)}"
        )
    if number == -1:
        return -1
    values = [_whole(name) for name in names]
    alike = [place for place, value in enumerate(values) if value == number]
    inside = 0 <= number < len(names)
    if alike and (len(alike) > 1 or (inside and alike != [number])):
        options = [names[place] for place in dict.fromkeys([*alike, *([number] if inside else [])])]
        raise ValueError(
            f"class {number} may be any of {options}: write its name in quotes, "
            f"labels=['{options[0]}']"
        )
    if alike:
        return alike[0]
    if names and None not in values:
        raise ValueError(
            f"unknown class {number}: the classes are called by numbers, choose from "
            f"{', '.join(_short(names))}"
        )
    if not inside:
        raise ValueError(
            f"class {number} is out of range: choose from {class_list(names)}, or -1 for none"
        )
    return number


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


def class_list(names: Sequence[str]) -> str:
    """`0 cat, 1 dog`; the first and the last of many."""
    return ", ".join(_short([f"{place} {name}" for place, name in enumerate(names)])) or "none"


def _short(parts: list[str]) -> list[str]:
    return parts if len(parts) <= LISTED else [*parts[: LISTED - 2], "...", parts[-1]]
