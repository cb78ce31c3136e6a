"""The checks of `train`, before anything is computed or takes memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hierdiff.files.digest import read_json
from hierdiff.methods import Method, Stage
from hierdiff.training.checkpoint import all_in, check_config
from hierdiff.training.fabric import process_count, table_of
from hierdiff.training.feed import batches_of
from hierdiff.training.format import as_json, header
from hierdiff.training.initial import check_networks
from hierdiff.training.load import check_stage
from hierdiff.training.optimizer import optimizer_of
from hierdiff.training.recipe import Recipe
from hierdiff.training.run import stage_steps
from hierdiff.training.shards import FACTS
from hierdiff.training.step import parameters_of


def check_run(method: Method, folder: Path, recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Refuses a training run that `train` would refuse; the method may be on the meta device.

    config: of the run, as `train` takes it.

    Raises:
        ValueError: for options that do not fit, and checkpoints or weights of another run.
        FileNotFoundError: where weights of another run are absent.
    """
    counts = stage_steps(method, recipe.steps)
    count = process_count(recipe)
    batches_of(method, recipe, count)
    table_of(recipe, count)
    optimizer_of(
        [nn.Parameter(torch.zeros(1, 1))],
        name=recipe.optimizer,
        betas=recipe.betas,
        options=dict(recipe.optimizer_options),
    )
    config = as_json(config)
    reached = 0
    for path in reversed(all_in(folder / "checkpoints")):
        try:
            facts = read_json(path / FACTS) if path.is_dir() else header(path)[1]
            old, reached = dict(facts["config"]), int(facts["stage"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # `train` skips it too, with a warning
        check_config(path, old, config)
        break
    else:
        check_networks(method, config)
    for place, (stage, count) in enumerate(zip(method.stages, counts, strict=True)):
        for file in (stage.weights, stage.teacher):
            if file is not None and place >= reached:
                check_stage(file, stage, config)
        if count:
            stage.check(method.stages[place - 1] if place else None)
            own = recipe.of(stage)
            for turn in stage.turns:
                own.of(turn)
            check_trainable(stage)


def check_trainable(stage: Stage) -> None:
    """Checks that each turn of a stage has something to train.

    Raises:
        ValueError: where one has no parameters.
    """
    for turn in stage.turns:
        if not parameters_of(turn):
            raise ValueError(
                f"stage {stage.name} has no weights to train in {turn.name!r}: give a network with "
                f"parameters that are not frozen"
            )
