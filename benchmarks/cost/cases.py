"""A case is what is timed: training or sampling with one method, at one resolution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from hierdiff.methods import Method
from hierdiff.resolution import Name, resolution_of, text_of
from hierdiff.results.cost import ALONE, Cost
from hierdiff.training.recipe import Precision, Recipe

if TYPE_CHECKING:  # a process that is timed needs none of what it imports
    from benchmarks.settings import TimingOptions

OUT_OF_MEMORY = "out of memory"  # how the reason of a case that did not fit begins


@dataclass(frozen=True)
class Case:
    """One timing.

    method, facts: node and data facts. trajectory: names of the levels that one trajectory makes,
    finest first. what: "train" or "sample". batches: numbers of images at once to try, rising.
    device: "cpu" or "cuda". recipe: options of `trainer` on which a step depends, beside the named
    ones. alone: the network of the coarsest joint levels without the rest. memory_cap: MiB, None
    for what the machine has. text: node of the text encoder, whose time is a part of its own;
    caption: an example to encode.
    """

    method: Mapping[str, Any]
    facts: Mapping[str, Any]
    trajectory: Sequence[Name]
    what: str
    batches: Sequence[int]
    precision: Precision
    device: str
    channels_last: bool = False
    compile: bool | Literal["blocks"] = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    repeats: int = 3
    threads: int = 1
    memory_cap: float | None = None
    text: Mapping[str, Any] | None = None
    caption: str = ""

    @property
    def finest(self) -> Name:
        """The name of the finest level of the trajectory."""
        name = self.trajectory[0]
        return name if isinstance(name, str) else resolution_of(name)

    @property
    def trainer(self) -> Recipe:
        """The recipe of a training step, on one device."""
        return Recipe(
            steps=1,
            precision=self.precision,
            channels_last=self.channels_last,
            compile=self.compile,
            accelerator=self.device,
            **self.recipe,
        )

    def images(self, batch: int) -> int:
        """Images of a training step, or of a call of the sampler, with `batch` at once."""
        return batch * self.trainer.accumulate if self.what == "train" else batch

    @property
    def conditions(self) -> Cost:
        """A cost row without numbers."""
        return Cost(
            level=self.finest,
            trajectory=tuple(self.trajectory),
            part=ALONE if self.alone else None,
            device=self.device,
            dtype=self.precision,
            threads=self.threads if self.device == "cpu" else None,
            repeats=self.repeats,
            channels_last=self.channels_last,
        )


def trajectories(method: Method) -> list[tuple[Name, ...]]:
    """Names of the levels at which a method makes images, grouped by trajectory, finest first."""
    makers = [method.at(side) for side in method.resolutions]
    return [
        tuple(s for s, other in zip(method.resolutions, makers, strict=True) if other is maker)
        for i, maker in enumerate(makers)
        if all(maker is not before for before in makers[:i])
    ]


STEP = (  # options of `trainer` on which the time and memory of a step depend, beside those of Case
    *("accumulate", "optimizer", "optimizer_options", "lr", "betas", "weight_decay", "clip"),
    *("ema", "ema_ramp", "recompute", "matmul"),
)


def cases_of(
    config: Mapping[str, Any],
    trajectories: Sequence[Sequence[Name]],
    timing: TimingOptions,
    device: str,
    caption: str = "",
) -> list[Case]:
    """The cases of training and sampling for each trajectory; none where `repeats` is 0.

    config: of a run, as in the file beside its weights; trajectories: see `trajectories`;
    device: "cpu" or "cuda"; caption: an example to encode.
    """
    if not timing.repeats:
        return []
    trainer = config["trainer"]
    step = {name: trainer[name] for name in STEP if name in trainer}
    parts = [(tuple(sides), False) for sides in trajectories]
    if timing.alone:
        parts += [((side,), True) for sides in trajectories for side in sides[1:]]
    return [
        Case(
            method=config["method"],
            facts=config["facts"],
            trajectory=sides,
            alone=alone,
            what=what,
            batches=sorted(timing.batches),
            precision=trainer["precision"],
            device=device,
            channels_last=trainer["channels_last"],
            compile=trainer["compile"],
            recipe=step if what == "train" else {},
            repeats=timing.repeats,
            threads=torch.get_num_threads(),
            memory_cap=timing.memory_cap,
            text=config["text"],
            caption=caption,
        )
        for sides, alone in parts
        for what in ("train", "sample")
    ]


def by_resolution(rows: Iterable[Cost]) -> list[Cost]:
    """The cost rows of a record: training and sampling of a level in one row; parts alone have rows
    of their own."""
    merged: dict[tuple[str, str | None], Cost] = {}
    for row in rows:
        numbers = {k: v for k, v in vars(row).items() if v not in (None, ()) and k != "level"}
        for name in row.trajectory:
            place = (text_of(name), row.part)
            merged[place] = replace(merged.get(place, Cost(name)), **numbers)
    return list(merged.values())
