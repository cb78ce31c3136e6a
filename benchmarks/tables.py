"""Tables of records; pure functions of them (Markdown, LaTeX, CSV, terminal).

One row for each record, then two rows that give the scale: real images, and a Gaussian fitted to
them. One column group for each resolution, finest first. Unlike numbers never share a column:
another data set, metric identity, number of images, device or dtype is refused.

    python -m benchmarks.tables runs --format latex --preset cost -o cost.tex
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.formats import DOWN, FORMATS, MISSING, UP, number
from benchmarks.formats import csv as csv
from benchmarks.formats import latex as latex
from benchmarks.formats import markdown as markdown
from benchmarks.formats import rich_table as rich_table
from hierdiff.files import write
from hierdiff.record import FILE, Record, Row

HIGHER_IS_BETTER = ("IS", "precision", "recall", "density", "coverage", "PSNR", "SSIM")
SCALE = {"real": "real images", "gaussian": "Gaussian"}  # key in a record, label of the row


@dataclass(frozen=True)
class Cost:
    """A cost column: its key in a record, its label, what turns the stored unit into the shown one.

    hardware: whether the number depends on device and dtype.
    """

    key: str
    label: str
    factor: float = 1
    hardware: bool = True


COSTS = (
    Cost("train_images_per_s", f"train img/s {UP}"),
    Cost("sample_images_per_s", f"sample img/s {UP}"),
    Cost("latency_s", f"latency ms {DOWN}", 1e3),
    Cost("train_memory_mib", f"train MiB {DOWN}"),
    Cost("train_memory_reserved_mib", f"train reserved MiB {DOWN}"),
    Cost("sample_memory_mib", f"sample MiB {DOWN}"),
    Cost("sample_memory_reserved_mib", f"sample reserved MiB {DOWN}"),
    Cost("parameters", "params M", 1e-6, hardware=False),
    Cost("flops_per_call", "GFLOPs/call", 1e-9, hardware=False),
    Cost("flops_per_image", "GFLOPs/image", 1e-9, hardware=False),
    Cost("evaluations", "calls", hardware=False),
)
SHORT = ("train_images_per_s", "sample_images_per_s", "train_memory_mib", "sample_memory_mib")
PRESETS = {  # whether quality is shown, and which costs
    "main": (True, tuple(cost for cost in COSTS if cost.key in SHORT)),
    "cost": (False, COSTS),
    "all": (True, COSTS),
}


# ---------------------------------------------------------------- records to numbers


def frame(records: Iterable[Record], preset: str = "main") -> pd.DataFrame:
    """One row for each record and the two rows of the scale; numbers in full, NaN where missing.

    Columns are pairs (resolution, what); `attrs` is that of benchmarks/formats.py. Raises
    ValueError where unlike numbers would share a column.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    records = sorted(records, key=lambda record: (record.name, record.hash, str(record.path)))
    if not records:
        raise ValueError("a table needs at least one record: finish a run first")
    datasets = sorted({record.data for record in records})
    if len(datasets) > 1:
        raise ValueError(
            f"data sets {', '.join(datasets)} cannot share a table: choose one, "
            f"--where data={datasets[0]}"
        )
    rows = dict(sorted(zip(labels(records), records, strict=True)))
    with_quality, costs = PRESETS[preset]
    columns: dict[tuple[str, str], dict[str, Any]] = {}
    for side in resolutions(rows.values()):
        group = f"{side} px"
        if with_quality:
            for label, found in quality_columns(rows, side).items():
                same_identity(f"{group} {label}", found)
                columns[group, label] = {row: q["value"] for row, q in found.items()}
        for cost in costs:
            measured = cost_column(rows, side, cost)
            if cost.hardware:
                same_hardware(f"{group} {cost.label}", rows, measured)
            columns[group, cost.label] = {
                row: c[cost.key] * cost.factor for row, c in measured.items()
            }
    if len({record.budget for record in records}) > 1:
        columns["", "budget"] = {row: record.budget for row, record in rows.items()}
    columns["", "failure"] = {row: r.failure for row, r in rows.items() if r.failure is not None}
    columns = {key: column for key, column in columns.items() if column}
    scale = [label for label in SCALE.values() if any(label in c for c in columns.values())]
    order = [*rows, *scale]
    table = pd.DataFrame(
        {key: [column.get(row) for row in order] for key, column in columns.items()}, index=order
    )
    table.columns = pd.MultiIndex.from_tuples(list(columns), names=(None, None))
    for key in table.columns:
        if key[0]:
            table[key] = table[key].astype(float)
    table.attrs = {
        "data": datasets[0],
        "scale": scale,
        "caption": caption(rows, with_quality),
        "notes": list(notes(rows, with_quality)),
    }
    return table


