"""Whether a checkpoint is whole: all that a run would have written, of the right kind and range.

It is checked before anything is copied from it, so that a run never resumes with other weights,
averages or optimizer states than those it had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierdiff.methods import Method, Stage
from hierdiff.training.bounds import tensors_of
from hierdiff.training.checkpoint import Broken, Checkpoint, Part
from hierdiff.training.load import check_values
from hierdiff.training.log import counts_in
from hierdiff.training.optimizer import signature
from hierdiff.training.recipe import Recipe
from hierdiff.training.step import optimizer_for, trained_by


@dataclass(frozen=True)
class Whole:
    """What the checkpoints of a run hold; counts: steps of each stage."""

    method: Method
    recipe: Recipe
    counts: Sequence[int]

    def check(self, path: Path, checkpoint: Checkpoint) -> None:
        """Checks what is in a checkpoint, before anything is copied from it.

        Raises:
            Broken: names the first thing that is missing or wrong.
        """
        try:
            self._numbers(checkpoint)
            _same(path, "model", checkpoint.part("model"), tensors_of(self.method))
            _same(path, "ema", checkpoint.part("ema"), self._averages(checkpoint))
            self._optimizers(checkpoint)
            rest = [
                n for n in checkpoint.tensors if not n.startswith(("model/", "ema/", "optimizer/"))
            ]
            _demand(not rest, f"has an unknown tensor {rest[:1]}")
        except Broken:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error

    def _numbers(self, checkpoint: Checkpoint) -> None:
        for name in ("stage", "step", "images", "total_step"):
            value = getattr(checkpoint, name)
            _demand(type(value) is int and value >= 0, f"says {name}={value!r}")
        stages = len(self.counts)
        _demand(checkpoint.stage <= stages, f"says stage={checkpoint.stage} of {stages}")
        count = self.counts[checkpoint.stage] if checkpoint.stage < stages else 0
        _demand(checkpoint.step < max(1, count), f"says step={checkpoint.step} of {count}")
        _demand(
            checkpoint.total_step >= checkpoint.step, f"says total_step={checkpoint.total_step}"
        )
        _demand(checkpoint.started is (checkpoint.step > 0), f"says started={checkpoint.started!r}")
        _demand(isinstance(checkpoint.config, dict), "has no config")
        seconds = checkpoint.seconds
        _demand(
            isinstance(seconds, list)
            and len(seconds) in (0, stages)
            and all(_is_number(value) and value >= 0 for value in seconds),
            f"says seconds={seconds!r}",
        )
        sums, counts = checkpoint.log["sums"], counts_in(checkpoint.log)
        _demand(
            type(checkpoint.log["bytes"]) is int
            and checkpoint.log["bytes"] >= 0
            and counts.keys() == sums.keys()
            and all(map(_is_number, sums.values()))
            and all(type(count) is int and count > 0 for count in counts.values()),
            "has a log of another form",
        )

    def _averages(self, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
        if not checkpoint.started:
            return {}
        named = dict(self.method.named_parameters())
        weights = trained_by(self.method.stages[checkpoint.stage], named)
        return {
            f"{which}/{name}": weight
            for which, length in enumerate(self.recipe.ema)
            if length
            for name, weight in weights.items()
        }

    def _stage(self, checkpoint: Checkpoint) -> Stage | None:
        """The stage whose optimizers a checkpoint holds: its own, or, before the first step of a
        stage that keeps their moments, the one before."""
        place, stages = checkpoint.stage, self.method.stages
        if checkpoint.started:
            return stages[place]
        keeps = 0 < place < len(stages) and stages[place].keeps_moments
        return stages[place - 1] if keeps else None

    def _optimizers(self, checkpoint: Checkpoint) -> None:
        stage = self._stage(checkpoint)
        turns = stage.turns if stage is not None else ()
        recipe = self.recipe.of(stage) if stage is not None else self.recipe
        names = sorted(turn.name for turn in turns)
        _demand(
            sorted(checkpoint.optimizers) == names,
            f"has optimizers {sorted(checkpoint.optimizers)}",
        )
        tensors = checkpoint.part("optimizer")
        for turn in turns:
            rest = checkpoint.optimizers[turn.name]
            fresh = optimizer_for(turn, recipe)
            _groups(rest["groups"], fresh)
            start = f"{turn.name}/"
            state = Part(tensors, start)
            descriptions = rest.get("state")  # older checkpoints do not list it
            _demand(
                signature(state) == descriptions if descriptions is not None else bool(state),
                f"lacks states of the optimizer of {turn.name}",
            )
            parameters = [p for group in fresh.param_groups for p in group["params"]]
            for place in (*state, *rest["numbers"]):
                number, slash, key = place.partition("/")
                known = number.isdecimal() and int(number) < len(parameters)
                _demand(known and slash and key, f"has the unknown optimizer state {place}")
        known_turns = tuple(f"{name}/" for name in names)
        rest = [name for name in tensors if not name.startswith(known_turns)]
        _demand(not rest, f"has states of an unknown optimizer {rest[:1]}")


def _same(path: Path, what: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors.keys() ^ like.keys()):
        side = "lacks" if name in like else "has an unknown"
        raise Broken(f"{path} {side} {what} tensor {name!r}")
    for name, tensor in like.items():
        value = tensors[name]
        if (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
            raise Broken(
                f"{path}: {what} tensor {name!r} is {value.dtype} {tuple(value.shape)}, not "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
        check_values(name, value, tensor, path)


def _groups(groups: Any, fresh: torch.optim.Optimizer) -> None:
    """Torch's optimizers keep their options as they were; others may count in their groups."""
    known = fresh.state_dict()["param_groups"]
    _demand(isinstance(groups, list) and len(groups) == len(known), "has other optimizer groups")
    constant = type(fresh).__module__.startswith("torch.")
    for group, like in zip(groups, known, strict=True):
        _demand(group.keys() == like.keys(), "has optimizer groups of other options")
        for key, value in like.items():
            option, value = group[key], list(value) if isinstance(value, tuple) else value
            if key == "lr" or (not constant and _is_number(value)):
                _demand(_is_number(option), f"says {key}={option!r} of its optimizer")
            else:
                _demand(option == value, f"says {key}={option!r} of its optimizer")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _demand(holds: Any, fault: str) -> None:
    if not holds:
        raise Broken(f"it {fault}")
