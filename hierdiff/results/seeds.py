"""Records that differ in the training seed alone, merged into one with its spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from hierdiff.metrics.quality import Quality
from hierdiff.resolution import Name, text_of
from hierdiff.results.cost import Cost
from hierdiff.results.flat import NAMED
from hierdiff.results.hardware import hardware
from hierdiff.results.plain import content_hash, plain
from hierdiff.results.record import Record

TIMES = ("train_images_per_s", "sample_images_per_s", "latency_s")
CLOCKED = {"seconds": "trainer", "latency": "sampler"}  # budget: whose steps it decides


def training_seed(record: Record) -> Any:
    """The seed of the run; a list where `over_seeds` merged several."""
    seeds = record.provenance.get("seeds") or {}
    return record.config.get("seed", seeds.get("training"))


def over_seeds(runs: Iterable[Record]) -> list[Record]:
    """The records, those that differ in the training seed alone merged into one.

    A merged record has means for values, the list of seeds as `config["seed"]`, and the scale and
    provenance of its newest run; no curves and no analyses. `values` are the means of the runs.
    Its spread keeps both sources: `between`, the standard deviation of the runs' means, `within`,
    that over the sampling seeds of one run (root of the mean of the runs' variances; None where a
    run has one sampling seed), `draws`, the sampling seeds of a run, and

        spread = sqrt(between^2 + within^2),   that of one result of one training and sampling seed.

    Why the sum: let a result be mu + a_i + b_j + e_ij, for training seed i of k, sampling seed j of
    m, variances A, B, E. The runs share their sampling seeds, so that the mean of the b_j is in
    every run's mean and their variance, A + E / m, does not see it; that within a run is B + E.
    The sum is A + B + E + E / m: never below the variance of one result, A + B + E. Likewise
    between^2 / k + within^2 / m = A / k + B / m + E / m + E / (k m) is never below that of the
    mean, A / k + B / m + E / (k m). If the runs drew independently, so that b_j were another for
    each, both would hold as well.

    Costs have means, and times and rates the standard deviation between the `runs`. Records of
    one seed, failures, and records measured under different identities or on different hardware
    stay as they are.
    """
    groups: dict[Hashable, list[Record]] = {}
    for i, record in enumerate(runs):
        groups.setdefault(i if record.failure is not None else _but_seed(record), []).append(record)
    return [one for group in groups.values() for one in _merged(group)]


def _but_seed(record: Record) -> Hashable:
    """The same key for records that are the same run under another seed, made from the same files
    and code. Steps that a clock decided are no difference; a selected half-life is one, as selected
    options of the sampler are, which stand in the config."""
    options = {k: v for k, v in record.config.items() if k not in NAMED}
    for budget, part in CLOCKED.items():
        if (options.get("match") or {}).get(budget) is not None:
            options[part] = {k: v for k, v in options[part].items() if k != "steps"}
    measured = {
        (text_of(q.level), q.metric): (q.identity, q.n, q.n_reference) for q in record.quality
    }
    made_from = [options, record.provenance.get("inputs"), record.resolutions]
    return (
        *(record.name, record.method, record.data, record.budget),
        content_hash(plain(made_from, "record", free=True)),
        frozenset(measured.items()),
        frozenset(hardware(record, cost) for cost in record.cost),
        frozenset(one.half_life for one in record.selection if one.chosen),
    )


def _merged(group: Sequence[Record]) -> Sequence[Record]:
    group = sorted(group, key=lambda record: str(training_seed(record)))
    seeds = [training_seed(record) for record in group]
    if len(group) < 2 or None in seeds or len(set(map(str, seeds))) < len(seeds):
        return group
    newest = max(group, key=lambda record: (str(record.provenance.get("ended")), record.hash))
    notes = [note for record in group for note in record.training.get("notes", ())]
    training: dict[str, Any] = _mean([record.training for record in group])
    return [
        replace(
            newest,
            quality=tuple(_over_runs(record.quality for record in group)),
            cost=tuple(
                _mean_cost([c for r in group for c in r.cost if _place(c) == place])
                for place in dict.fromkeys(_place(c) for r in group for c in r.cost)
            ),
            training={**training, "notes": list(dict.fromkeys(notes))},
            config={**newest.config, "seed": seeds},
            curves=(),
            analysis={},
            edited=any(record.edited for record in group),
        )
    ]


def _over_runs(qualities: Iterable[Sequence[Quality]]) -> Iterator[Quality]:
    """One row for each level, view and metric; a run that has no value has no say."""
    same: dict[tuple[Name, str, str], list[Quality]] = {}
    for rows in qualities:
        for q in rows:
            same.setdefault((q.level, q.view, q.metric), []).append(q)
    for rows in same.values():
        runs = [q for q in rows if q.value is not None]
        values = tuple(q.value for q in runs if q.value is not None)
        mean = statistics.fmean(values) if values else None
        spread = _spread(values, runs) if len(runs) > 1 else {"spread": None}
        yield replace(rows[0], value=mean, values=values, **spread)


def _spread(values: Sequence[float], runs: Sequence[Quality]) -> dict[str, Any]:
    """The spread of several runs by its sources, as fields of a row: see `over_seeds`."""
    between, spreads = deviation(values), [q.spread for q in runs]
    within = None
    if None not in spreads:
        within = math.sqrt(statistics.fmean(s**2 for s in spreads if s is not None))
    return {
        "spread": math.hypot(between, within or 0.0),
        "between": between,
        "within": within,
        "draws": min(max(1, len(q.values)) for q in runs),
    }


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample, 0 where all are equal. That of `statistics` is exact, in
    fractions, and takes ten times as long."""
    away = [value - values[0] for value in values]
    mean = statistics.fmean(away)
    return math.hypot(*(a - mean for a in away)) / math.sqrt(len(away) - 1)


def _place(cost: Cost) -> tuple[Name, str | None]:
    return cost.level, cost.part


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    """A batch size that was best under one seed and not under another is no number."""
    rows = [cost.plain() for cost in costs]
    merged = _mean(rows)
    unlike = [k for k in ("batch", "train_batch") if len({row[k] for row in rows}) > 1]
    between = {
        f"{key}_between": deviation(values)
        for key in TIMES
        if len(values := [row[key] for row in rows if row[key] is not None]) == len(rows) > 1
    }
    return Cost.read({**merged, **dict.fromkeys(unlike), **between, "runs": len(rows)})


def _mean(nodes: Sequence[Any]) -> Any:
    """Of trees of one form: the mean of numbers, any of truths, and else the first."""
    known = [node for node in nodes if node is not None]
    if not known:
        return None
    if all(isinstance(node, bool) for node in known):
        return any(known)
    if all(isinstance(node, Real) for node in known):
        return known[0] if len(set(known)) == 1 else statistics.fmean(known)
    if all(isinstance(node, Mapping) for node in known):
        keys = dict.fromkeys(key for node in known for key in node)
        return {key: _mean([node.get(key) for node in known]) for key in keys}
    if all(isinstance(node, (list, tuple)) for node in known) and len(set(map(len, known))) == 1:
        return [_mean(same) for same in zip(*known, strict=True)]
    return known[0]