def resolutions(records: Iterable[Record]) -> list[int]:
    """Every side that was measured, finest first."""
    return sorted({int(row["resolution"]) for r in records for row in (*r.quality, *r.cost)})[::-1]


def quality_columns(rows: Mapping[str, Record], side: int) -> dict[str, dict[str, Row]]:
    """For each metric and view at a resolution the quality row of each table row.

    At the finest resolution both views are the same image, and one column says it. Both views have
    the same references, so that a row of the scale stands in either.
    """
    finest = side == max(resolutions(rows.values()))
    views = (
        {"": ("native", "pooled")} if finest else {" native": ("native",), " pooled": ("pooled",)}
    )
    at_side = {
        row: [q for q in record.quality if q["resolution"] == side and q["value"] is not None]
        for row, record in rows.items()
    }
    scale = {label: list(scale_rows(rows.values(), kind, side)) for kind, label in SCALE.items()}
    columns: dict[str, dict[str, Row]] = {}
    for metric in sorted({q["metric"] for found in at_side.values() for q in found}):
        arrow = UP if metric in HIGHER_IS_BETTER else DOWN
        for suffix, wanted in views.items():
            column = {
                row: q
                for row, found in at_side.items()
                for view in reversed(wanted)
                for q in found
                if (q["metric"], q["view"]) == (metric, view)
            }
            if column:
                column |= {
                    row: q for row, found in scale.items() for q in found if q["metric"] == metric
                }
                columns[f"{metric}{suffix} {arrow}"] = column
    return columns


def scale_rows(records: Iterable[Record], kind: str, side: int) -> Iterator[Row]:
    """The rows of the scale at a resolution; of several records the newest speaks, by metric."""
    newest = sorted(records, key=lambda r: (str(r.provenance.get("ended")), r.hash))
    found = {
        q["metric"]: q
        for record in newest
        for q in record.scale.get(kind, ())
        if q["resolution"] == side and q["value"] is not None
    }
    yield from found.values()


def cost_column(rows: Mapping[str, Record], side: int, cost: Cost) -> dict[str, Row]:
    return {
        row: c
        for row, record in rows.items()
        for c in record.cost
        if c["resolution"] == side and c.get(cost.key) is not None
    }


def same_identity(column: str, found: Mapping[str, Row]) -> None:
    """One identity, one number of images and one number of references in a column."""
    seen: dict[tuple[Any, ...], str] = {}
    for row, q in found.items():
        seen.setdefault((q["identity"], q.get("n"), q.get("n_reference")), row)
    if len(seen) > 1:
        (first, row), (second, other) = list(seen.items())[:2]
        raise ValueError(
            f"column {column!r} would mix {_identity(first)} ({row}) with {_identity(second)} "
            f"({other}): leave one out by --where, or measure one again under the other's protocol"
        )


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


def hardware(record: Record, cost: Row) -> str:
    """Device, its model where the record knows it, and dtype: `cuda (NVIDIA H100), bfloat16`."""
    machine = record.provenance.get("machine") or {}
    device = str(cost.get("device"))
    names = (machine.get("gpu") or {}).get("names") or []
    model = names[0] if device.startswith("cuda") and names else machine.get("cpu")
    return f"{device}{f' ({model})' if model else ''}, {cost.get('dtype')}"


# ---------------------------------------------------------------- names and conditions


def labels(records: Sequence[Record]) -> list[str]:
    """A label for each record, all different: its name, and where names meet, what differs."""
    names = Counter(record.name for record in records)
    shown = []
    for record in records:
        rivals = [other for other in records if other.name == record.name]
        told = f" ({_difference(record, rivals)})" if names[record.name] > 1 else ""
        shown.append(record.name + told + (" (edited)" if record.edited else ""))
    taken = Counter(SCALE.values())
    unique = []
    for label in shown:
        taken[label] += 1
        unique.append(label if taken[label] == 1 else f"{label} #{taken[label]}")
    return unique


def _difference(record: Record, rivals: Sequence[Record]) -> str:
    """What tells a record from its rivals: one option, up to three, or the end of its path."""
    facts = [_facts(rival) for rival in rivals]
    own = _facts(record)
    keys = sorted({key for fact in facts for key in fact}, key=lambda key: (key.count("."), key))
    differing = [key for key in keys if len({str(fact.get(key)) for fact in facts}) > 1]
    short = [key for key in differing if all(_is_short(fact.get(key)) for fact in facts)]
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


