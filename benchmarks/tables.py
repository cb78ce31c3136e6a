"""Tables of records; pure functions of them (Markdown, LaTeX, CSV, terminal).

One row for each method, then two rows that give the scale: real images, and a Gaussian fitted to
them. Records that differ in the training seed alone are one row, with their mean, and a spread over
training and sampling seeds; that of a row of one training seed is over sampling seeds. One column
group for each resolution, finest first. Unlike numbers never share a column: another data set,
metric identity, number of images, device or dtype is refused. What a preset shows is said in
benchmarks/presets.py, what is best, and when a gap counts, in benchmarks/best.py. Numbers that
others published (benchmarks/published.py) have columns and rows of their own.

    python -m benchmarks.tables runs --format latex --preset cost -o cost.tex
    python -m benchmarks.tables runs --published method=ADM,CDM resolution=256
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import captions
from benchmarks import published as papers
from benchmarks.best import ARROWS, Key, Spread
from benchmarks.captions import PRETRAINED, budget, pretrained
from benchmarks.formats import FORMATS, MISSING
from benchmarks.formats import csv as csv
from benchmarks.formats import latex as latex
from benchmarks.formats import markdown as markdown
from benchmarks.formats import rich_table as rich_table
from benchmarks.presets import PARTS, PRESETS, UNITS, Cost, Preset
from benchmarks.published import Published
from hierdiff.config import one_line, reported
from hierdiff.files import clean_beside, write
from hierdiff.metrics.fidelity import apart_from_count
from hierdiff.record import ALONE, FILE, Record, Row, better
from hierdiff.results import NAMED, flat, hardware, over_seeds, readable

SCALE = {"real": "real images", "gaussian": "Gaussian"}  # key in a record, label of the row
OUT_OF_MEMORY, OOM = "out of memory", "OOM"  # how such a reason begins, what a cell says
Spreads = dict[Key, dict[str, Spread]]  # by column and row
OPTIONS = 6  # columns of an ablation; more are named beneath


# ---------------------------------------------------------------- records to numbers


def frame(
    records: Iterable[Record],
    preset: str = "main",
    published: Sequence[Published] = (),
    left_out: Sequence[str] = (),
) -> pd.DataFrame:
    """One row for each method and the two rows of the scale; numbers in full, NaN where missing.

    left_out: why other records are not here, for the notes. Columns are pairs (resolution, what);
    `attrs` is that of benchmarks/formats.py. Raises ValueError where unlike numbers would share a
    column.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    wanted = PRESETS[preset]
    found = sorted(records, key=lambda record: (record.name, record.hash, str(record.path)))
    if not found:
        raise ValueError("a table needs at least one record: finish a run first")
    datasets = sorted({record.data for record in found})
    if len(datasets) > 1:
        raise ValueError(
            f"data sets {', '.join(datasets)} cannot share a table: choose one, "
            f"--where data={datasets[0]}"
        )
    protocols = sorted({str(p) for r in found if (p := r.provenance.get("protocol")) is not None})
    if len(protocols) > 1:
        raise ValueError(
            f"records measured under protocols {' and '.join(protocols)} cannot share a table: "
            f"measure the older ones again"
        )
    found = over_seeds(found)
    differing = differences(found) if wanted.options else {}
    found = sorted(
        found, key=lambda r: (r.name, *map(_rank, map(_facts(r).get, differing.values())))
    )
    named = zip(labels(found, told=not differing), found, strict=True)
    rows = dict(named if differing else sorted(named))
    metrics = metrics_of(rows.values(), wanted.metrics)

    columns, spread, noise, resolution = columns_of(rows, wanted, metrics)
    words = failures_of(rows, wanted)
    for failed in words:
        columns[failed] = columns.get(failed) or dict.fromkeys(words[failed], None)
    for name, key in list(differing.items())[:OPTIONS]:
        columns["options", name] = {
            row: str(_facts(r).get(key, MISSING)) for row, r in rows.items()
        }
    if len({record.budget for record in found}) > 1 and "budget" not in differing:
        columns["", "budget"] = {row: record.budget for row, record in rows.items()}
    columns["", "failure"] = {row: r.failure for row, r in rows.items() if r.failure is not None}
    scale = [label for label in SCALE.values() if any(label in c for c in columns.values())]
    others = {label: row.dataset for row, label in papers.labels(published).items()}
    told = papers.columns(published, quality=wanted.metrics != "none", cost=wanted.parts)
    columns = placed({key: column for key, column in columns.items() if column}, told)
    order = [*rows, *scale, *others]
    table = pd.DataFrame(
        {key: [column.get(row) for row in order] for key, column in columns.items()}, index=order
    )
    table.columns = pd.MultiIndex.from_tuples(list(columns), names=(None, None))
    for key in table.columns:
        if not any(isinstance(value, str) for value in columns[key].values()):
            table[key] = table[key].astype(float)
    table.attrs = {
        "data": datasets[0],
        "preset": preset,
        "scale": scale,
        "published": others,
        "spread": {key: known for key, known in spread.items() if known},
        "noise": {key: known for key, known in noise.items() if known},
        "resolution": resolution,
        "words": words,
        "caption": captions.caption(rows, metrics, wanted),
        "notes": [
            *captions.notes(rows, metrics, wanted, list(differing)[OPTIONS:]),
            *fewer_real(rows.values(), metrics),
            *papers.notes(published),
            *(f"left out ({i} of {len(left_out)}): {why}" for i, why in enumerate(left_out, 1)),
        ],
    }
    return table


