"""A label for each row, all different."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.tables.captions import PRETRAINED, pretrained
from benchmarks.tables.differences import differing, options_of
from benchmarks.tables.recipes import recipe_of
from benchmarks.tables.scale import SCALE
from hierdiff.results.record import EXTERNAL, Record


def labels(records: Sequence[Record], distinct: bool = True) -> list[str]:
    """A label for each record, all different: its name, its recipe and, among rows that share both,
    what differs.

    distinct: whether a label says what differs; else equal labels are counted, `mdm #2`.
    """
    rivals: dict[tuple[str, str | None], list[Record]] = {}
    for record in records:
        rivals.setdefault((record.name, recipe_of(record)), []).append(record)
    apart = {
        id(record): difference
        for own in rivals.values()
        if distinct and len(own) > 1
        for record, difference in zip(own, _differences(own), strict=True)
    }
    shown = []
    for record in records:
        seeds = record.config.get("seed")
        recipe = recipe_of(record)
        facts = [
            *([EXTERNAL] if record.external else []),
            *([f"{recipe} recipe"] if recipe is not None else []),
            *([apart[id(record)]] if id(record) in apart else []),
            *([f"{len(seeds)} seeds"] if isinstance(seeds, list) else []),
            *(["edited"] if record.edited else []),
        ]
        label = record.name + (f" ({', '.join(facts)})" if facts else "")
        shown.append(label + (f" {PRETRAINED}" if pretrained(record) else ""))
    taken = Counter(SCALE.values())
    unique = []
    for label in shown:
        taken[label] += 1
        unique.append(label if taken[label] == 1 else f"{label} #{taken[label]}")
    return unique


def _differences(rivals: Sequence[Record]) -> list[str]:
    """The difference of each record from the others of its name: one option, up to three, or the
    end of its path."""
    facts = [options_of(rival) for rival in rivals]
    short = differing(facts)
    for chosen in [[key] for key in short] + ([short] if len(short) <= 3 else []):
        if len({tuple(str(fact.get(key)) for key in chosen) for fact in facts}) == len(facts):
            return [", ".join(f"{key}={fact.get(key)}" for key in chosen) for fact in facts]
    folders = [rival.path.resolve().parent.parts if rival.path else () for rival in rivals]
    ends = Counter(folder[-n:] for folder in folders for n in range(1, len(folder) + 1))
    return [
        _end(folder, ends) or rival.hash[:8] for folder, rival in zip(folders, rivals, strict=True)
    ]


def _end(folder: tuple[str, ...], ends: Counter[tuple[str, ...]]) -> str:
    """The shortest end of a path that no other path has, "" where there is none."""
    for length in range(1, len(folder) + 1):
        if ends[folder[-length:]] == 1:
            return "/".join(folder[-length:])
    return ""
