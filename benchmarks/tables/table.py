"""Tables of records; pure functions of them (Markdown, LaTeX, CSV, terminal).

One row for each method, then two rows that give the scale: real images, and a Gaussian fitted to
them. Records that differ in the training seed alone are one row, with their mean, and a spread over
training and sampling seeds; that of a row of one training seed is over sampling seeds. One column
group for each resolution, finest first. Unlike numbers never share a column: another data set,
metric identity, number of images, device or dtype is refused (mixing.py). What a preset shows is
said in presets.py, what is best, and when a gap counts, in best.py. Numbers that others published
(published.py) have columns and rows of their own.

    python -m benchmarks.tables runs --format latex --preset cost -o cost.tex
    python -m benchmarks.tables runs --published method=ADM,CDM resolution=256
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from benchmarks.tables import captions, notes
from benchmarks.tables import published as papers
from benchmarks.tables.columns import columns_of, failures_of, metrics_of
from benchmarks.tables.differences import differences, options_of, rank
from benchmarks.tables.formats.cells import MISSING
from benchmarks.tables.keys import Key
from benchmarks.tables.labels import labels
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.published import Published
from benchmarks.tables.scale import SCALE
from hierdiff.results.record import Record
from hierdiff.results.seeds import over_seeds

OPTIONS = 6  # columns of an ablation; more are named beneath


def frame(
    records: Iterable[Record],
    preset: str = "main",
    published: Sequence[Published] = (),
    left_out: Sequence[str] = (),
) -> pd.DataFrame:
    """One row for each method and the two rows of the scale; numbers in full, NaN where missing.

    left_out: why other records are not here, for the notes. Columns are pairs (resolution, what);
    `attrs` is that of formats/cells.py. Raises ValueError where unlike numbers would share a
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
        found, key=lambda r: (r.name, *map(rank, map(options_of(r).get, differing.values())))
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
            row: str(options_of(r).get(key, MISSING)) for row, r in rows.items()
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
            *notes.notes(rows, metrics, wanted, list(differing)[OPTIONS:]),
            *notes.fewer_real(rows.values(), metrics),
            *papers.notes(published),
            *(f"left out ({i} of {len(left_out)}): {why}" for i, why in enumerate(left_out, 1)),
        ],
    }
    return table


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
