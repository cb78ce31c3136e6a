"""Notes beneath a table: budgets, choices, noisy timings, edited records, identities of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.tables.captions import CASES, PRETRAINED, budget, pretrained
from benchmarks.tables.columns import levels_in
from benchmarks.tables.digits import number
from benchmarks.tables.formats.cells import MISSING
from benchmarks.tables.presets import UNITS, Preset
from benchmarks.tables.scale import newest_rows
from hierdiff.resolution import Name, joint_text, order_of, px
from hierdiff.results.cost import ALONE, Cost
from hierdiff.results.hardware import device_name
from hierdiff.results.record import UNKNOWN, Record


def notes(rows: Mapping[str, Record], wanted: Preset, more: Sequence[str]) -> Iterator[str]:
    """Beneath the table: other options, what the budget is and is not of, what was chosen, noisy
    timings, what methods say of their rows, records edited by hand."""
    if more:
        yield f"these options differ as well: {', '.join(more)}"
    before = [
        f"{row.removesuffix(f' {PRETRAINED}')} ({', '.join(stages)})"
        for row, record in rows.items()
        if (stages := pretrained(record))
    ]
    if before:
        yield f"{PRETRAINED} trained beforehand, outside the budget: {', '.join(before)}"
    if wanted.parts:
        yield from shares(rows)
    if ("spent", "seconds") in wanted.budgets:
        machines = {
            device_name(r, "cuda" if (r.provenance.get("machine") or {}).get("gpu") else "cpu")
            for r in rows.values()
            if budget(r, "spent", "seconds") is not None
        }
        if len(machines) > 1:
            yield f"seconds of training are of different machines: {', '.join(sorted(machines))}"
    yield from selections(rows)
    yield from protocols(rows)
    yield from externals(rows)
    if wanted.costs:
        yield from _of_costs(rows, alone=wanted.metrics == "none")
    said: dict[str, dict[str, None]] = {}  # rows by what their methods say of them
    for row, record in rows.items():
        for note in record.training.get("notes", ()):
            said.setdefault(note, {})[row] = None
    yield from (f"{', '.join(told)}: {note}" for note, told in said.items())
    edited = [row for row, record in rows.items() if record.edited]
    if edited:
        yield f"records edited by hand after they were measured: {', '.join(edited)}"


def selections(rows: Mapping[str, Record]) -> Iterator[str]:
    """What was selected for a row, out of how many candidates, and by what."""
    for row, record in rows.items():
        best = next((one for one in record.selection if one.chosen), None)
        if best is not None:
            seed = (record.provenance.get("seeds") or {}).get("selection")
            count = len(record.selection)
            yield (
                f"{row}: {best.options()} chosen out of {count} by {best.metric} of {best.n} other "
                f"images (seed {seed}, conditions of training images)"
            )


def protocols(rows: Mapping[str, Record]) -> Iterator[str]:
    """Under which published protocol a row was measured, and how it departs from it."""
    for row, record in rows.items():
        evaluation = record.provenance.get("evaluation")
        if isinstance(evaluation, Mapping):
            departures = ", ".join(map(str, evaluation.get("departures") or ()))
            yield f"{row}: protocol {evaluation.get('protocol')}" + (
                f", from which it departs: {departures}" if departures else ""
            )


def externals(rows: Mapping[str, Record]) -> Iterator[str]:
    """What the maker of external images says of them, how many there are, and what is unknown."""
    for row, record in rows.items():
        if record.external:
            stated = record.stated
            said = [f"{name} {value}" for name, value in stated.items() if value != UNKNOWN]
            unsaid = [name for name, value in stated.items() if value == UNKNOWN]
            told = "; ".join(
                filter(
                    None, (", ".join(said), ", ".join(unsaid) and f"unknown: {', '.join(unsaid)}")
                )
            )
            sets = max((len(q.values) for q in record.quality), default=1)
            parts = f"{sets} disjoint sets of images" if sets > 1 else "one set, so no spread"
            rows_known = any(q.identity.rows for q in record.quality)
            own = record.config.get("conditions") == "own"
            kind = "of their own" if own else "that are not known"
            conditions = "" if rows_known else f", under conditions {kind}"
            yield f"{row}: {parts}{conditions}; its maker states: {told or 'nothing'}"


def _of_costs(rows: Mapping[str, Record], alone: bool) -> Iterator[str]:
    """Which timings are noisy, what CPU processes held before the method, why costs are missing,
    and which were taken otherwise by an earlier version. alone: also of parts alone."""
    found = [
        (row, c) for row, record in rows.items() for c in record.cost if alone or c.part is None
    ]
    spread = [f"{row} at {_where(c)}{which}" for row, c in found if (which := noisy(c)) is not None]
    if spread:
        yield f"timings with a wide spread: {', '.join(dict.fromkeys(spread))}"
    bases = sorted(
        base
        for _, c in found
        for base in (c.train_memory_baseline_mib, c.sample_memory_baseline_mib)
        if c.device == "cpu" and base is not None
    )
    if bases:
        had = MISSING.join(dict.fromkeys((number(round(bases[0])), number(round(bases[-1])))))
        yield f"memory on a CPU is that of the process, which had {had} MiB before the method"
    failed = []
    for row, c in found:
        whys = zip(CASES, (c.train_failure, c.sample_failure), strict=True)
        if reasons := [f"{case}: {why}" for case, why in whys if why]:
            failed.append(f"{row} at {_where(c)}, {'; '.join(reasons)}")
    yield from dict.fromkeys(failed)
    older = dict.fromkeys(f"{row} ({c.train_step})" for row, c in found if c.train_step)
    if older:
        yield (
            f"training timed by an earlier version, not with the step of the run: "
            f"{', '.join(older)}; python -m benchmarks.cost times it again"
        )


def _where(cost: Cost) -> str:
    """`64x32 px` of a joint trajectory."""
    levels = joint_text(cost.trajectory or [cost.level])
    return f"{levels} px{f' ({ALONE})' if cost.part else ''}"


def noisy(cost: Cost) -> str | None:
    """Which times of a cost row spread widely, ` (train, sample)`; None for none of them."""
    wide = zip(CASES, (cost.train_noisy, cost.sample_noisy), strict=True)
    named = ", ".join(case for case, is_noisy in wide if is_noisy)
    return f" ({named})" if named else None


def identities(rows: Mapping[str, Record], metrics: Sequence[str]) -> Iterator[str]:
    """A line for each level and identity but for the estimator, which each metric tells."""
    found = {
        (q.level, q.identity.source, q.identity.estimator or "", q.metric)
        for record in rows.values()
        for q in record.quality
        if q.value is not None and q.metric in metrics
    }
    lines: dict[tuple[Name, str], list[str]] = {}
    for level, made, how, metric in sorted(
        found, key=lambda f: (order_of(f[0]), metrics.index(f[3]), f[1:])
    ):
        lines.setdefault((level, made), []).append(f"{metric} ({how})" if how else metric)
    for (level, maker), names in lines.items():
        yield f"{px(level)}, {maker}: {', '.join(names)}"


def shares(rows: Mapping[str, Record]) -> Iterator[str]:
    """How a method of several stages divides its budget."""
    for row, record in rows.items():
        stages = record.training.get("stages", ())
        for what, (unit, _) in list(UNITS.items())[1::-1]:  # FLOPs, or else images
            amounts = [float(stage.get(what) or 0) for stage in stages]
            total = sum(amounts, start=0.0)
            if len(stages) > 1 and total:
                parts = (
                    f"{stage['name']} {100 * amount / total:.0f} %"
                    for stage, amount in zip(stages, amounts, strict=True)
                )
                yield f"{row}, {unit} by stage: {', '.join(parts)}"
                break


def fewer_real(rows: Iterable[Record], metrics: Sequence[str]) -> Iterator[str]:
    """A note where real images are fewer than generated ones: distances of few images read high."""
    records = list(rows)
    most: dict[tuple[Name, str], int] = {}
    for q in (q for record in records for q in record.quality if q.n):
        most[q.level, q.metric] = max(q.n or 0, most.get((q.level, q.metric), 0))
    counts = {
        (q.n, many)
        for level in levels_in(records)
        for q in newest_rows(records, "real", level)
        if q.metric in metrics and q.n and q.n < (many := most.get((level, q.metric), 0))
    }
    for few, many in sorted(counts):
        yield f"real images: only {few}, the whole test part, against {many} generated ones"