def columns_of(
    rows: Mapping[str, Record], wanted: Preset, metrics: Sequence[str]
) -> tuple[dict[Key, dict[str, Any]], Spreads, Spreads, dict[Key, float]]:
    """Columns of what was measured, by row; the spread over seeds, that over repeats of a timing,
    and the part of itself to which a number is known, where there is one."""
    columns: dict[Key, dict[str, Any]] = {}
    spread: Spreads = {}
    noise: Spreads = {}
    resolution: dict[Key, float] = {}
    for group, side, part in groups_of(rows.values(), wanted):
        measured = quality_columns(rows, side, metrics) if part is None else {}
        for label, found in measured.items():
            same_identity(f"{group} {label}", found)
            columns[group, label] = {row: q["value"] for row, q in found.items()}
            spread[group, label] = {
                row: known for row, q in found.items() if (known := spread_of(q)) is not None
            }
        for cost in costs_of(rows.values(), side, wanted):
            taken = cost_column(rows, side, part, cost)
            if cost.hardware:
                same_hardware(f"{group} {cost.label}", rows, taken)
            columns[group, cost.label] = {
                row: c[cost.key] * cost.factor for row, c in taken.items()
            }
            noise[group, cost.label] = {
                row: known for row, c in taken.items() if (known := cost.spread(c)) is not None
            }
            if cost.resolution is not None:
                resolution[group, cost.label] = cost.resolution
        if wanted.parts:
            columns |= {(group, label): own for label, own in parts(rows, side, part).items()}
    for when, what in wanted.budgets:
        unit, factor = UNITS[what]
        columns[when, unit] = {
            row: amount / factor
            for row, record in rows.items()
            if (amount := budget(record, when, what)) is not None
        }
    return columns, spread, noise, resolution


def groups_of(records: Iterable[Record], wanted: Preset) -> Iterator[tuple[str, int, str | None]]:
    """Name, side and part of each column group: the resolutions, and in a table without quality the
    parts of a trajectory that were measured alone."""
    records = list(records)
    for side in resolutions(records):
        yield f"{side} px", side, None
    for side in resolutions(records) if wanted.metrics == "none" else ():
        if any(costs_at(record, side, ALONE) for record in records):
            yield f"network {ALONE} {side} px", side, ALONE


def costs_of(records: Iterable[Record], side: int, wanted: Preset) -> tuple[Cost, ...]:
    finest = side == max(resolutions(records))
    return wanted.costs if finest or not wanted.finest else ()


def costs_at(record: Record, side: int, part: str | None) -> list[Row]:
    """Cost rows of what makes the images of a resolution (part None), or of a part alone."""
    return [c for c in record.cost if (c["resolution"], c.get("part")) == (side, part)]


def spread_of(q: Row) -> Spread | None:
    """Of a quality row, which is a mean over sampling seeds, or over those and training seeds
    (`hierdiff.results.over_seeds`); None where it is unknown."""
    sd, count = q.get("spread"), len(q.get("values") or ())
    if sd is None or count < 2:
        return None
    if "between" not in q:
        return Spread(sd, count, {"sampling seeds": (sd**2 / count, count - 1)})
    parts = {"training seeds": (q["between"] ** 2 / count, count - 1)}
    if q["within"] is not None:
        parts["sampling seeds"] = (q["within"] ** 2 / q["draws"], q["draws"] - 1)
    return Spread(sd, count, parts)


