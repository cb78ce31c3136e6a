"""Rows and columns by their names, in which `*` stands for anything.

What a label says behind a name may be left out: `mdm` finds "mdm (3 seeds)" and "mdm ‡".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from benchmarks.tables.captions import PRETRAINED
from hierdiff.options import suggest


def matching(pattern: str, known: Sequence[str], what: str) -> list[str]:
    """The known names that a pattern stands for; a name that is known stands for itself alone.

    what: "row" or "column", for errors.

    Raises:
        ValueError: where there are none, with the nearest one.
    """
    found = named(pattern, known) or [k for k in known if fnmatchcase(k, pattern)]
    if not found:
        raise ValueError(
            f"there is no {what} {pattern!r}{suggest(pattern, known) or ','} "
            f"{what}s: {', '.join(known)}"
        )
    return found


def chosen(patterns: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """The known names that patterns stand for, in the order of the patterns, each once; all of
    them where there are no patterns."""
    if not patterns:
        return list(known)
    return list(dict.fromkeys(k for one in patterns for k in matching(one, known, what)))


def named(name: str, known: Collection[str]) -> list[str]:
    """The label that is the name, or else those that begin with it and say something behind it."""
    behind = f"{name} (", f"{name} {PRETRAINED}"
    return [name] if name in known else [label for label in known if label.startswith(behind)]
