"""How a frame of numbers is read: its columns, its rows, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pandas as pd

UP, DOWN = "↑", "↓"
ARROWS = {"low": f" {DOWN}", "high": f" {UP}", None: ""}  # which side is better
Key = tuple[str, str]


@dataclass(frozen=True)
class Spread:
    """How uncertain a number is, which is a mean or a median.

    sd: standard deviation of one result, printed behind a ±. count: of the results behind the
    number. parts: by source (training seeds, sampling seeds, repeats) the variance of the number
    itself and its degrees of freedom.
    """

    sd: float
    count: int
    parts: Mapping[str, tuple[float, int]]


def keys(table: pd.DataFrame) -> list[Key]:
    """The columns as pairs (group, what)."""
    return cast(list[Key], table.columns.to_list())


def spreads(table: pd.DataFrame, key: Key) -> dict[str, Spread]:
    """Of a column what is printed behind a ±, by row."""
    return table.attrs.get("spread", {}).get(key, {})


def methods(table: pd.DataFrame) -> list[str]:
    """The rows that compete."""
    apart = {*table.attrs["scale"], *table.attrs.get("published", ())}
    return [row for row in table.index if row not in apart]