def _is_short(value: Any) -> bool:
    return len(str(value)) <= 24 and "/" not in str(value)


def _facts(record: Record) -> dict[str, Any]:
    return {
        "budget": record.budget,
        "resolutions": "x".join(map(str, record.resolutions)),
        **_flat(record.config),
    }


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


def caption(rows: Mapping[str, Record], with_quality: bool) -> str:
    """Under which conditions the numbers hold: data, budget, counts, noise floor, hardware."""
    records = list(rows.values())
    budgets = sorted({record.budget for record in records})
    parts = [f"{records[0].data}, budget {', '.join(budgets)}."]
    found = [q for record in records for q in record.quality if q["value"] is not None]
    for metric in sorted({q["metric"] for q in found}) if with_quality else ():
        own = [q for q in found if q["metric"] == metric]
        counts = sorted({f"{q.get('n')} images against {q.get('n_reference')}" for q in own})
        parts.append(f"{metric} of {', '.join(counts)}")
        floors = []
        for side in resolutions(records):
            at_side = [q.get("floor") for q in own if q["resolution"] == side]
            known = sorted({floor for floor in at_side if floor is not None})
            if known:
                ends = dict.fromkeys((number(known[0]), number(known[-1])))
                floors.append(f"{side} px {MISSING.join(ends)}")
        parts[-1] += f"; noise floor at this count: {', '.join(floors)}." if floors else "."
    costs = sorted(
        {
            f"{hardware(record, c)}, batch {c.get('batch')}"
            for record in records
            for c in record.cost
            if any(c.get(cost.key) is not None for cost in COSTS if cost.hardware)
        }
    )
    if costs:
        parts.append(f"Cost on {'; '.join(costs)}.")
    return " ".join(parts)


def notes(rows: Mapping[str, Record], with_quality: bool) -> Iterator[str]:
    """Beneath the table: full metric identities, noisy timings, records edited by hand."""
    if with_quality:
        identities = {
            (-q["resolution"], q["metric"], q["identity"])
            for record in rows.values()
            for q in record.quality
            if q["value"] is not None
        }
        for side, metric, identity in sorted(identities):
            yield f"{metric} at {-side} px: {identity}"
    noisy = [
        f"{row} at {c['resolution']} px"
        for row, record in rows.items()
        for c in record.cost
        if c.get("noisy")
    ]
    if noisy:
        yield f"times that spread widely: {', '.join(noisy)}"
    for row, record in rows.items():
        yield from (f"{row}: {note}" for note in record.training.get("notes", ()))
    edited = [row for row, record in rows.items() if record.edited]
    if edited:
        yield f"changed by hand since they were measured: {', '.join(edited)}"


# ---------------------------------------------------------------- command line


def find(folders: Iterable[str | Path]) -> list[Record]:
    """Every record at or below the folders, each file once."""
    paths: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: name a folder of runs")
        paths |= {folder.resolve()} if folder.is_file() else set(folder.resolve().rglob(FILE))
    return [Record.read(path) for path in sorted(paths)]


def keep(records: Iterable[Record], conditions: Iterable[str]) -> list[Record]:
    """The records for which every condition `field=value[,value]` holds."""
    kept = list(records)
    for condition in conditions:
        name, _, values = condition.partition("=")
        if name not in ("name", "method", "data", "budget") or not values:
            raise ValueError(f"--where {condition!r}: write name=, method=, data= or budget=VALUE")
        kept = [record for record in kept if getattr(record, name) in values.split(",")]
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.tables", description="Tables of finished runs.")
    parser.add_argument("folders", nargs="+", metavar="RUNS_FOLDER")
    parser.add_argument("--format", choices=list(FORMATS), default="markdown")
    parser.add_argument("--preset", choices=list(PRESETS), default="main")
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="FIELD=VALUE[,VALUE]",
        help="keep the records with this name, method, data or budget",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    try:
        records = keep(find(chosen.folders), chosen.where)
        if not records:
            raise ValueError(
                f"no finished run ({FILE}) under {', '.join(chosen.folders)}: "
                f"make one by python -m benchmarks.run method=mdm"
            )
        printed = FORMATS[chosen.format](frame(records, chosen.preset))
        if chosen.output is None:
            sys.stdout.write(printed)
        else:
            write(chosen.output, printed.encode())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
