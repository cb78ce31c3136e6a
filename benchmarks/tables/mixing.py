"""Unlike numbers never share a column: what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.scale import SCALE
from hierdiff.metrics.fidelity import apart_from_count
from hierdiff.results.hardware import hardware
from hierdiff.results.record import Record
from hierdiff.results.rows import Row


def same_identity(column: str, found: Mapping[str, Row]) -> None:
    """One identity, one number of images and one number of references in a column; real images may
    be fewer, for of them there are no more (`fewer_real` says how many)."""
    seen: dict[tuple[Any, ...], str] = {}
    for row, q in found.items():
        about = apart_from_count(q["identity"])
        if row == SCALE["real"] and any(_fewer(q, o, about) for o in found.values()):
            continue
        seen.setdefault((q["identity"], q.get("n"), q.get("n_reference")), row)
    if len(seen) > 1:
        (first, row), (second, other) = list(seen.items())[:2]
        raise ValueError(
            f"column {column!r} would mix {_identity(first)} ({row}) with {_identity(second)} "
            f"({other}): leave one out by --where, or measure one again under the other's protocol"
        )


def _fewer(real: Row, other: Row, about: str) -> bool:
    """Is a row of real images one of less images than the other, and else like it?"""
    return (real.get("n") or 0) < (other.get("n") or 0) and apart_from_count(
        other["identity"]
    ) == about


def _identity(identity: tuple[Any, ...]) -> str:
    name, n, n_reference = identity
    return f"{name!r} of {n} against {n_reference} images"


def same_hardware(column: str, rows: Mapping[str, Record], found: Mapping[str, Row]) -> None:
    seen: dict[str, str] = {}
    for row, c in found.items():
        seen.setdefault(hardware(rows[row], c), row)
    if len(seen) > 1:
        (first, row), (second, other) = list(seen.items())[:2]
        raise ValueError(
            f"column {column!r} would mix numbers from {first} ({row}) with numbers from {second} "
            f"({other}): leave one out by --where, or measure both on one device"
        )
