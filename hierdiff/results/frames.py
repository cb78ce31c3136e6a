"""Finished runs as data: the records below some folders, training seeds merged, pandas frames.

    from hierdiff.results import dataframe, wide
    wide(dataframe("runs"))

The long form has one line for each number that was measured, in the units of the record; a failed
run is one line with its reason. What may be compared shares an `identity`: that of a metric, or of
a cost the hardware and batch size that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierdiff.metrics.quality import Quality
from hierdiff.resolution import Name, name_of, order_of, text_of
from hierdiff.results.record import Record

if TYPE_CHECKING:
    import pandas as pd
from hierdiff.results.flat import flat
from hierdiff.results.folders import records
from hierdiff.results.hardware import hardware
from hierdiff.results.seeds import training_seed

COLUMNS = (
    *("run", "name", "method", "data", "budget", "seed", "kind", "resolution", "view", "metric"),
    *("value", "spread", "n", "identity", "path", "edited", "failure"),
)
ANYWHERE = (  # on any hardware
    *("parameters", "active_parameters", "flops_per_call", "flops_per_image", "evaluations"),
)
WHOLE = ("seed", "resolution", "n", "step")
SPENT = ("step", "images", "flops", "seconds", "half_life")  # where on its curve a number is


def dataframe(*folders: str | Path, options: Sequence[str] = ()) -> pd.DataFrame:
    """The long form: one line for each measured number of the records below `folders`.

    Columns: `COLUMNS`, then `SPENT` (of lines of a curve), then one for each of the `options`, by
    their place in the config (`denoiser.width`). kind: "quality", "cost" (of what makes the images
    of a resolution), "cost alone" (of a network without the rest of its trajectory), "curve",
    "scale" (name and method are then "real" or "gaussian") or "failure". metric of a cost: its key
    in the record. resolution: the side of a square in pixels, and for other levels their name as
    text (`8x32x32`).
    """
    import pandas as pd

    lines = []
    for record in records(*folders):
        run = _run_columns(record, options)
        rows = [{**run, **line} for line in _lines(record)]
        if record.failure is not None:
            rows.append({**run, "kind": "failure"})
        lines += rows
    frame = pd.DataFrame(lines, columns=pd.Index([*COLUMNS, *SPENT, *options]))
    numbers = {name: "float64" for name in ("value", "spread", *SPENT)}
    texts = any(isinstance(line.get("resolution"), str) for line in lines)
    whole = dict.fromkeys(WHOLE, "Int64") | ({"resolution": "object"} if texts else {})
    return frame.astype({**numbers, **whole, "edited": "bool"})


def _run_columns(record: Record, options: Sequence[str]) -> dict[str, Any]:
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
        **{option: chosen.get(option) for option in options},
    }


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    for q in record.quality:
        yield {"kind": "quality", **_number(q)}
    for c in record.cost:
        kind = "cost" if c.part is None else f"cost {c.part}"
        for key, value in vars(c).items():
            if isinstance(value, Real) and not isinstance(value, bool) and key != "level":
                batch = c.train_batch if key.startswith("train_") else c.batch
                timed = f"{hardware(record, c)}, batch {batch}"
                identity = None if key in ANYWHERE else timed
                place = {"resolution": _level(c.level), "metric": key, "identity": identity}
                yield {"kind": kind, **place, "value": value}
    for row in record.curves:
        yield {"kind": "curve", **_number(row), **{key: getattr(row, key) for key in SPENT}}
    for name, rows in record.scale.items():
        for q in rows:
            yield {"kind": "scale", "name": name, "method": name, **_number(q)}


def _number(row: Quality) -> dict[str, Any]:
    keys = ("view", "metric", "value", "spread", "n")
    parts = {key: getattr(row, key) for key in keys}
    return {"resolution": _level(row.level), **parts, "identity": str(row.identity)}


def _level(level: Name) -> int | str:
    return level if isinstance(level, int) else text_of(level)


def wide(frame: pd.DataFrame, kind: str = "quality") -> pd.DataFrame:
    """One line for each run, one column for each resolution, view and metric of one `kind`.

    Raises:
        ValueError: where a column would mix identities, data sets or points of a curve.
    """
    if kind == "curve":
        raise ValueError("a curve has many numbers for a metric: plot the long form over 'images'")
    chosen = frame[frame["kind"] == kind]
    place = ["resolution", "view", "metric"]
    for what in ("identity", "data"):
        mixed = chosen.groupby(place, dropna=False)[what].nunique()
        if (mixed > 1).any():
            where = mixed[mixed > 1].index[0]
            column = ", ".join(str(part) for part in where if part == part)
            raise ValueError(
                f"{column} has more than one {what}: choose one, frame[frame.{what} == ...]"
            )
    runs = ["run", "name", "seed"]
    chosen = chosen.assign(view=chosen["view"].fillna(""))
    twice = chosen.duplicated([*runs, *place])
    if twice.any():
        raise ValueError(
            f"run {chosen[twice]['run'].iloc[0]!r} is there twice: choose one by frame.path"
        )
    table = chosen.pivot(index=runs, columns=place, values="value")
    order = sorted(table.columns, key=lambda c: (order_of(name_of(str(c[0]))), *c[1:]))
    return table[order].sort_index()