def failures_of(rows: Mapping[str, Record], wanted: Preset) -> dict[Key, dict[str, str]]:
    """Costs that ended without a number, by row: `OOM` where memory ran out."""
    words: dict[Key, dict[str, str]] = {}
    for group, side, part in groups_of(rows.values(), wanted):
        for cost in costs_of(rows.values(), side, wanted):
            for row, record in rows.items():
                for c in costs_at(record, side, part):
                    reason = c.get(f"{cost.case}_failure")
                    if reason is not None and c.get(cost.key) is None and cost.measured:
                        word = OOM if reason.startswith(OUT_OF_MEMORY) else "failed"
                        words.setdefault((group, cost.label), {})[row] = word
    return words


def placed(columns: dict[Key, Any], others: dict[Key, Any]) -> dict[Key, Any]:
    """Both by group: options, resolutions, budgets, resolutions of the others alone, words."""
    together = {**columns, **others}
    groups = list(dict.fromkeys(group for group, _ in together))

    def order(group: str) -> int:
        own = any(group == g for g, _ in columns)
        ranks = {"options": 0, "planned": 2, "spent": 2, "": 4}
        return ranks.get(group, 1 if own else 3)

    return {
        key: column
        for group in sorted(groups, key=order)
        for key, column in together.items()
        if key[0] == group
    }


def resolutions(records: Iterable[Record]) -> list[int]:
    """Every side that was measured, finest first."""
    return sorted({int(row["resolution"]) for r in records for row in (*r.quality, *r.cost)})[::-1]


def metrics_of(records: Iterable[Record], which: str) -> list[str]:
    """Metrics that were measured, in the order of the records: the "first" of each, "all", none."""
    rows = [[q["metric"] for q in record.quality] for record in records]
    if which == "first":
        return list(dict.fromkeys(metrics[0] for metrics in rows if metrics))
    return list(dict.fromkeys(m for metrics in rows for m in metrics)) if which == "all" else []


def quality_columns(
    rows: Mapping[str, Record], side: int, metrics: Sequence[str]
) -> dict[str, dict[str, Row]]:
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
    for metric in metrics:
        arrow = ARROWS[direction(metric, rows.values())]
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
                columns[f"{metric}{suffix}{arrow}"] = column
    return columns


def direction(metric: str, records: Iterable[Record]) -> str | None:
    """Which side of a metric is better: as a row says, or else by its name."""
    rows = [q for record in records for q in record.quality if q["metric"] == metric]
    return better(next((q for q in rows if "better" in q), {"metric": metric}))


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


def cost_column(
    rows: Mapping[str, Record], side: int, part: str | None, cost: Cost
) -> dict[str, Row]:
    return {
        row: c
        for row, record in rows.items()
        for c in costs_at(record, side, part)
        if c.get(cost.key) is not None
    }


def parts(
    rows: Mapping[str, Record], side: int, part: str | None = None
) -> dict[str, dict[str, float]]:
    """The numbers of a breakdown: of any entry of a cost row that has entries itself."""
    columns: dict[str, dict[str, float]] = {}
    sources: dict[str, Row] = {}
    for row, record in rows.items():
        for c in costs_at(record, side, part):
            named = {key: _by_name(node) for key, node in c.items()}
            nested = {key: node for key, node in named.items() if isinstance(node, Mapping)}
            for key, value in flat(nested).items():
                if isinstance(value, Real) and not isinstance(value, bool):
                    place, _, last = key.rpartition(".")
                    unit, factor = PARTS.get(last, (last, 1.0))
                    name = re.sub(r"[._]", " ", f"{place}.{unit}")
                    columns.setdefault(name, {})[row] = float(value) * factor
                    sources[row] = c
    same_hardware(f"{side} px {next(iter(columns), '')}", rows, sources)
    return columns


def _by_name(node: Any) -> Any:
    """A list of things that have names as a tree."""
    if isinstance(node, Mapping):
        return {key: _by_name(child) for key, child in node.items()}
    if isinstance(node, (list, tuple)) and all(
        isinstance(n, Mapping) and "name" in n for n in node
    ):
        return {n["name"]: {k: v for k, v in n.items() if k != "name"} for n in node}
    return node


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


def fewer_real(rows: Iterable[Record], metrics: Sequence[str]) -> Iterator[str]:
    """A note where real images are fewer than generated ones: distances of few images read high."""
    records = list(rows)
    counts = {
        (q["n"], max(ns))
        for side in resolutions(records)
        for q in scale_rows(records, "real", side)
        if q["metric"] in metrics and q.get("n")
        if (ns := _counts_of(records, side, q["metric"])) and q["n"] < max(ns)
    }
    for few, many in sorted(counts):
        yield f"real images are {few}, all test images there are, beside {many} generated ones"


