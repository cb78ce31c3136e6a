"""Finished runs as data: the records below some folders, training seeds merged, pandas frames.

    from hierdiff.results import dataframe, wide
    wide(dataframe("runs"))

The long form has one line for each number that was measured, in the units of the record; a failed
run is one line with its reason. What may be compared shares an `identity`: that of a metric, or of
a cost the hardware and batch size that it depends on.
"""

from __future__ import annotations

import logging
import math
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierdiff.record import FILE, Record, Row, content_hash, plain

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

# names of folders below that hold no runs of their own: hidden, `a~`, `a.bak`, `a (copy)`
NO_RUN = re.compile(r"^\.|~$|\.(bak|old|orig|backup)$|(\(| - | )copy\b", re.IGNORECASE)
NAMED = ("seed", "folder", "name")  # options that tell runs apart and do not change the method
COLUMNS = (
    *("run", "name", "method", "data", "budget", "seed", "kind", "resolution", "view", "metric"),
    *("value", "spread", "n", "identity", "path", "edited", "failure"),
)
ANYWHERE = ("parameters", "flops_per_call", "flops_per_image", "evaluations")  # on any hardware
TIMES = ("train_images_per_s", "sample_images_per_s", "latency_s")
CLOCKED = {"seconds": "trainer", "latency": "sampler"}  # budget: whose steps it decides
WHOLE = ("seed", "resolution", "n", "step")
SPENT = ("step", "images", "flops", "seconds", "half_life")  # where on its curve a number is


def paths(*folders: str | Path, depth: int | None = None) -> list[Path]:
    """The files of all records at or below the folders (or the files themselves), each once.

    depth: how many folders down, None for all. What is hidden (`.ipynb_checkpoints`), a copy by a
    file manager or a backup is no run, unless it is what was asked for; links are not followed.
    Raises FileNotFoundError.
    """
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: name a folder of runs")
        top = Path(os.path.realpath(folder))
        if not top.is_dir():
            found.add(top)
            continue
        for place, below, files in os.walk(top):
            level = len(Path(place).relative_to(top).parts)
            below[:] = [name for name in below if not NO_RUN.search(name) and level != depth]
            found |= {Path(place, FILE)} if FILE in files else set()
    return sorted(found)


def readable(*folders: str | Path, depth: int | None = None) -> tuple[list[Record], list[str]]:
    """The records at or below the folders, by path, and why others are left out, each by its path.

    Of copies of one record the first stands for all. Raises FileNotFoundError.
    """
    found: dict[str, Record] = {}
    left_out: list[str] = []
    for path in paths(*folders, depth=depth):
        try:
            record = Record.read(path)
        except (ValueError, OSError) as error:
            left_out.append(_with_path(error, path))
            continue
        first = found.setdefault(record.hash, record)
        if first is not record:
            left_out.append(f"{path} is a copy of {first.path}, which has the row")
    return list(found.values()), left_out


def _with_path(error: ValueError | OSError, path: Path) -> str:
    system = isinstance(error, OSError) and error.strerror
    return f"{path} cannot be read ({error.strerror})" if system else str(error)  # type: ignore[union-attr]


