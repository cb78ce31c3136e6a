"""Rows and columns by their names, in which `*` stands for anything.

What a label says behind a name may be left out: `mdm` finds "mdm (3 seeds)" and "mdm ‡".
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from benchmarks.tables.captions import PRETRAINED
from hierdiff.options import suggest

log = logging.getLogger(__name__)
T = TypeVar("T")


def matching(pattern: str, known: Sequence[str], what: str) -> list[str]:
    """The known names that a pattern stands for; a name that is known stands for itself alone.

    what: "row" or "column", for errors. One specification is for several tables, of which some lack
    a metric: a pattern of columns may find nothing.

    Raises:
        ValueError: where there are none otherwise, with the nearest one.
    """
    found = named(pattern, known) or [k for k in known if fnmatchcase(k, pattern)]
    if not found and (what == "row" or "*" not in pattern):
        raise ValueError(_absent(pattern, known, what))
    return found


def chosen(patterns: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """The known names that patterns stand for, in the order of the patterns, each once; all of
    them where there are no patterns. The log warns of a pattern that finds nothing.

    Raises:
        ValueError: as `matching`, or where all patterns find nothing.
    """
    if not patterns:
        return list(known)
    found = {one: matching(one, known, what) for one in patterns}
    if not any(found.values()):
        raise ValueError(_absent(patterns[0], known, what))
    for one in (one for one, names in found.items() if not names):
        log.warning("left out: there is no %s %r", what, one)
    return list(dict.fromkeys(k for names in found.values() for k in names))


def _absent(pattern: str, known: Sequence[str], what: str) -> str:
    near = suggest(pattern, known) or ","
    return f"there is no {what} {pattern!r}{near} {what}s: {', '.join(known)}"


def named(name: str, known: Collection[str]) -> list[str]:
    """The label that is the name, or else those that begin with it and say something behind it."""
    behind = f"{name} (", f"{name} {PRETRAINED}"
    return [name] if name in known else [label for label in known if label.startswith(behind)]


def where(
    rows: Iterable[T], conditions: Iterable[str], fields: Sequence[str], option: str
) -> list[T]:
    """The rows for which every condition `field=value[,value]` of an option holds.

    Raises:
        ValueError: where a condition has another form, or names another field.
    """
    selected = list(rows)
    for condition in conditions:
        name, _, values = condition.partition("=")
        if name not in fields or not values:
            *others, last = fields
            raise ValueError(
                f"{option} {condition!r}: write {', '.join(f'{one}=' for one in others)} or "
                f"{last}=VALUE"
            )
        selected = [row for row in selected if str(getattr(row, name)) in values.split(",")]
    return selected
