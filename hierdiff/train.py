"""Entry point of training: `python -m hierdiff.train method=mdm data=critters budget=default`.

Hydra composes `configs/` into plain dicts; from there on there are constructors. The same command
again goes on from the newest checkpoint of the run folder.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from omegaconf import OmegaConf

from hierdiff.command import command, plain_config
from hierdiff.data import ImageData, datasets
from hierdiff.files.lock import worked_in
from hierdiff.inputs import inputs
from hierdiff.methods import Method, methods, on_shapes
from hierdiff.noise import seed_of
from hierdiff.options import Count, Length, check, literal
from hierdiff.registry import build
from hierdiff.resolution import divides, plain_of, resolution_of
from hierdiff.training import Recipe, check_run, train
from hierdiff.training.interrupt import REQUEUE, Interrupted
from hierdiff.training.published import completed

log = logging.getLogger(__name__)


Plane = Annotated[Sequence[Count], Length(2, more=True)]  # sides, height and width the last of them


def half(resolution: Any) -> int | list[int]:
    """Half the height and width; frames stay."""
    check(resolution, Count | Plane, "data.resolution", 32)
    if isinstance(resolution, Sequence):
        return [*resolution[:-2], *(side // 2 for side in resolution[-2:])]
    return int(resolution) // 2


CHEN_SCALES = {32: 1.0, 64: 1.0}  # b of the released configs of Chen, arXiv 2301.10972, by side


def chen_scale(resolution: Any) -> float:
    """Chen's b at a resolution.

    Raises:
        ValueError: where no released config has one.
    """
    scale = CHEN_SCALES.get(resolution) if isinstance(resolution, int) else None
    if scale is None:
        raise ValueError(
            f"data.resolution={literal(resolution)}: the released configs of Chen have an input "
            f"scale b for {', '.join(map(str, CHEN_SCALES))} px alone: set method.schedule.scale, "
            f"the smaller the larger the images (1 for none)"
        )
    return scale


def clipping(codec: str | None) -> str:
    """The threshold of a state: images (no codec, or the identity) are clipped, latents are not."""
    return "static" if codec in (None, "identity") else "none"


OmegaConf.register_new_resolver("half", half, replace=True)
OmegaConf.register_new_resolver("chen_scale", chen_scale, replace=True)
OmegaConf.register_new_resolver("clipping", clipping, replace=True)


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


def check_chosen(cfg: Mapping[str, Any]) -> None:
    """Checks that a config has the three groups of every run.

    Raises:
        ValueError: names the one to choose.
    """
    for group in ("data", "method", "trainer"):
        if not isinstance(cfg.get(group), Mapping):
            raise ValueError(
                f"{group}={literal(cfg.get(group))}: choose one by its name, {group}=NAME"
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
    }
    config["inputs"] = inputs(config)
    return Prepared(method, data, part, recipe, seed, config)


def with_weights(run: Prepared) -> Prepared:
    """A run that was prepared on shapes, with the weights that `prepare` gives its method."""
    torch.manual_seed(seed_of(run.seed, "init"))
    return replace(run, method=methods.build(run.config["method"], offered=run.data.facts))


ABOUT = """Trains a method and leaves weights, samples and curves of the loss in a run folder.
The same command again goes on from the newest checkpoint there.

    python -m hierdiff.train method=mdm data=critters budget=default

    method=cascaded           how images are made: mdm, end_to_end, cascaded, latent, rin, ...
    data=folder data.root=DIR what is trained on: critters, or your own images
    denoiser=uvit_small       the network; denoiser.width=96 sets an option of it
    budget=smoke              steps and batch size: smoke, default, compare, gpu
    recipe=shared             optimizer, loss and sampler: shared, or a paper's: chen, rin, ...
    trainer.steps=20000       one of them by itself; also trainer.batch_size, trainer.lr
    seed=1                    of weights, noise and order
    folder=runs/mine          the run folder
"""


@command("train", ABOUT)
def main(cfg: Any) -> None:
    """The command: trains, or resumes, a run.

    Raises:
        Interrupted: where a user ends it; the exit code is `REQUEUE` where a cluster does.
    """
    options = plain_config(cfg)
    check(options["folder"], str | Path, "folder")
    folder = Path(options["folder"])
    shapes = prepare(options, shapes_alone=True)
    check_run(shapes.method, folder, shapes.recipe, shapes.config)
    run = with_weights(shapes)
    with worked_in(folder):
        try:
            summary = train(
                run.method, run.part, folder, run.recipe, seed=run.seed, config=run.config
            )
        except Interrupted as stop:
            if not stop.requeue:
                raise
            print(stop, file=sys.stderr)
            sys.exit(REQUEUE)
    log.info("weights %s, samples %s, curve %s/loss.png", summary.weights, summary.sheet, folder)


if __name__ == "__main__":
    main()
