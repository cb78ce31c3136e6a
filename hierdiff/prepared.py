"""A run before its first step: data, method and recipe, built and checked from a plain config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from hierdiff.data import ImageData, buckets, datasets
from hierdiff.inputs import inputs
from hierdiff.methods import Method, methods, on_shapes
from hierdiff.noise import seed_of
from hierdiff.options import check, literal
from hierdiff.registry import build
from hierdiff.resolution import divides, plain_of, resolution_of
from hierdiff.training import Recipe
from hierdiff.training.published import completed


@dataclass(frozen=True)
class Prepared:
    """A run before its first step.

    data: all of it; part: what is trained on. config: what is kept beside the weights.
    """

    method: Method
    data: ImageData
    part: ImageData
    recipe: Recipe
    seed: int
    config: dict[str, Any]


def chosen_precision(accelerator: str) -> str:
    """What `precision: auto` stands for: bf16-mixed where the hardware multiplies bfloat16."""
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text().split() if processor.exists() else []
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


def definite(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a recipe with `precision: auto` made definite, as checkpoints have it."""
    if trainer.get("precision") != "auto":
        return dict(trainer)
    accelerator = trainer.get("accelerator", "auto")
    check(accelerator, str, "trainer.accelerator")
    return {**trainer, "precision": chosen_precision(accelerator)}


GROUPS = {"denoiser": "denoiser", "sampling": "sampler"}  # options of a method that have a group


def method_node(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The method with the groups `denoiser` and `sampler` as its options."""
    groups = {option: cfg.get(group) for option, group in GROUPS.items()}
    return {**{k: v for k, v in groups.items() if v is not None}, **cfg["method"]}


# options of a run that one method reads
OF_ONE = {"checkpoint": "published", "of": "distilled", "steps": "distilled"}


def check_chosen(cfg: Mapping[str, Any]) -> None:
    """Checks that a config has the three groups of every run, and no option of another method.

    Raises:
        ValueError: names the one to choose, or to leave out.
    """
    for group in ("data", "method", "trainer"):
        if not isinstance(cfg.get(group), Mapping):
            raise ValueError(
                f"{group}={literal(cfg.get(group))}: choose one by its name, {group}=NAME"
            )
    chosen = cfg["method"].get("name")
    for option, method in OF_ONE.items():
        if cfg.get(option) is not None and chosen != method:
            other = ", or set trainer.steps or sampler.steps" if option == "steps" else ""
            raise ValueError(
                f"{option}={literal(cfg[option])} is an option of method={method}, and the method "
                f"is {chosen}: leave it out{other}"
            )


def prepare(cfg: Mapping[str, Any], *, shapes_alone: bool = False) -> Prepared:
    """Everything built and checked from a plain config; weights are a function of the seed.

    shapes_alone: the method is as `on_shapes` has it; `with_weights` gives it its weights.

    Raises:
        ValueError: for options that do not fit together.
    """
    check_chosen(cfg)
    trainer = definite(cfg["trainer"])
    recipe = build(Recipe, trainer, at="trainer")
    seed, part_name = cfg.get("seed", 0), cfg.get("part", "train")
    check(seed, int, "seed", 0)
    check(part_name, Literal["train", "test", "all"], "part")
    node = completed(method_node(cfg))
    data = datasets.build(cfg["data"], at="data")
    part = data.part(part_name)
    torch.manual_seed(seed_of(seed, "init"))
    elsewhere = {option: group for option, group in GROUPS.items() if option not in cfg["method"]}
    make = on_shapes if shapes_alone else methods.build
    method = make(node, offered=data.facts, at="method", elsewhere=elsewhere)
    method.check_facts(data.facts)
    method.fit(buckets.resolutions_of(data))
    finest = method.resolutions[0]
    if not divides(finest, data.resolution):
        raise ValueError(
            f"method.resolutions={[plain_of(name) for name in method.resolutions]} with "
            f"data.resolution={plain_of(data.resolution)}: the finest level must divide it, set "
            f"data.resolution={plain_of(resolution_of(finest))}"
        )
    config = {
        "data": dict(cfg["data"]),
        "part": part_name,
        "data_sha256": data.sha256,
        "method": node,
        "trainer": trainer,
        "seed": seed,
        "facts": data.facts,
        "class_names": list(data.class_names),
        "text": data.text_node,
        "text_identity": None if data.text is None else data.text.identity,
    }
    config["inputs"] = inputs(config)
    return Prepared(method, data, part, recipe, seed, config)


def with_weights(run: Prepared) -> Prepared:
    """A run that was prepared on shapes, with the weights that `prepare` gives its method."""
    torch.manual_seed(seed_of(run.seed, "init"))
    return replace(run, method=methods.build(run.config["method"], offered=run.data.facts))
