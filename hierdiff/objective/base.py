"""The role of an objective: what a training step of a diffusion stage minimises.

It draws the randomness of a step, calls the network on noisy levels and gives a loss, which is a
pure function of its arguments. A node without a name is score matching
(`score`), the default.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import Denoiser
from hierdiff.guidance import Denoise
from hierdiff.levels import Levels
from hierdiff.noise import Noise
from hierdiff.objective.loss import Draws, Drop, Loss
from hierdiff.objective.weights import Constant, Weight
from hierdiff.options import NonNegative, Share, check_fields
from hierdiff.parameterization import Parameterization
from hierdiff.process import GaussianProcess
from hierdiff.registry import Registry

# The frozen network that a student learns from: its denoise function under conditions.
Teacher = Callable[[Cond], Denoise]


@dataclass(frozen=True)
class Objective(ABC):
    """What every objective has; subclasses add their options.

    parameterization: what the network predicts and how its input is scaled, in sampling too.
    weight: of the squared error of x0, by log-SNR. level_weights: one for each level, finest first;
    None is 1 each (each level is a mean over its own pixels, so that its size does not matter);
    "pixels" or "sides": the number of pixels, or the side, over that of the coarsest level;
    "finest": 1 for the finest level and 0 for the others.
    stratified: the times of a batch are spread evenly. drop: rate at which a training example loses
    its label, caption and vectors together, for classifier-free guidance; or {condition: rate},
    such as {label: 0.1, image_embedding: 0.5}, each drawn by itself (scalars and the low-resolution
    image, `low`, can be dropped by name too).
    """

    parameterization: Parameterization = Parameterization()
    weight: Weight = Constant()
    level_weights: Literal["pixels", "sides", "finest"] | Sequence[NonNegative] | None = None
    stratified: bool = True
    drop: Share | Mapping[str, Share] = 0.0

    needs_teacher: ClassVar[bool] = False  # whether `__call__` must receive one

    def __post_init__(self) -> None:
        check_fields(self, "objective")

    @property
    def teacher_file(self) -> str | None:
        """Weights of another run whose stage of the same name teaches; None: the stage before."""
        return None

    @property
    def images_beside(self) -> float:
        """How many images are trained beside each clip."""
        return 0.0

    def check(
        self,
        process: GaussianProcess,
        denoiser: Denoiser | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Checks, before compute, that it fits this process, network and state.

        shapes: channels and sides of each level, finest first.

        Raises:
            ValueError: where it does not. For instance a prediction of eps says nothing about x0
                where the SNR is 0.
        """
        levels = len(process.schedules)
        weights = self.level_weights
        if weights is not None and not isinstance(weights, str) and len(weights) != levels:
            raise ValueError(
                f"{len(weights)} level weights for {levels} levels: give one for each, finest first"
            )
        scales = self.parameterization.input_scale
        if not isinstance(scales, str) and len(scales) != levels:
            raise ValueError(
                f"{len(scales)} input scales for {levels} levels: "
                f"give one for each, finest first, or one for all"
            )
        reads = None if denoiser is None else denoiser.reads
        if isinstance(self.drop, Mapping) and reads is not None:
            for name in self.drop:
                if name not in reads.names:
                    raise ValueError(
                        f"drop names the condition {name!r}, which {type(denoiser).__name__} does "
                        f"not read: it reads {', '.join(sorted(reads.names)) or 'none'}"
                    )
        end = process.log_snr(torch.ones(1, dtype=torch.float64, device="cpu"))
        if self.parameterization.prediction == "eps" and bool(torch.isneginf(end).any()):
            raise ValueError(
                "prediction 'eps' with SNR 0 at t = 1 cannot be turned into an image: "
                "predict 'v' or 'x0', or choose a schedule with a finite log_snr at t = 1, "
                "such as a limited one"
            )

    def tail(self, n: int) -> Objective:
        """The objective of the n coarsest levels: the last n entries of options by level."""
        weights = self.level_weights
        weights = weights if weights is None or isinstance(weights, str) else weights[-n:]
        scale = self.parameterization.input_scale
        scale = scale if isinstance(scale, str) else scale[-n:]
        parameterization = replace(self.parameterization, input_scale=scale)
        return replace(self, level_weights=weights, parameterization=parameterization)

    def level_factors(self, x0: Levels) -> list[float]:
        """The factor of each level's loss in the sum, finest first."""
        if self.level_weights is None:
            return [1.0] * len(x0)
        if not isinstance(self.level_weights, str):
            return list(self.level_weights)
        if self.level_weights == "finest":
            return [1.0, *(0.0 for _ in x0[1:])]
        pixels = [math.prod(level.shape[2:]) for level in x0]
        power = 1.0 if self.level_weights == "pixels" else 1.0 / (x0[-1].ndim - 2)
        return [(count / pixels[-1]) ** power for count in pixels]

    @abstractmethod
    def draw(
        self, process: GaussianProcess, shapes: Sequence[Sequence[int]], noise: Noise
    ) -> Draws:
        """The random numbers of one loss, drawn eagerly, outside of anything compiled.

        shapes: rows, channels and sides of each level, finest first; the coarsest has all rows of
        the batch.
        """

    def draw_drop(self, b: int, noise: Noise) -> Drop:
        """Which of b examples lose their conditions: one mask, or one for each name of `drop`."""
        if not isinstance(self.drop, Mapping):
            return torch.special.ndtr(noise((b,))) < self.drop
        rates = sorted(self.drop.items())
        return {name: torch.special.ndtr(noise((b,))) < rate for name, rate in rates}

    @abstractmethod
    def __call__(
        self,
        process: GaussianProcess,
        denoiser: Denoiser,
        x0: Levels,
        cond: Cond,
        draws: Draws,
        teacher: Teacher | None = None,
        names: Sequence[str] = (),
    ) -> Loss:
        """The loss of clean levels x0.

        Level i may hold only the first b_i rows of the batch; its loss is the mean over these.
        draws: of `draw`. teacher: required if `needs_teacher`; it receives no gradient. names: of
        the levels, by which their losses are logged, by default their resolutions.
        """


objectives: Registry[Objective] = Registry("objective", Objective, default="score")
