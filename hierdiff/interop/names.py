"""Names of tensors in two layouts: one table, read both ways."""

from __future__ import annotations

import re


class Names:
    """Pairs (theirs, ours) of parts of dotted names, which are exchanged one pair after another.

    `{i}` stands for the same part on both sides. A pair fits whole parts only: `conv` is in
    `a.conv.b` and not in `a.conv1.b`. What no pair fits stays, for a load to refuse.
    """

    def __init__(self, *pairs: tuple[str, str]):
        self.pairs = pairs
        self._there = [(_pattern(theirs), _template(ours)) for theirs, ours in pairs]
        self._back = [(_pattern(ours), _template(theirs)) for theirs, ours in reversed(pairs)]

    def ours(self, name: str) -> str:
        """One of their names as ours."""
        return _exchanged(name, self._there)

    def theirs(self, name: str) -> str:
        """One of our names as theirs: `ours` backwards, the last pair first."""
        return _exchanged(name, self._back)


def _exchanged(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in table:
        name = pattern.sub(template, name)
    return name


def _pattern(parts: str) -> re.Pattern[str]:
    inside = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\w+)", re.escape(parts))
    return re.compile(rf"(?<![^.]){inside}(?![^.])")


def _template(parts: str) -> str:
    return re.sub(r"\{(\w)\}", r"\\g<\1>", parts)
