"""The options in which records differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from hierdiff.resolution import joint_text
from hierdiff.results.flat import NAMED
from hierdiff.results.record import Record


def differing(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the options that are not equal in all, outermost first, but for long values and
    paths."""
    keys = sorted({key for fact in facts for key in fact}, key=lambda key: (key.count("."), key))
    return [
        key
        for key in keys
        if len(texts := {str(fact.get(key)) for fact in facts}) > 1
        and all(len(text) <= 24 and "/" not in text for text in texts)
    ]


def options_of(record: Record) -> dict[str, Any]:
    """The options of a record by dotted path, with its budget and resolutions."""
    return {
        "budget": record.budget,
        "resolutions": joint_text(record.resolutions),
        **{key: value for key, value in record.options.items() if key not in NAMED[1:]},
    }


def differences(records: Sequence[Record]) -> dict[str, str]:
    """The options in which records differ, by a short name of each.

    An option that stands in several places of the config is named once. A seed is no option.
    """
    facts = [options_of(record) for record in records]
    keys: dict[tuple[str, ...], str] = {}
    for key in differing(facts):
        last = key.rpartition(".")[2]
        if key not in ("seed", "label", "budget_name", "recipe_name"):
            keys.setdefault((last, *(str(fact.get(key)) for fact in facts)), key)
    ends = Counter(_end(key) for key in keys.values())
    return {_end(key) if ends[_end(key)] == 1 else key: key for key in keys.values()}


def rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then words."""
    is_number = isinstance(value, Real)
    return not is_number, float(value) if is_number else 0.0, str(value)


def _end(key: str) -> str:
    """The last part of an option's path; of a `name`, the last two."""
    *_, before, last = ("", *key.split("."))
    return f"{before}.{last}" if last == "name" and before else last
