"""The rows of a record: what a number is of, and which side of it is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierdiff.levels import Name, Named, plain_of, resolution_of

ALONE = "alone"  # part of a cost row
VIEWS = ("native", "pooled")
BETTER = ("low", "high", None)  # None: the value of real images is the one to reach
# what "better" was before rows said it
HIGHER_IS_BETTER = ("IS", "precision", "recall", "density", "coverage", "PSNR", "SSIM")
QUALITY = ("resolution", "view", "metric", "value", "identity")  # what a quality row must say
Row = Mapping[str, Any]


def place_of(name: Name) -> dict[str, Any]:
    """Where a row stands: the resolution of a level, and its name where that is a word."""
    level = {"level": str(name)} if isinstance(name, str) else {}
    return {"resolution": plain_of(resolution_of(name)), **level}


def level_of(row: Row) -> Name:
    """The level of a row, the inverse of `place_of`."""
    word = row.get("level")
    return resolution_of(row["resolution"]) if word is None else Named(word, row["resolution"])


def check_quality(name: str, row: Row) -> None:
    missing = [key for key in QUALITY if key not in row]
    if missing:
        raise ValueError(f"a row of {name} lacks {missing}: {dict(row)} must say {list(QUALITY)}")
    if row["view"] not in VIEWS:
        raise ValueError(f"a row of {name} has view {row['view']!r}: it is one of {list(VIEWS)}")
    if row.get("better") not in BETTER:
        raise ValueError(f"a row of {name} has better {row['better']!r}: it is one of {BETTER}")


def better(row: Row) -> str | None:
    """Which side of a quality row is better: "low", "high", or None where neither is.

    A row that does not say it, as none did before schema 3, is told by the name of its metric.
    """
    told = row.get("better", "high" if row["metric"] in HIGHER_IS_BETTER else "low")
    assert told is None or isinstance(told, str)
    return told
