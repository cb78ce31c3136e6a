"""Differences from a baseline, with a paired test where the seeds are paired.

Two rows are paired where they were trained with the same seeds, or, with one training each, were
sampled with the same seeds: the i-th values then share what the seed decides, and the differences
d_i are tested, which vary less than the values. Student's paired t-test: t = mean(d) / (sd(d) /
sqrt(n)) with n - 1 degrees of freedom, two-sided. Three seeds are few: it takes |mean(d)| above
2.5 sd(d) for p < 0.05. Where seeds are not shared there is a difference and no test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tables.columns import levels_in, quality_columns
from benchmarks.tables.digits import is_spread
from benchmarks.tables.formats.cells import SIGNIFICANT
from benchmarks.tables.layout import DELTA, Column, Spread
from benchmarks.tables.select import named
from hierdiff.metrics.quality import Quality
from hierdiff.resolution import px
from hierdiff.results.record import Record

Seeds = tuple[str, tuple[Any, ...]]  # what they are of, "training" or "sampling", and which


@dataclass
class Deltas:
    """Differences from a baseline by column of the metric and row.

    values: in the unit of the metric. spread: standard deviation of the paired differences.
    p_values: of the paired test; what is not paired has none. notes: what they are.
    """

    values: dict[Column, dict[str, float]] = field(default_factory=dict)
    spread: dict[Column, dict[str, Spread]] = field(default_factory=dict)
    p_values: dict[Column, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def deltas(rows: Mapping[str, Record], metrics: Sequence[str], baseline: str) -> Deltas:
    """The differences of all rows from the baseline, in every metric at every level.

    Raises:
        ValueError: where no row is the baseline, or several are.
    """
    bases = named(baseline, rows)
    if len(bases) != 1:
        number = "several rows are" if bases else "no row is"
        raise ValueError(f"{number} the baseline {baseline!r}: choose one of {', '.join(rows)}")
    (baseline,) = bases
    found, tested, untested = Deltas(), dict[str, None](), dict[str, None]()
    for level in levels_in(rows.values()):
        for column, cells in quality_columns(px(level), rows, level, metrics).items():
            own = {row: q for row, q in cells.items() if row in rows and q.value is not None}
            base = own.pop(baseline, None)
            for row, q in own.items() if base is not None else ():
                assert base is not None and base.value is not None and q.value is not None
                found.values.setdefault(column, {})[row] = q.value - base.value
                seeds = seeds_of(rows[row], q)
                if seeds is None or seeds != seeds_of(rows[baseline], base):
                    untested[row] = None
                    continue
                differences = [a - b for a, b in zip(q.values, base.values, strict=True)]
                spread, p = paired(differences)
                found.spread.setdefault(column, {})[row] = spread
                if p is not None:
                    found.p_values.setdefault(column, {})[row] = p
                tested[f"{len(differences)} {seeds[0]} seeds"] = None
    found.notes += _notes(baseline, list(tested), list(untested))
    return found


def seeds_of(record: Record, q: Quality) -> Seeds | None:
    """The seeds of the values of a quality row, in their order: of training where a row has
    several, else of sampling; None for fewer than two, or where they are not known."""
    training = record.config.get("seed")
    if isinstance(training, list):
        kind, seeds = "training", training
    else:
        kind, seeds = "sampling", (record.provenance.get("seeds") or {}).get("samples") or []
    known = len(seeds) == len(q.values) > 1 and not record.external
    return (kind, tuple(seeds)) if known else None


def paired(differences: Sequence[float]) -> tuple[Spread, float | None]:
    """The spread of paired differences, and the p-value of the two-sided paired t-test that their
    mean is zero; None where all of them are equal."""
    from scipy.special import stdtr  # scipy.stats takes ten times as long to load

    n, mean, sd = len(differences), statistics.fmean(differences), statistics.stdev(differences)
    spread = Spread(sd, n, {"pairs": (sd**2 / n, n - 1)})
    if not is_spread(mean, sd):
        return spread, None
    return spread, float(2 * stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n))))


def beside_metrics(cells: Mapping[Column, Any], found: Deltas) -> dict[Column, Any]:
    """All columns, each metric followed by its difference."""
    together: dict[Column, Any] = {}
    for column, values in cells.items():
        together[column] = values
        if column in found.values:
            together[delta_of(column)] = found.values[column]
    return together


def delta_of(column: Column) -> Column:
    """The column of the differences in a metric."""
    return Column(column.group, f"{DELTA} {column.what}", signed=True)


def _notes(baseline: str, tested: Sequence[str], untested: Sequence[str]) -> Sequence[str]:
    notes = [f"{DELTA}: difference from {baseline}"]
    if tested:
        notes[0] += (
            f"; ± standard deviation of the paired differences; * p < {SIGNIFICANT:g} in a "
            f"two-sided paired t-test over {' or '.join(tested)}, not corrected for the number of "
            f"comparisons"
        )
    if untested:
        notes.append(f"{DELTA} without a test, seeds are not paired: {', '.join(untested)}")
    return notes
