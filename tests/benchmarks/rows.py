"""Five records written by hand, and what makes more of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pandas as pd

from benchmarks.tables.layout import Table
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import CurvePoint, Quality, Spent
from hierdiff.results.cost import Cost
from hierdiff.results.plain import content_hash
from hierdiff.results.record import Record


def identity(side: int, **changed: Any) -> Identity:
    made = Identity("efficientnet_lite0@57938833", "bicubic-224", "uint8", n=512)
    return replace(made, reference=f"a1b2_{side}", **{"estimator": "frechet", **changed})


def quality(side: int, view: str, value: float | None, **changed: Any) -> Quality:
    told: dict[str, Any] = {
        "metric": "FD-EffLite0",
        "floor": {64: 10.04, 32: 8.5}.get(side),
        "n": 512,
        "n_reference": 1536,
        "identity": identity(side),
        "route": "nuclear",
        **changed,
    }
    return Quality(level=side, view=view, value=value, **told)


def point(side: int, view: str, value: float | None, **changed: Any) -> CurvePoint:
    spent = {f.name for f in fields(Spent)} & set(changed)
    row = quality(side, view, value, **{k: v for k, v in changed.items() if k not in spent})
    return CurvePoint(**vars(row), **{k: changed[k] for k in spent})


def cost(side: int, train: float | None, sample: float | None, **changed: Any) -> Cost:
    numbers: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "batch": 32,
        "train_images_per_s": train,
        "sample_images_per_s": sample,
        "latency_s": 1.2345,
        "train_memory_mib": 1024.5,
        "train_memory_reserved_mib": None,
        "sample_memory_mib": 512.25,
        "sample_memory_reserved_mib": None,
        "parameters": 2_345_678,
        "flops_per_call": 1.5e9,
        "flops_per_image": 75e9,
        "evaluations": 50,
        **changed,
    }
    return Cost(side, **numbers)


def of_schema(content: dict[str, Any], schema: int) -> dict[str, Any]:
    """The content of a record as one of an older schema had it, with its hash: identities are text,
    and a row does not say which side is better."""

    def row(one: dict[str, Any]) -> dict[str, Any]:
        text = str(Identity(**one["identity"]))
        return {**{k: v for k, v in one.items() if k != "better"}, "identity": text}

    unknown = {"hash", *(("analysis",) if schema < 2 else ()), *(("curves",) if schema < 3 else ())}
    content = {key: value for key, value in content.items() if key not in unknown}
    content |= {"schema": schema, "quality": list(map(row, content["quality"]))}
    content["scale"] = {kind: list(map(row, rows)) for kind, rows in content["scale"].items()}
    return {**content, "hash": content_hash(content)}


def record(name: str, **changed: Any) -> Record:
    scale = {
        "real": [quality(64, "pooled", 11.06), quality(32, "pooled", 9.53)],
        "gaussian": [quality(64, "pooled", 210.4), quality(32, "pooled", 150.25)],
    }
    told: dict[str, Any] = {
        "name": name,
        "method": name,
        "data": "critters",
        "budget": "default",
        "resolutions": (64, 32),
        "scale": scale,
        "provenance": {"ended": "2026-01-01T00:00:00+00:00", "machine": {"cpu": "Abacus 1"}},
        **changed,
    }
    return Record(**told)


def five() -> list[Record]:
    """Two levels, the same under another seed, a single level, a name to escape, a failure."""
    return [
        record(
            "mdm",
            quality=(
                quality(64, "native", 98.41),
                quality(64, "pooled", 98.41),
                quality(32, "native", 61.2),
                quality(32, "pooled", 60.1),
            ),
            cost=(cost(64, 40.123, 5.5), cost(32, 101.0, 20.25, sample_noisy=True)),
            config={"seed": 0, "denoiser": {"name": "nested_unet"}},
            training=training(22400, 1.5e15),
        ),
        record(
            "mdm",
            quality=(quality(64, "native", 98.44), quality(32, "pooled", 59.96)),
            cost=(cost(64, 39.5, 5.25),),
            config={"seed": 1, "denoiser": {"name": "nested_unet"}},
            training=training(22400, 1.5e15),
        ),
        record(
            "end_to_end",
            resolutions=(64,),
            quality=(quality(64, "native", 120.5), quality(32, "pooled", 77.7)),
            cost=(cost(64, 44.0, None),),
            training=training(24000, 1.25e15),
        ),
        record(
            "50% of a|b & c_d",
            quality=(quality(64, "native", 150.0), quality(32, "native", 99.9)),
            cost=(cost(64, None, 7.125),),
        ),
        record("latent", failure="out of memory at batch_size 32: lower it", resolutions=(64,)),
    ]


def training(images: int, flops: float, **changed: Any) -> dict[str, Any]:
    return {
        "steps": images // 32,
        "images": images,
        "seconds": 250.5,
        "notes": [],
        "plan": {"flops": 1.5e15},
        "planned": {"images": 22400, "flops": 1.5e15, "seconds": None},
        "spent": {"images": images, "flops": flops, "seconds": 250.5},
        "stages": [],
        **changed,
    }


TEN = {  # metric: value at 64 px, better
    "FD-EffLite0": (98.0, "low"),
    "KD-EffLite0": (0.0123, "low"),
    "FDinf-EffLite0": (88.0, "low"),
    "MIND-EffLite0": (41.0, "low"),
    "sFD-EffLite0": (55.0, "low"),
    "precision": (0.61, "high"),
    "recall": (0.32, "high"),
    "density": (0.55, "high"),
    "coverage": (0.47, "high"),
    "TV parts": (0.08, "low"),
}
HOW = {"FD-EffLite0": "frechet", "KD-EffLite0": "kernel", "MIND-EffLite0": "sliced"}


def ten(name: str, factor: float = 1.0, spread: float | None = 0.01, **changed: Any) -> Record:
    """Ten metrics at two resolutions; values times `factor`, with a relative spread."""
    rows = [
        quality(
            side,
            view,
            value * factor * side / 64,
            metric=metric,
            floor=10.04 if metric.startswith("FD-") else None,
            better=better,
            values=(value * factor * side / 64,) * (3 if spread else 1),
            spread=spread and value * spread,
            identity=identity(side, estimator=HOW.get(metric, "neighbours")),
        )
        for side in (64, 32)
        for view in ("native", "pooled")
        for metric, (value, better) in TEN.items()
    ]
    told: dict[str, Any] = {
        "quality": tuple(rows),
        "cost": (cost(64, 40.0 * factor, 5.5), cost(32, 101.0, 20.25 * factor)),
        "training": training(22400, 1.5e15),
        "scale": {},
        **changed,
    }
    return record(name, **told)


def cells(table: Table) -> pd.DataFrame:
    """The values of a table by row and (group, title of the column); NaN where missing."""
    found = pd.DataFrame(
        {
            (column.group, column.title): [table.cells[column].get(row) for row in table.rows]
            for column in table.columns
        },
        index=list(table.rows),
    )
    numbers = [one for one in table.columns if table.is_number(one)]
    return found.astype({(column.group, column.title): float for column in numbers})


def marks(table: Table) -> pd.DataFrame:
    """1 for the best, 2 for the second, else 0; as `cells`."""
    return pd.DataFrame(
        {
            (column.group, column.title): [table.place(column, row) for row in table.rows]
            for column in table.columns
        },
        index=list(table.rows),
    )
