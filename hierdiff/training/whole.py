"""Whether a checkpoint is whole: all that a run would have written, of the right kind and range.

It is asked before anything is copied from it, so that a run never goes on with other weights,
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

from hierdiff.methods import Method
from hierdiff.training.bounds import tensors_of
from hierdiff.training.checkpoint import Broken, Checkpoint
from hierdiff.training.load import check_values
from hierdiff.training.log import counts_in
from hierdiff.training.optimizer import described
from hierdiff.training.recipe import Recipe
from hierdiff.training.step import moved, optimizer_for


@dataclass(frozen=True)
class Whole:
    """What the checkpoints of a run hold; counts: steps of each stage."""

    method: Method
    recipe: Recipe
    counts: Sequence[int]

    def check(self, path: Path, found: Checkpoint) -> None:
        """Raises `Broken` with the first thing that is missing or wrong."""
        try:
            self._numbers(found)
            _same(path, "model", found.part("model"), tensors_of(self.method))
            _same(path, "ema", found.part("ema"), self._averages(found))
            self._optimizers(found)
            rest = [n for n in found.tensors if not n.startswith(("model/", "ema/", "optimizer/"))]
            _demand(not rest, f"has an unknown tensor {rest[:1]}")
        except Broken:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error

    def _numbers(self, found: Checkpoint) -> None:
        for name in ("stage", "step", "images", "total_step"):
            value = getattr(found, name)
            _demand(type(value) is int and value >= 0, f"says {name}={value!r}")
        stages = len(self.counts)
        _demand(found.stage <= stages, f"says stage={found.stage} of {stages}")
        count = self.counts[found.stage] if found.stage < stages else 0
        _demand(found.step < max(1, count), f"says step={found.step} of {count}")
        _demand(found.total_step >= found.step, f"says total_step={found.total_step}")
        _demand(found.started is (found.step > 0), f"says started={found.started!r}")
        _demand(isinstance(found.config, dict), "has no config")
        seconds = found.seconds
        _demand(
            isinstance(seconds, list)
            and len(seconds) in (0, stages)
            and all(_is_number(value) and value >= 0 for value in seconds),
            f"says seconds={seconds!r}",
        )
        sums, counts = found.log["sums"], counts_in(found.log)
        _demand(
            type(found.log["bytes"]) is int
            and found.log["bytes"] >= 0
            and counts.keys() == sums.keys()
            and all(map(_is_number, sums.values()))
            and all(type(count) is int and count > 0 for count in counts.values()),
            "has a log of another form",
        )

    def _averages(self, found: Checkpoint) -> Mapping[str, Tensor]:
        if not found.started:
            return {}
        named = dict(self.method.named_parameters())
        weights = moved(self.method.stages[found.stage], named)
        return {
            f"{which}/{name}": weight
            for which, length in enumerate(self.recipe.ema)
            if length
            for name, weight in weights.items()
        }

    def _optimizers(self, found: Checkpoint) -> None:
        turns = self.method.stages[found.stage].turns if found.started else ()
        names = sorted(turn.name for turn in turns)
        _demand(sorted(found.optimizers) == names, f"has optimizers {sorted(found.optimizers)}")
        tensors = found.part("optimizer")
        for turn in turns:
            rest = found.optimizers[turn.name]
            fresh = optimizer_for(turn, self.recipe)
            _groups(rest["groups"], fresh)
            start = f"{turn.name}/"
            state = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
            listed = rest.get("state")  # older checkpoints do not list it
            _demand(
                described(state) == listed if listed is not None else bool(state),
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


def _same(path: Path, what: str, found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    for name in sorted(found.keys() ^ like.keys()):
        side = "lacks" if name in like else "has an unknown"
        raise Broken(f"{path} {side} {what} tensor {name!r}")
    for name, tensor in like.items():
        one = found[name]
        if (one.shape, one.dtype) != (tensor.shape, tensor.dtype):
            raise Broken(
                f"{path}: {what} tensor {name!r} is {one.dtype} {tuple(one.shape)}, not "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
        check_values(name, one, tensor, path)


def _groups(found: Any, fresh: torch.optim.Optimizer) -> None:
    """Torch's optimizers keep their options as they were; others may count in their groups."""
    known = fresh.state_dict()["param_groups"]
    _demand(isinstance(found, list) and len(found) == len(known), "has other optimizer groups")
    constant = type(fresh).__module__.startswith("torch.")
    for one, like in zip(found, known, strict=True):
        _demand(one.keys() == like.keys(), "has optimizer groups of other options")
        for key, value in like.items():
            given, value = one[key], list(value) if isinstance(value, tuple) else value
            if key == "lr" or (not constant and _is_number(value)):
                _demand(_is_number(given), f"says {key}={given!r} of its optimizer")
            else:
                _demand(given == value, f"says {key}={given!r} of its optimizer")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _demand(holds: Any, fault: str) -> None:
    if not holds:
        raise Broken(f"it {fault}")
