"""How a stage is sampled: sampler, grid, guidance, thresholding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from hierdiff.guidance import THRESHOLDS, Scale
from hierdiff.levels import Levels
from hierdiff.options import Between, Count, Length, Own, Share, check_fields
from hierdiff.registry import Node, arguments, single, suggest
from hierdiff.samplers import Sampler
from hierdiff.samplers.dpmpp_2m import DPMpp2M
from hierdiff.samplers.grids import Grid, UniformGrid

Steps = Annotated[int, Between(1, 10**6)]  # of a time grid, which is held in memory


@single("sampling")
@dataclass(frozen=True)
class Sampling:
    """How a stage is sampled.

    rule: a sampler. steps: of the grid, the last one to t = 0. guidance: scale of classifier-free
    guidance, 1 for none, one number or one for each level. interval: times at which it acts.
    channels: how many of the first channels it acts on (DiT: 3 of its 4 latent channels), None for
    all. shared_carry: the pass without conditions reads the carry of the pass with them, as in the
    released code of RIN, and not its own. together: both passes of guidance are one call with twice
    the rows; false: two calls, in half the memory, equal up to rounding. threshold: {name: none |
    static | dynamic, ...}, applied to each level's x0. prior: the standard deviation of the noise
    that a trajectory starts from, "sigma" for the process's at t = 1, "unit" for 1, as the released
    codes of discrete steps have it.

    Raises:
        ValueError: for options out of range, and an unknown threshold or option of one.
    """

    rule: Sampler = DPMpp2M()
    grid: Grid = UniformGrid()
    steps: Steps = 25
    guidance: Scale = 1.0
    interval: Annotated[Sequence[Share], Length(2)] = (0.0, 1.0)
    channels: Annotated[Count | None, Own()] = None
    shared_carry: bool = False
    together: bool = True
    threshold: Node = field(default_factory=lambda: {"name": "static"})
    prior: Literal["sigma", "unit"] = "sigma"

    def __post_init__(self) -> None:
        check_fields(self, "sampling")
        low, high = self.interval
        if low > high:
            raise ValueError(
                f"guidance in the interval {[low, high]}: write the smaller time first"
            )
        name = self.threshold.get("name")
        if not isinstance(name, str) or name not in THRESHOLDS:
            raise ValueError(
                f"unknown threshold {name!r}{suggest(str(name), THRESHOLDS) or ','} "
                f"known: {', '.join(THRESHOLDS)}"
            )
        self.thresholding()

    def thresholding(self) -> Callable[[Levels], Levels]:
        """The function that keeps the levels of x0 in range."""
        entry = THRESHOLDS[self.threshold["name"]]
        return entry(**arguments(entry, self.threshold, f"threshold {self.threshold['name']!r}"))
