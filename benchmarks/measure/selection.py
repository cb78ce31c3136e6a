"""Selection: guidance, sampler steps and average of the weights by the quality of a few samples.

Every combination of the options is a candidate. Candidates are compared on noise and conditions
that the reported row never sees: a seed of their own, and the conditions of training images. All
candidates stay in the record, the best one marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measure.kept import Kept
from benchmarks.progress import Track
from benchmarks.settings import Measure, Selection
from hierdiff.guidance import Scale, is_off
from hierdiff.methods import methods, on_shapes
from hierdiff.metrics.quality import HIGH, Candidate, Quality
from hierdiff.prepared import Prepared
from hierdiff.training.format import unpacked
from hierdiff.training.layout import with_channels_last
from hierdiff.training.load import load_tensors


@dataclass(frozen=True)
class Choice:
    """Options of a candidate; None leaves one as the run has it. half_life: of the average of the
    weights, in images."""

    guidance: Scale | None = None
    steps: int | None = None
    half_life: float | None = None

    def __str__(self) -> str:
        known = {name: value for name, value in vars(self).items() if value is not None}
        return ", ".join(f"{name} {value}" for name, value in known.items())

    def sampling(self) -> dict[str, Any]:
        """The options of the sampler."""
        known = {"guidance": self.guidance, "steps": self.steps}
        return {name: value for name, value in known.items() if value is not None}


def selection_of(run: Prepared, selection: Selection) -> Selection:
    """What of a selection the run can choose: a method without a sampler has no guidance and no
    steps, so that it stands beside others whose guidance is chosen."""
    if "sampling" in run.config["method"]:
        return selection
    return replace(selection, guidance=(), steps=())


def choices(selection: Selection) -> list[Choice]:
    """All combinations of the options, in their order."""
    lists = (selection.guidance, selection.steps, selection.ema)
    return [Choice(*one) for one in product(*((*values,) or (None,) for values in lists))]


def select_choice(
    draw: Callable[[Choice], Sequence[Quality]],
    options: Sequence[Choice],
    kept: Kept,
    track: Track,
) -> tuple[Choice, list[Candidate]]:
    """The best choice, and all candidates with it marked; of equal ones the first is taken.

    draw: the rows of the metric under a choice, that of the finest images first; it is a collective
    call, which gives rows on the first process alone.
    """

    def measure_choice(choice: Choice) -> list[Candidate]:
        return [Candidate(**vars(row), **vars(choice)) for row in draw(choice)[:1]]

    rows = [
        kept.once(f"candidate {one}", Candidate, partial(measure_choice, one))[0]
        for one in track(options, "candidates", len(options))
    ]
    sign = -1.0 if rows[0].better == HIGH else 1.0
    best = min(range(len(rows)), key=lambda i: sign * _value(rows[i]))
    marked = [replace(row, chosen=i == best) for i, row in enumerate(rows)]
    return options[best], marked


def with_choice(run: Prepared, choice: Choice, folder: Path) -> Prepared:
    """The run with the options of a choice in its config and its method, in the weights of that
    half-life; folder: of the run.

    Raises:
        OSError, ValueError: where the file of weights cannot be read.
    """
    node = node_with(run, choice)
    method = methods.build(node, offered=run.data.facts)
    path = weights_file(folder, choice.half_life, run.recipe.ema)
    load_tensors(method, unpacked(path)[0], path)
    if run.recipe.channels_last:  # as training leaves it, so that a choice changes nothing else
        with_channels_last(method)
    return replace(run, method=method.eval(), config={**run.config, "method": node})


def node_with(run: Prepared, choice: Choice) -> dict[str, Any]:
    """The node of the method with the sampling options of a choice."""
    node = run.config["method"]
    if not choice.sampling():
        return dict(node)
    return {**node, "sampling": {**node["sampling"], **choice.sampling()}}


def weights_file(folder: Path, half_life: float | None, half_lives: Sequence[float]) -> Path:
    """The file of the trained weights of a half-life; None for the first one."""
    if half_life is None or half_life == half_lives[0]:
        return folder / "weights.safetensors"
    return folder / f"weights_ema_{half_life:g}.safetensors"


def check_selection(selection: Selection, measure: Measure, run: Prepared) -> None:
    """Refuses a selection that the run cannot make.

    Raises:
        ValueError: for an option that the method or its training does not have, and for a seed of
            the reported samples.
    """
    if selection.seed in measure.seeds:
        raise ValueError(
            f"select.seed={selection.seed} is one of measure.seeds={list(measure.seeds)}: what "
            f"chooses must not be what is reported, take another seed"
        )
    absent = [one for one in selection.ema if one not in run.recipe.ema]
    if absent:
        raise ValueError(
            f"select.ema={list(selection.ema)}: training averages over {list(run.recipe.ema)} "
            f"images, set trainer.ema to have {absent[0]:g} among them"
        )
    facts = run.data.facts
    guided = [one for one in selection.guidance if not is_off(one)]
    if guided and not (facts.get("classes") or facts.get("text_width")):
        raise ValueError(
            f"select.guidance={list(selection.guidance)} needs data with classes or captions: "
            f"leave it out"
        )
    for choice in choices(replace(selection_of(run, selection), ema=())):
        on_shapes(node_with(run, choice), offered=run.data.facts)  # its parts check their options


def _value(row: Candidate) -> float:
    if row.value is None:
        raise ValueError(f"{row.metric} has no value to choose by: take another select.metric")
    return row.value