def _counts_of(records: Iterable[Record], side: int, metric: str) -> list[int]:
    return [
        q["n"]
        for record in records
        for q in record.quality
        if (q["resolution"], q["metric"]) == (side, metric) and q.get("n")
    ]


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


# ---------------------------------------------------------------- names and differences


def labels(records: Sequence[Record], told: bool = True) -> list[str]:
    """A label for each record, all different: its name, and where names meet, what differs.

    told: whether the label tells it; else it counts.
    """
    names = Counter(record.name for record in records)
    shown = []
    for record in records:
        rivals = [other for other in records if other.name == record.name]
        seeds = record.config.get("seed")
        facts = [
            *([_difference(record, rivals)] if told and names[record.name] > 1 else []),
            *([f"{len(seeds)} seeds"] if isinstance(seeds, list) else []),
            *(["edited"] if record.edited else []),
        ]
        label = record.name + (f" ({', '.join(facts)})" if facts else "")
        shown.append(label + (f" {PRETRAINED}" if pretrained(record) else ""))
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
    short = _differing(facts)
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


def _differing(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options that are not the same in all, outermost first; long ones and places left out."""
    keys = sorted({key for fact in facts for key in fact}, key=lambda key: (key.count("."), key))
    return [
        key
        for key in keys
        if len({str(fact.get(key)) for fact in facts}) > 1
        and all(_is_short(fact.get(key)) for fact in facts)
    ]


def _is_short(value: Any) -> bool:
    return len(str(value)) <= 24 and "/" not in str(value)


def _facts(record: Record) -> dict[str, Any]:
    return {
        "budget": record.budget,
        "resolutions": "x".join(map(str, record.resolutions)),
        **{key: value for key, value in flat(record.config).items() if key not in NAMED[1:]},
    }


def differences(records: Sequence[Record]) -> dict[str, str]:
    """The options in which records differ, by a short name of each.

    What one option sets in several places of the config is told once. A seed is no option.
    """
    facts = [_facts(record) for record in records]
    told: dict[tuple[str, ...], str] = {}
    for key in _differing(facts):
        last = key.rpartition(".")[2]
        if key not in ("seed", "label", "budget_name"):
            told.setdefault((last, *(str(fact.get(key)) for fact in facts)), key)
    ends = Counter(_end(key) for key in told.values())
    return {_end(key) if ends[_end(key)] == 1 else key: key for key in told.values()}


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then words."""
    is_number = isinstance(value, Real)
    return not is_number, float(value) if is_number else 0.0, str(value)


def _end(key: str) -> str:
    """What an option is called: its own name, or that of what it names."""
    *_, before, last = ("", *key.split("."))
    return f"{before}.{last}" if last == "name" and before else last


# ---------------------------------------------------------------- command line


def keep(records: Iterable[Record], conditions: Iterable[str]) -> list[Record]:
    """The records for which every condition `field=value[,value]` holds."""
    kept = list(records)
    for condition in conditions:
        name, _, values = condition.partition("=")
        if name not in ("name", "method", "data", "budget") or not values:
            raise ValueError(f"--where {condition!r}: write name=, method=, data= or budget=VALUE")
        kept = [record for record in kept if getattr(record, name) in values.split(",")]
    return kept


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Which runs, and which numbers of others beside them."""
    parser.add_argument("folders", nargs="+", metavar="RUNS")
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="FIELD=VALUE[,VALUE]",
        help="keep the records with this name, method, data or budget",
    )  # fmt: skip
    parser.add_argument(
        "--published", nargs="*", metavar="FIELD=VALUE[,VALUE]",
        help="add numbers that others published: all, or those of this method, dataset, "
        "resolution or metric",
    )  # fmt: skip


def nothing_under(folders: Sequence[str]) -> str:
    return (
        f"no finished run ({FILE}) under {', '.join(folders)}: "
        f"make one by python -m benchmarks.run method=mdm"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.tables", description="Tables of finished runs.")
    add_choices(parser)
    parser.add_argument("--format", choices=list(FORMATS), default="markdown")
    parser.add_argument("--preset", choices=list(PRESETS), default="main")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    try:
        found, left_out = readable(*chosen.folders)
        for line in left_out:
            print(f"left out: {one_line(line)}", file=sys.stderr)
        found = keep(found, chosen.where)
        if not found:
            raise ValueError(nothing_under(chosen.folders))
        others = papers.asked(chosen.published)
        printed = FORMATS[chosen.format](frame(found, chosen.preset, others, left_out))
        if chosen.output is None:
            sys.stdout.write(printed)
        else:
            write(chosen.output, printed.encode())
            clean_beside(chosen.output)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(reported(main)())
