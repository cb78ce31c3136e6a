"""Quality over the number of steps: of a method, and of others that it stands against.

What a method stands against it says itself (`Method.contrasts`): a distilled one against its
teacher. Every point has the same noise and conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure.samples import Draw
from benchmarks.measure.stream import Gauge, Source
from hierdiff.files.atomic import write_figure
from hierdiff.methods import Method
from hierdiff.metrics.quality import NATIVE
from hierdiff.resolution import px


def check_steps(method: Method) -> None:
    """Refuses a method without a sampler.

    Raises:
        ValueError: where it has none.
    """
    if method.at(method.resolutions[0]).sampling is None:
        raise ValueError(
            "analysis=steps compares numbers of sampler steps, and the method makes its images "
            "without any: leave the analysis out"
        )


def quality_by_steps(
    method: Method, draw: Draw, gauge: Gauge, n: int, steps: Sequence[int] | None
) -> list[dict[str, Any]]:
    """A row with a distance of n finest images for each contrast and number of steps.

    draw: how its images are drawn. steps: None for those of the method. A collective call of the
    processes; all of them get the rows.
    """
    rows = []
    for name, part in method.contrasts.items():
        for count in sorted(method.few_steps if steps is None else steps):
            make = replace(draw, method=part, steps=count)
            source = Source(f"{name or 'samples'} in {count} steps", n, make, pack=draw.pack)
            found = gauge.rows(source, conditions=draw.conditions)
            about = {"stage": name, "steps": count}
            rows += [
                {**about, **row.plain()}
                for row in found
                if row.view == NATIVE and row.level == method.resolutions[0]
            ]
    return gauge.processes.agree(lambda: rows)


def write_steps_picture(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the distance over the number of steps, a line for each contrast."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["stage"] for row in rows):
        curve = [row for row in rows if row["stage"] == name]
        axes.plot(
            [row["steps"] for row in curve],
            [row["value"] for row in curve],
            marker="o",
            label=name or None,
        )
    counts = sorted({row["steps"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, list(map(str, counts)))
    axes.set(
        xlabel="sampler steps",
        ylabel=f"{rows[0]['metric']} at {px(rows[0]['resolution'])}",
    )
    if len({row["stage"] for row in rows}) > 1:
        axes.legend(frameon=False)
    write_figure(path, figure)
