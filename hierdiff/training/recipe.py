"""`Recipe`: everything that a training run may be told; its fields are the options of `trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hierdiff.training.ema import RAMP
from hierdiff.training.log import check_tensorboard
from hierdiff.training.optimizer import lr_factor

PRECISIONS = ("32-true", "bf16-mixed", "64-true")


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

    steps: int
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 1e-3
    betas: Sequence[float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 50
    lr_schedule: str = "linear"
    clip: float = 1.0
    ema: Sequence[float] = (2000,)
    ema_ramp: float | None = RAMP
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    compile: bool = False
    channels_last: bool = False
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2
    sheet_every: int = 0
    sheet_images: int = 16
    snapshots: int = 0
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "keep", "log_every", "sheet_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: take 1 or more")
        least_zero = ("lr", "warmup", "clip", "weight_decay")
        for name in (*least_zero, "checkpoint_every", "sheet_every", "snapshots"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: take 0 or more")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision={self.precision!r}: choose from {', '.join(PRECISIONS)}"
            )
        if not self.ema or min(self.ema) < 0:
            raise ValueError(
                f"trainer.ema={list(self.ema)}: give one or more half-lives in images, 0 for none"
            )
        lr_factor(0, 1, warmup=self.warmup, decay=self.lr_schedule)
        if self.tensorboard:
            check_tensorboard()
