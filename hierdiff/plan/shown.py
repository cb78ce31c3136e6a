"""A plan as text: what each stage takes, by layout (`python -m hierdiff.plan`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from omegaconf import open_dict
from rich.console import Console
from rich.table import Table

from hierdiff.command import plain_config
from hierdiff.config import print_whole
from hierdiff.methods import on_shapes
from hierdiff.options import Between, Count, Natural, Positive, check
from hierdiff.plan.estimate import GPU, Layout, StageEstimate, best, estimates
from hierdiff.plan.measure import error_of, measured_peak
from hierdiff.prepared import definite, method_node
from hierdiff.registry import build
from hierdiff.training.recipe import Recipe

GB = 1e9
DAY = 86400
WIDTHS = {"t5": 2048, "clip": 768, "minilm": 384, "vocabulary": 64}  # of the default weights


def facts_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What the data would say of itself.

    Raises:
        ValueError: for a text encoder whose width only its weights say.
    """
    data, width = cfg["data"], cfg["text_width"]
    for name, rule in (("classes", Natural), ("text_width", Natural | None)):
        check(cfg[name], rule, name)
    check(cfg["text_length"], Count, "text_length")
    text = data.get("text")
    if width is None and text:
        width = text.get("width", WIDTHS.get(text["name"]))
        if width is None:
            raise ValueError(f"the width of data.text={text['name']} is not known: set text_width")
    facts = {"channels": data.get("channels", 3), "classes": cfg["classes"]}
    return facts | ({"text_width": width, "text_length": cfg["text_length"]} if width else {})


def show_plan(cfg: Any) -> None:
    """What the command does with its composed config."""
    with open_dict(cfg):
        cfg.data.pop("root", None)
    options = plain_config(cfg)
    check(options["gpus"], Count, "gpus")
    check(options["mfu"], Annotated[float, Between(0, 1, above=True)], "mfu")
    check(options["rate"], Positive | None, "rate")
    gpu = build(GPU, options["gpu"], at="gpu")
    trainer = options["trainer"]
    if trainer.get("precision") == "auto":
        trainer = {**trainer, "precision": "bf16-mixed"}
    recipe = build(Recipe, definite(trainer), at="trainer")
    facts, node, gpus = facts_of(options), method_node(options), options["gpus"]
    found = estimates(on_shapes(node, offered=facts), recipe, facts, gpus=gpus, shard_over=gpus)
    rate = options["mfu"] * gpu.peak(recipe.precision)
    console = Console()
    console.width = console.width if console.is_terminal else 150
    for stage in found:
        print_whole(console, stage_table(stage, gpu, gpus, rate, options["rate"]))
    speed = (
        f"{options['rate']:g} images/s of one GPU, as measured"
        if options["rate"]
        else f"{100 * options['mfu']:g} % of the peak in {recipe.precision}, an assumption"
    )
    console.print(
        f"Estimates from shapes: {gpus} x {gpu.model} of {gpu.memory:g} GB and {gpu.watts:g} W "
        f"({gpu.source}); speed: {speed}; energy: of the boards alone, at full load.\n"
        f"Memory leaves out fragments, scratch space and the buffers of the network; a plan that "
        f"fills more than 90 % is marked as tight.",
        soft_wrap=True,
    )
    if options["check"]:
        check(options["check_batch"], Count, "check_batch")
        console.print(compared(node, facts, options["check_batch"]), soft_wrap=True)


def stage_table(
    stage: StageEstimate, gpu: GPU, gpus: int, rate: float, measured: float | None
) -> Table:
    """A line for each layout of a stage; rate: operations of a GPU in a second, measured: its
    images in a second."""
    each = stage.flops / stage.images
    table = Table(
        title=f"stage {stage.name}: {stage.parameters:,} parameters ({stage.trained:,} trained), "
        f"{each / 1e9:,.4g} GFLOP an image; {stage.steps:,} steps of {stage.images} images, "
        f"{stage.micro} at a time on each GPU",
        title_justify="left",
    )
    table.add_column("layout")
    heads = ("weights", "gradients", "optimizer", "EMA", "activations", "GB a GPU", "fits")
    for head in (*heads, "s/step", "images/s", "days", "MWh"):
        table.add_column(head, justify="right")
    choice = best(stage.layouts, gpu.memory * GB)
    for layout in stage.layouts:
        seconds = stage.seconds(layout, gpus, rate)
        if measured is not None:
            slower = layout.flops / stage.flops
            seconds = slower * stage.images / (gpus * measured)
        table.add_row(
            layout_name(layout),
            *(f"{part / GB:.2f}" for part in (*vars(layout.memory).values(), layout.memory.total)),
            fits(layout, gpu),
            f"{seconds:.3g}",
            f"{stage.images / seconds:,.0f}",
            f"{stage.steps * seconds / DAY:,.3g}",
            f"{stage.steps * seconds * gpus * gpu.watts / 3.6e9:,.3g}",
            style="bold" if layout is choice else None,
        )
    return table


def layout_name(layout: Layout) -> str:
    """A layout in words."""
    return f"{layout.strategy}, recomputed" if layout.recompute else layout.strategy


def fits(layout: Layout, gpu: GPU) -> str:
    """Whether a layout fits into the memory of a GPU."""
    filled = layout.memory.total / (gpu.memory * GB)
    return "no" if filled > 1 else "tight" if filled > 0.9 else "yes"


def compared(node: Mapping[str, Any], facts: Mapping[str, Any], images: int) -> str:
    """The estimate of one micro batch in float32 beside a measurement on this machine."""
    recipe = Recipe(steps=len(on_shapes(node, offered=facts).stages) * 100, batch_size=images,
                    precision="32-true", accelerator="cpu")  # fmt: skip
    first, *_ = estimates(on_shapes(node, offered=facts), recipe, facts, gpus=1, shard_over=1)
    memory = first.layouts[0].memory
    line = error_of(memory.gradients + memory.activations, measured_peak(node, facts, first.images))
    return f"Gradients and activations of {first.images} images on the CPU in float32: {line}."
