"""What is timed, by options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

WHATS = ("train", "sample", "guided")
ATTENTION = ("math", "flash", "efficient", "cudnn")
Precision = Literal["32-true", "bf16-mixed", "64-true"]  # as in `Recipe`, which loads torch


@dataclass(frozen=True)
class Case:
    """What is timed, and how.

    layout: its name. method: node, facts: of its data. what: a training step, or a sampler step
    ("guided": with guidance, of which the twin makes two calls). batch: images at once. steps: of
    the trajectory over which a sampler step is averaged. channels_last, attention, recipe: of
    `hierdiff`'s side alone; recipe: further options of `trainer`. threads: of a CPU.
    """

    layout: str
    method: Mapping[str, Any]
    facts: Mapping[str, Any]
    what: Literal["train", "sample", "guided"]
    batch: int
    precision: Precision = "32-true"
    device: str = "cpu"
    channels_last: bool = True
    attention: str = "auto"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 4
    guidance: float = 3.0
    repeats: int = 7
    threads: int = 1
