"""Tables of what a row stands on: options, metrics, budgets, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from benchmarks.report.charts import compact
from benchmarks.report.parts import Cell, Entry, Grid, TableRow, mapping, number
from benchmarks.tables.formats.cells import MISSING
from hierdiff.levels import order_of, px
from hierdiff.results.hardware import hardware, machine
from hierdiff.results.rows import better, level_of

OWN = ("folder", "label", "name")  # options that only say what a run is called
SPENT = ("steps", "batch", "images", "flops", "seconds", "share", "pretrained")


def told(value: Any) -> str:
    """A value of a configuration on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def measured(value: Any) -> Cell:
    found = number(value)
    if found is not None:
        return Cell(compact(found), found, number=True)
    return Cell(MISSING if value is None else told(value))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted path; the members of a list are leaves unless they have options."""
    if isinstance(node, Mapping) and node:
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(child, Mapping) for child in node):
        children = enumerate(node)
    else:
        return {prefix.removesuffix("."): node}
    found: dict[str, Any] = {}
    for key, child in children:
        found |= flat(child, f"{prefix}{key}.")
    return found


def options(entries: Sequence[Entry]) -> tuple[Grid | None, list[Grid], Grid | None]:
    """The options that differ between rows, those that one of several alone has, for each row, and
    those that all rows share."""
    entries = [entry for entry in entries if entry.record.config]
    found = [flat(entry.record.config) for entry in entries]
    names = [name for name in dict.fromkeys(n for f in found for n in f) if name not in OWN]
    values = {name: [told(f[name]) if name in f else MISSING for f in found] for name in names}
    alone = {name for name in names if sum(name in f for f in found) == 1 < len(found)}
    differ = [
        TableRow(name, [Cell(value) for value in values[name]])
        for name in names
        if len(set(values[name])) > 1 and name not in alone
    ]
    own = [
        Grid(
            f"Options of {entry.label} alone",
            ("option", "value"),
            [
                TableRow(name, [Cell(told(f[name]))])
                for name in names
                if name in alone and name in f
            ],
        )
        for entry, f in zip(entries, found, strict=True)
    ]
    same = [TableRow(n, [Cell(values[n][0])]) for n in names if len(set(values[n])) == 1]
    head = ("option", *(entry.label for entry in entries))
    return (
        Grid("Options that differ", head, differ) if differ else None,
        [grid for grid in own if grid.rows],
        Grid("Options that all rows share", ("option", "value"), same) if same else None,
    )


def metrics(entries: Sequence[Entry]) -> Grid | None:
    """Every metric with its identity in full, and the rows it was measured for."""
    found: dict[str, tuple[Any, TableRow]] = {}
    rows: dict[str, list[str]] = {}
    for entry in entries:
        for q in entry.record.quality:
            level = level_of(q)
            cells = [
                Cell(told(q["identity"])),
                Cell({"low": "lower", "high": "higher", None: "as real images"}[better(q)]),
                *(measured(q.get(key)) for key in ("n", "n_reference", "floor", "route")),
            ]
            row = TableRow(f"{q['metric']} at {px(level)}", cells)
            found.setdefault(repr(row), (order_of(level), row))
            rows.setdefault(repr(row), []).append(entry.label)
    measured_rows = {entry.label for entry in entries if entry.record.quality}
    body = [
        TableRow(
            row.label,
            [
                *row.cells,
                Cell(
                    "all" if {*rows[key]} == measured_rows else ", ".join(dict.fromkeys(rows[key]))
                ),
            ],
        )
        for key, (_, row) in sorted(found.items(), key=lambda item: item[1][0])
    ]
    head = ("metric", "identity", "better", "images", "references", "noise floor", "route", "rows")
    return Grid("Metrics in full", head, body) if body else None


def budgets(entries: Sequence[Entry]) -> Grid | None:
    """What each stage was given, and what was planned and spent in all."""
    body = []
    for entry in entries:
        training = entry.record.training
        if training.get("plan"):
            plan = (
                f"{key} {spent(key, value).text}" for key, value in flat(training["plan"]).items()
            )
            body.append(TableRow(entry.label, look=entry.look, reason=f"plan: {', '.join(plan)}"))
        stages = [
            (f"stage {part.get('name', i + 1)}", part)
            for i, part in enumerate(map(mapping, training.get("stages") or ()))
        ]
        sums = {name: mapping(training.get(name)) for name in ("planned", "spent")}
        sums["spent"] = sums["spent"] or training  # of a record that knows no plan
        for name, part in (*stages, *sums.items()):
            if any(part.get(key) is not None for key in SPENT):
                cells = [Cell(name), *(spent(key, part.get(key)) for key in SPENT)]
                body.append(TableRow(entry.label, cells, entry.look))
    head = ("row", "part", "steps", "batch", "images", "FLOPs", "time", "share", "pretrained")
    return Grid("Plan and spending", head, body, grouped=True) if body else None


def spent(key: str, value: Any) -> Cell:
    found = number(value)
    if found is None:
        return Cell(
            {True: "yes", False: "no"}[value] if isinstance(value, bool) else measured(value).text
        )
    if key == "seconds":
        return Cell(duration(found), found, number=True)
    if key == "share":
        return Cell(f"{100 * found:.3g} %", found, number=True)
    if key in ("steps", "batch", "images") and found.is_integer():
        return Cell(f"{int(found):,}", found, number=True)
    return measured(found)


def duration(seconds: float) -> str:
    """`12.5 s`, `3 min 05 s`, `35 min`, `1 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def origins(entries: Sequence[Entry]) -> Grid:
    """Where each row is from, in short. Costs may be timed again on another machine."""
    body = []
    for entry in entries:
        record, p = entry.record, entry.record.provenance
        git, known = mapping(p.get("git")), mapping(p.get("machine"))
        cells = (
            "edited by hand" if record.edited else "as measured",
            _commit(git),
            machine(record, "cuda" if known.get("gpu") else "cpu") if known else None,
            "; ".join(sorted({hardware(record, cost) for cost in record.cost})) or None,
            mapping(p.get("packages")).get("torch"),
            ", ".join(f"{k} {told(v)}" for k, v in mapping(p.get("seeds")).items()) or None,
            _minute(p.get("started")),
            _took(p.get("started"), p.get("ended")),
            record.hash[:12],
        )
        shown = [
            cell if isinstance(cell, Cell) else Cell(MISSING if cell is None else told(cell))
            for cell in cells
        ]
        body.append(TableRow(entry.label, shown, entry.look))
    head = ("row", "record", "commit", "machine", "costs", "torch", "seeds", "started", "took")
    return Grid("Where each row is from", (*head, "hash"), body)


def _commit(git: Mapping[str, Any]) -> str | None:
    if not git.get("commit"):
        return None
    state = {True: " with changes", False: " clean"}.get(git.get("dirty"), "")  # type: ignore[arg-type]
    return str(git["commit"])[:10] + state


def _minute(moment: Any) -> Any:
    try:
        found = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return moment
    return f"{found:%Y-%m-%d %H:%M} {found.tzname() or ''}".rstrip()


def _took(started: Any, ended: Any) -> Cell | None:
    try:
        taken = datetime.fromisoformat(ended) - datetime.fromisoformat(started)
    except (TypeError, ValueError):
        return None
    return spent("seconds", taken.total_seconds())


def provenance(entry: Entry) -> Grid:
    """All that is known of a row's origin."""
    record = entry.record
    found = {
        "folder": entry.folder.name if entry.folder else None,
        "method": record.method,
        "budget": record.budget,
        "resolutions": list(record.resolutions),
        "record hash": record.hash,
        "edited by hand": "yes" if record.edited else "no",
        "failure": record.failure,
        "notes": record.training.get("notes"),
        **(flat(record.provenance) if record.provenance else {}),
    }
    body = [
        TableRow(key, [Cell(told(value))])
        for key, value in found.items()
        if value is not None and value != []
    ]
    return Grid(f"Provenance of {entry.label}", ("fact", "value"), body)
