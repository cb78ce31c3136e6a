"""Tables of the facts behind a row: options, metrics, budgets, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from benchmarks.report.charts import compact
from benchmarks.report.parts import (
    Cell,
    LabelledRecord,
    PlainTable,
    TableRow,
    finite_number,
    mapping,
)
from benchmarks.tables.formats.cells import MISSING
from hierdiff.resolution import order_of, px
from hierdiff.results.hardware import device_name, hardware

OWN = ("folder", "label", "name")  # options that only say what a run is called
SPENT = ("steps", "batch", "images", "flops", "seconds", "share", "pretrained")


def as_text(value: Any) -> str:
    """A value of a config on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def value_cell(value: Any) -> Cell:
    """The cell of a value; numbers have at most four significant digits."""
    number = finite_number(value)
    if number is not None:
        return Cell(compact(number), number, number=True)
    return Cell(MISSING if value is None else as_text(value))


def option_leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a config by dotted path; a list is a leaf unless its members have options."""
    if isinstance(node, Mapping) and node:
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(child, Mapping) for child in node):
        children = enumerate(node)
    else:
        return {prefix.removesuffix("."): node}
    leaves: dict[str, Any] = {}
    for key, child in children:
        leaves |= option_leaves(child, f"{prefix}{key}.")
    return leaves


def option_tables(
    entries: Sequence[LabelledRecord],
) -> tuple[PlainTable | None, list[PlainTable], PlainTable | None]:
    """Three tables of options: those that differ between rows; for each row, those that it alone
    has; those that are equal in all rows. None or no table where there are no such options."""
    entries = [entry for entry in entries if entry.record.config]
    configs = [option_leaves(entry.record.config) for entry in entries]
    names = [name for name in dict.fromkeys(n for f in configs for n in f) if name not in OWN]
    values = {name: [as_text(f[name]) if name in f else MISSING for f in configs] for name in names}
    alone = {name for name in names if sum(name in f for f in configs) == 1 < len(configs)}
    differ = [
        TableRow(name, [Cell(value) for value in values[name]])
        for name in names
        if len(set(values[name])) > 1 and name not in alone
    ]
    own = [
        PlainTable(
            f"Options of {entry.label} alone",
            ("option", "value"),
            [
                TableRow(name, [Cell(as_text(f[name]))])
                for name in names
                if name in alone and name in f
            ],
        )
        for entry, f in zip(entries, configs, strict=True)
    ]
    same = [TableRow(n, [Cell(values[n][0])]) for n in names if len(set(values[n])) == 1]
    head = ("option", *(entry.label for entry in entries))
    return (
        PlainTable("Options that differ", head, differ) if differ else None,
        [table for table in own if table.rows],
        PlainTable("Options that all rows share", ("option", "value"), same) if same else None,
    )


def metric_table(entries: Sequence[LabelledRecord]) -> PlainTable | None:
    """Every metric with its full identity, and the rows that have it."""
    unique: dict[str, tuple[Any, TableRow]] = {}
    rows: dict[str, list[str]] = {}
    for entry in entries:
        for q in entry.record.quality:
            cells = [
                Cell(str(q.identity)),
                Cell({"low": "lower", "high": "higher", None: "as real images"}[q.better]),
                *(value_cell(getattr(q, key)) for key in ("n", "n_reference", "floor", "route")),
            ]
            row = TableRow(f"{q.metric} at {px(q.level)}", cells)
            unique.setdefault(repr(row), (order_of(q.level), row))
            rows.setdefault(repr(row), []).append(entry.label)
    all_labels = {entry.label for entry in entries if entry.record.quality}
    body = [
        TableRow(
            row.label,
            [
                *row.cells,
                Cell("all" if {*rows[key]} == all_labels else ", ".join(dict.fromkeys(rows[key]))),
            ],
        )
        for key, (_, row) in sorted(unique.items(), key=lambda item: item[1][0])
    ]
    head = ("metric", "identity", "better", "images", "references", "noise floor", "route", "rows")
    return PlainTable("Metrics in full", head, body) if body else None


def budget_table(entries: Sequence[LabelledRecord]) -> PlainTable | None:
    """The spending of each stage, and the planned and spent sums."""
    body = []
    for entry in entries:
        training = entry.record.training
        if training.get("plan"):
            plan = (
                f"{key} {amount_cell(key, value).text}"
                for key, value in option_leaves(training["plan"]).items()
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
                cells = [Cell(name), *(amount_cell(key, part.get(key)) for key in SPENT)]
                body.append(TableRow(entry.label, cells, entry.look))
    head = ("row", "part", "steps", "batch", "images", "FLOPs", "time", "share", "pretrained")
    return PlainTable("Plan and spending", head, body, grouped=True) if body else None


def amount_cell(key: str, value: Any) -> Cell:
    """The cell of an amount; key: one of `SPENT`, which decides the unit."""
    amount = finite_number(value)
    if amount is None:
        return Cell(
            {True: "yes", False: "no"}[value] if isinstance(value, bool) else value_cell(value).text
        )
    if key == "seconds":
        return Cell(duration_text(amount), amount, number=True)
    if key == "share":
        return Cell(f"{100 * amount:.3g} %", amount, number=True)
    if key in ("steps", "batch", "images") and amount.is_integer():
        return Cell(f"{int(amount):,}", amount, number=True)
    return value_cell(amount)


def duration_text(seconds: float) -> str:
    """`12.5 s`, `3 min 05 s`, `35 min`, `1 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def origin_table(entries: Sequence[LabelledRecord]) -> PlainTable:
    """Code, machine, seeds and date of each row. Costs may be from another machine."""
    body = []
    for entry in entries:
        record, p = entry.record, entry.record.provenance
        git, known = mapping(p.get("git")), mapping(p.get("machine"))
        cells = (
            "edited by hand" if record.edited else "as measured",
            _commit(git),
            device_name(record, "cuda" if known.get("gpu") else "cpu") if known else None,
            "; ".join(sorted({hardware(record, cost) for cost in record.cost})) or None,
            mapping(p.get("packages")).get("torch"),
            ", ".join(f"{k} {as_text(v)}" for k, v in mapping(p.get("seeds")).items()) or None,
            _minute(p.get("started")),
            _took(p.get("started"), p.get("ended")),
            record.hash[:12],
        )
        filled = [
            cell if isinstance(cell, Cell) else Cell(MISSING if cell is None else as_text(cell))
            for cell in cells
        ]
        body.append(TableRow(entry.label, filled, entry.look))
    head = ("row", "record", "commit", "machine", "costs", "torch", "seeds", "started", "took")
    return PlainTable("Where each row is from", (*head, "hash"), body)


def _commit(git: Mapping[str, Any]) -> str | None:
    if not git.get("commit"):
        return None
    state = "" if git.get("dirty") is None else " with changes" if git["dirty"] else " clean"
    return str(git["commit"])[:10] + state


def _minute(moment: Any) -> Any:
    try:
        time = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return moment
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip()


def _took(started: Any, ended: Any) -> Cell | None:
    try:
        taken = datetime.fromisoformat(ended) - datetime.fromisoformat(started)
    except (TypeError, ValueError):
        return None
    return amount_cell("seconds", taken.total_seconds())


def provenance_table(entry: LabelledRecord) -> PlainTable:
    """The complete provenance of a row."""
    record = entry.record
    known = {
        "folder": entry.folder.name if entry.folder else None,
        "method": record.method,
        "budget": record.budget,
        "resolutions": list(record.resolutions),
        "record hash": record.hash,
        "edited by hand": "yes" if record.edited else "no",
        "failure": record.failure,
        "notes": record.training.get("notes"),
        **(option_leaves(record.provenance) if record.provenance else {}),
    }
    body = [
        TableRow(key, [Cell(as_text(value))])
        for key, value in known.items()
        if value is not None and value != []
    ]
    return PlainTable(f"Provenance of {entry.label}", ("fact", "value"), body)
