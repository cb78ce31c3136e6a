"""`Recipe`: how a training run is done; its fields are the options of `trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch

from hierdiff.options import Between, Count, Length, Natural, NonNegative, Positive, check_fields
from hierdiff.registry import single
from hierdiff.training.ema import RAMP
from hierdiff.training.log import check_tensorboard
from hierdiff.training.optimizer import check_optimizer

Precision = Literal["32-true", "bf16-mixed", "64-true"]
Decay = Literal["constant", "linear", "cosine"]
Betas = Annotated[Sequence[Annotated[float, Between(0, 1, below=True)]], Length(2)]


@single("recipe")
@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    steps: of the optimizer, in all stages together; batch_size: images in one step, over all
    devices and micro batches (a stage may state its own); accumulate: micro batches on each device.
    optimizer: adamw or a name of timm; lr: its top, reached after `warmup` steps of each stage and
    followed by `lr_schedule` (constant, linear or cosine, to zero at the stage's end); clip: of the
    global gradient norm, 0 for none.
    ema: half-lives in images, the first one is used for sheets, weights and to end a stage (0: raw
    weights); ema_ramp: a half-life is at most this part of the images seen in the stage.
    precision: 32-true, bf16-mixed or 64-true. compile: the loss, as one graph.
    log_every, checkpoint_every, sheet_every: steps (0: only at the end); keep: checkpoints.
    snapshots: times, evenly over each stage, at which the weights of every average are kept for
    learning curves; each is a file of all weights.
    """

    steps: Count
    batch_size: Count = 64
    accumulate: Count = 1
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    warmup: Natural = 50
    lr_schedule: Decay = "linear"
    clip: NonNegative = 1.0
    ema: Annotated[Sequence[NonNegative], Length(1, more=True)] = (2000,)
    ema_ramp: Positive | None = RAMP
    precision: Precision = "32-true"
    accelerator: str = "auto"
    devices: Count | Literal["auto"] = 1
    strategy: str = "auto"
    compile: bool = False
    channels_last: bool = False
    log_every: Count = 10
    checkpoint_every: Natural = 500
    keep: Count = 2
    sheet_every: Natural = 0
    sheet_images: Count = 16
    snapshots: Natural = 0
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "trainer")
        check_optimizer(self.optimizer, self.betas, self.optimizer_options, type(self).betas)
        if self.tensorboard:
            check_tensorboard()

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and images."""
        return torch.float64 if self.precision == "64-true" else torch.float32
