"""A label for each row, all different."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.tables.captions import PRETRAINED, pretrained
from benchmarks.tables.differences import differing, options_of
from benchmarks.tables.scale import SCALE
from hierdiff.results.record import Record


def labels(records: Sequence[Record], told: bool = True) -> list[str]:
    """A label for each record, all different: its name, and where names meet, what differs.

    told: whether the label tells it; else it counts.
    """
    names = Counter(record.name for record in records)
    shown = []
    for record in records:
        rivals = [other for other in records if other.name == record.name]
        seeds = record.config.get("seed")
        facts = [
            *([_difference(record, rivals)] if told and names[record.name] > 1 else []),
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


def _difference(record: Record, rivals: Sequence[Record]) -> str:
    """What tells a record from its rivals: one option, up to three, or the end of its path."""
    facts = [options_of(rival) for rival in rivals]
    own = options_of(record)
    short = differing(facts)
    telling = [[key] for key in short] + ([short] if len(short) <= 3 else [])
    for chosen in telling:
        if len({tuple(str(fact.get(key)) for key in chosen) for fact in facts}) == len(facts):
            return ", ".join(f"{key}={own.get(key)}" for key in chosen)
    folders = [rival.path.resolve().parent.parts if rival.path else () for rival in rivals]
    folder = record.path.resolve().parent.parts if record.path else ()
    for length in range(1, len(folder) + 1):
        if sum(other[-length:] == folder[-length:] for other in folders) == 1:
            return "/".join(folder[-length:])
    return record.hash[:8]