def records(*folders: str | Path) -> list[Record]:
    """Every record at or below the folders, by path; those left out are warned of.

    Raises FileNotFoundError.
    """
    found, left_out = readable(*folders)
    for line in left_out:
        log.warning("left out: %s", line)
    return found


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A tree with one level: `{"denoiser.width": 64}`."""
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): node}
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.")
    return leaves


def training_seed(record: Record) -> Any:
    """The seed of the run; a list where `over_seeds` merged several."""
    seeds = record.provenance.get("seeds") or {}
    return record.config.get("seed", seeds.get("training"))


def machine(record: Record, device: str) -> str:
    """A device with its model, where the record knows it: `cuda (NVIDIA H100)`."""
    return hardware_of(device, record.provenance.get("machine") or {})


def hardware_of(device: str, known: Mapping[str, Any]) -> str:
    """A device with its model; known: the machine as provenance has it."""
    names = (known.get("gpu") or {}).get("names") or []
    model = names[0] if device.startswith("cuda") and names else known.get("cpu")
    return f"{device} ({model})" if model else device


def hardware(record: Record, cost: Row) -> str:
    """What a time or a memory depends on: `cuda (NVIDIA H100), bf16-mixed`, of a CPU also the
    threads."""
    timed = record.provenance.get("cost") or {}  # timed again, maybe elsewhere
    known = timed.get("machine") or record.provenance.get("machine") or {}
    parts = [hardware_of(str(cost.get("device")), known), str(cost.get("dtype"))]
    threads = cost.get("threads")
    if threads is not None:
        parts.append(f"{threads} thread{'s' * (threads != 1)}")
    return ", ".join(parts)


# ---------------------------------------------------------------- training seeds


def over_seeds(found: Iterable[Record]) -> list[Record]:
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
    groups: dict[str, list[Record]] = {}
    for i, record in enumerate(found):
        groups.setdefault(str(i) if record.failure is not None else _but_seed(record), []).append(
            record
        )
    return [one for group in groups.values() for one in _merged(group)]


def _but_seed(record: Record) -> str:
    """The same text for records that are the same run under another seed, made from the same files
    and code. Steps that a clock decided are no difference."""
    options = {k: v for k, v in record.config.items() if k not in NAMED}
    for budget, part in CLOCKED.items():
        if (options.get("match") or {}).get(budget) is not None:
            options[part] = {k: v for k, v in options[part].items() if k != "steps"}
    measured = {
        (str(q["resolution"]), q["metric"]): (q["identity"], q.get("n"), q.get("n_reference"))
        for q in record.quality
    }
    told = {
        "row": (record.name, record.method, record.data, record.budget, record.resolutions),
        "options": options,
        "measured": sorted(measured.items()),
        "inputs": record.provenance.get("inputs"),
        "hardware": sorted({hardware(record, c) for c in record.cost}),
    }
    return content_hash(plain(told, "record", free=True))


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


def _over_runs(qualities: Iterable[Sequence[Row]]) -> Iterator[Row]:
    """One row for each resolution, view and metric; a run that has no value has no say."""
    same: dict[tuple[Any, ...], list[Row]] = {}
    for rows in qualities:
        for q in rows:
            same.setdefault((q["resolution"], q["view"], q["metric"]), []).append(q)
    for rows in same.values():
        known = [q for q in rows if q["value"] is not None]
        values = [q["value"] for q in known]
        yield {
            **rows[0],
            "value": statistics.fmean(values) if values else None,
            "values": values,
            **_spread(values, known),
        }


def _spread(values: Sequence[float], runs: Sequence[Row]) -> dict[str, Any]:
    """That of the mean of several runs, by its sources: see `over_seeds`."""
    if len(values) < 2:
        return {"spread": None}
    between, spreads = statistics.stdev(values), [q.get("spread") for q in runs]
    within = None
    if None not in spreads:
        within = math.sqrt(statistics.fmean(s**2 for s in spreads if s is not None))
    return {
        "spread": math.hypot(between, within or 0.0),
        "between": between,
        "within": within,
        "draws": min(len(q.get("values") or [None]) for q in runs),
    }


def _place(cost: Row) -> tuple[int, str | None]:
    return cost["resolution"], cost.get("part")


def _mean_cost(rows: Sequence[Row]) -> Row:
    """A batch size that was best under one seed and not under another is no number."""
    merged = _mean(rows)
    unlike = [k for k in ("batch", "train_batch") if len({row.get(k) for row in rows}) > 1]
    between = {
        f"{key}_between": statistics.stdev(values)
        for key in TIMES
        if len(values := [row[key] for row in rows if row.get(key) is not None]) == len(rows) > 1
    }
    return {**merged, **dict.fromkeys(unlike, None), **between, "runs": len(rows)}


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


# ---------------------------------------------------------------- frames


def dataframe(*folders: str | Path, options: Sequence[str] = ()) -> pd.DataFrame:
    """The long form: one line for each measured number of the records below `folders`.

    Columns: `COLUMNS`, then `SPENT` (of lines of a curve), then one for each of the `options`, by
    their place in the config (`denoiser.width`). kind: "quality", "cost" (of what makes the images
    of a resolution), "cost alone" (of a network without the rest of its trajectory), "curve",
    "scale" (name and method are then "real" or "gaussian") or "failure". metric of a cost: its key
    in the record.
    """
    import pandas as pd

    lines = []
    for record in records(*folders):
        told = _told(record, options)
        found = [{**told, **line} for line in _lines(record)]
        if record.failure is not None:
            found.append({**told, "kind": "failure"})
        lines += found
    frame = pd.DataFrame(lines, columns=pd.Index([*COLUMNS, *SPENT, *options]))
    numbers = {name: "float64" for name in ("value", "spread", *SPENT)}
    return frame.astype({**numbers, **dict.fromkeys(WHOLE, "Int64"), "edited": "bool"})


def _told(record: Record, wanted: Sequence[str]) -> dict[str, Any]:
    chosen = flat(record.config)
    folder = record.path.parent.name if record.path else record.name
    return {
        "run": folder,
        "name": record.name,
        "method": record.method,
        "data": record.data,
        "budget": record.budget,
        "seed": training_seed(record),
        "path": str(record.path) if record.path else None,
        "edited": record.edited,
        "failure": record.failure,
        **{option: chosen.get(option) for option in wanted},
    }


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    for q in record.quality:
        yield {"kind": "quality", **_number(q)}
    for c in record.cost:
        kind = "cost" if c.get("part") is None else f"cost {c['part']}"
        for key, value in flat(c).items():
            if isinstance(value, Real) and not isinstance(value, bool) and key != "resolution":
                batch = c.get("train_batch" if key.startswith("train_") else "batch")
                timed = f"{hardware(record, c)}, batch {batch}"
                identity = None if key in ANYWHERE else timed
                place = {"resolution": c["resolution"], "metric": key, "identity": identity}
                yield {"kind": kind, **place, "value": value}
    for row in record.curves:
        yield {"kind": "curve", **_number(row), **{key: row.get(key) for key in SPENT}}
    for name, rows in record.scale.items():
        for q in rows:
            yield {"kind": "scale", "name": name, "method": name, **_number(q)}


def _number(row: Row) -> dict[str, Any]:
    keys = ("resolution", "view", "metric", "value", "spread", "n", "identity")
    return {key: row.get(key) for key in keys}


def wide(frame: pd.DataFrame, kind: str = "quality") -> pd.DataFrame:
    """One line for each run, one column for each resolution, view and metric of one `kind`.

    Raises ValueError where a column would mix identities, data sets or points of a curve.
    """
    if kind == "curve":
        raise ValueError("a curve has many numbers for a metric: plot the long form over 'images'")
    chosen = frame[frame["kind"] == kind]
    place = ["resolution", "view", "metric"]
    for what in ("identity", "data"):
        mixed = chosen.groupby(place, dropna=False)[what].nunique()
        if (mixed > 1).any():
            where = mixed[mixed > 1].index[0]
            told = ", ".join(str(part) for part in where if part == part)
            raise ValueError(
                f"{told} has more than one {what}: choose one, frame[frame.{what} == ...]"
            )
    runs = ["run", "name", "seed"]
    chosen = chosen.assign(view=chosen["view"].fillna(""))
    twice = chosen.duplicated([*runs, *place])
    if twice.any():
        raise ValueError(
            f"run {chosen[twice]['run'].iloc[0]!r} is there twice: choose one by frame.path"
        )
    return chosen.pivot(index=runs, columns=place, values="value").sort_index(
        axis=1, ascending=[False, True, True]
    )
