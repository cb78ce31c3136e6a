"""Seconds of repeated calls as one timing, and whether it may be trusted. Needs no torch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

UNSTEADY = 0.2  # a spread over this share of the median marks a timing


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and interquartile range over `repeats` calls after `warmup`.

    iqr: None for a single repeat; load: the machine's 1-minute load average when the timing began.
    """

    median: float
    iqr: float | None
    minimum: float
    repeats: int
    warmup: int
    load: float | None

    @property
    def unsteady(self) -> bool:
        """Whether the spread is too large, or unknown, to trust the median."""
        return is_unsteady(self.median, self.iqr)


def is_unsteady(median: float, iqr: float | None) -> bool:
    """Whether the spread is unknown, or above a fifth of the median."""
    return iqr is None or iqr > UNSTEADY * median


def timing(times: list[float], *, warmup: int, load: float | None = None) -> Timing:
    """Summary of the seconds of several calls."""
    iqr = None
    if len(times) > 1:
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        iqr = high - low
    return Timing(statistics.median(times), iqr, min(times), len(times), warmup, load)
