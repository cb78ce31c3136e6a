"""A plan as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from benchmarks.plan.plan import Plan, StagePlan, sum_or_none
from benchmarks.tables.formats.terminal import terminal_text


def plan_table(plans: Mapping[str, Plan]) -> Table:
    """Plans by method as a table: a line for each stage of a method, and one for the whole."""
    out = Table(title="plan")
    for head in ("method", "stage", "steps", "batch", "images", "TFLOPs", "seconds"):
        out.add_column(head, justify="left" if head in ("method", "stage") else "right")
    for head in ("sampler steps", "GFLOPs/image"):
        out.add_column(head, justify="right")
    for name, plan in plans.items():
        for part in plan.stages:
            mark = " (pretrained)" if part.pretrained else ""
            out.add_row(
                terminal_text(name), terminal_text(part.name + mark), *_cells([part]), "", ""
            )
        whole = _cells(plan.stages)
        image = _amount(plan.flops_per_image, 1e9, ".3g")
        out.add_row(
            terminal_text(name),
            "all",
            *whole,
            "–" if plan.sampler_steps is None else str(plan.sampler_steps),
            image,
            style="bold",
            end_section=True,
        )
    return out


def _cells(parts: Sequence[StagePlan]) -> Iterable[str]:
    yield f"{sum(part.steps for part in parts):,}"
    yield ", ".join(dict.fromkeys(str(part.batch) for part in parts))
    yield f"{sum(part.steps * part.batch for part in parts):,}"
    yield _amount(sum_or_none(part.flops() for part in parts), 1e12, ",.4g")
    yield _amount(sum_or_none(part.seconds for part in parts), 1, ",.0f")


def _amount(amount: float | None, unit: float, form: str) -> str:
    return "–" if amount is None else f"{amount / unit:{form}}"
