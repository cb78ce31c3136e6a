"""`Recipe`: how a training run is done; its fields are the options of `trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch

from hierdiff.methods import Stage, Turn
from hierdiff.options import (
    Between,
    Count,
    Length,
    Natural,
    NonNegative,
    Positive,
    Share,
    check_fields,
)
from hierdiff.registry import single, suggest
from hierdiff.training.ema import RAMP
from hierdiff.training.loggers import Logger
from hierdiff.training.optimizer import check_optimizer, lr_factor

Precision = Literal["32-true", "bf16-mixed", "64-true"]
Decay = Literal["constant", "linear", "cosine"]
Betas = Annotated[Sequence[Annotated[float, Between(0, 1, below=True)]], Length(2)]
# options that a turn, and a stage, may have otherwise
OF_TURN = ("optimizer", "optimizer_options", "betas", "weight_decay", "clip")
OF_STAGE = (
    *OF_TURN,
    *("lr", "warmup", "lr_schedule", "lr_span", "decay_after_warmup", "ema_ramp"),
)


@single("recipe")
@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    steps: of the optimizer, in all stages together; batch_size: images in one step, over all
    devices and micro batches (a stage may state its own); accumulate: micro batches on each device.
    optimizer: adamw or a name of timm; betas: of optimizers that take two; lr: its top, reached
    after `warmup` steps of each stage; lr_schedule: constant, linear or cosine, over the steps of a
    stage or, decay_after_warmup, over those after the warm-up; lr_span: the part of that curve
    which is gone through, 1 to end at zero; clip: of the global gradient norm, 0 for none.
    ema: half-lives in images, the first one is used for sheets, weights and to end a stage (0: raw
    weights); ema_ramp: a half-life is at most this part of the images seen in the stage.
    precision: 32-true, bf16-mixed or 64-true; matmul: of products of float32 numbers on a GPU:
    highest, high (TF32) or medium (bfloat16). compile: true, the loss as one graph, or blocks, each
    by itself (under fsdp either means blocks). recompute: blocks compute their activations again in
    the backward pass: less memory, more time.
    strategy: of several processes: ddp (auto), a whole copy on each, or fsdp: weights, gradients,
    optimizer and averages cut over `shard_over` processes (None: all; fewer: each such group holds
    a copy, HSDP). async_checkpoints: under fsdp, training goes on while a checkpoint is written.
    log_every, checkpoint_every, sheet_every: steps (0: only at the end); keep: checkpoints.
    snapshots: times, evenly over each stage, at which the weights of every average are kept for
    learning curves; each is a file of all weights. loggers: where numbers and sheets are shown
    beside the files of the run (`hierdiff.training.loggers`).
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
    lr_span: Share = 1.0
    decay_after_warmup: bool = False
    clip: NonNegative = 1.0
    ema: Annotated[Sequence[NonNegative], Length(1, more=True)] = (2000,)
    ema_ramp: Positive | None = RAMP
    precision: Precision = "32-true"
    accelerator: str = "auto"
    devices: Count | Literal["auto"] = 1
    strategy: str = "auto"
    shard_over: Count | None = None
    async_checkpoints: bool = False
    matmul: Literal["highest", "high", "medium"] = "highest"
    compile: bool | Literal["blocks"] = False
    recompute: bool = False
    channels_last: bool = False
    log_every: Count = 10
    checkpoint_every: Natural = 500
    keep: Count = 2
    sheet_every: Natural = 0
    sheet_images: Count = 16
    snapshots: Natural = 0
    loggers: Sequence[Logger] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "trainer")
        check_optimizer(self.optimizer, self.betas, self.optimizer_options, type(self).betas)
        if self.strategy != "fsdp" and (self.shard_over or self.async_checkpoints):
            option = "shard_over" if self.shard_over else "async_checkpoints"
            raise ValueError(
                f"trainer.{option} is of sharded training: set trainer.strategy=fsdp, or leave it "
                f"out"
            )

    def of(self, part: Stage | Turn) -> Recipe:
        """This recipe with what a stage, or a turn of it, has otherwise.

        Raises:
            ValueError: for options that are not of a stage or turn, or out of range.
        """
        if not part.trainer:
            return self
        known = OF_TURN if isinstance(part, Turn) else OF_STAGE
        for name in part.trainer:
            if name not in known:
                raise ValueError(
                    f"trainer.{name} of {part.name!r}{suggest(name, known)} is for the whole run: "
                    f"of its own it may have {', '.join(known)}"
                )
        try:
            return replace(self, **part.trainer)
        except ValueError as error:
            raise ValueError(f"of {part.name!r}: {error}") from error

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate at a step, 0 to steps - 1, of a stage."""
        return self.lr * lr_factor(
            step,
            steps,
            warmup=self.warmup,
            decay=self.lr_schedule,
            span=self.lr_span,
            after_warmup=self.decay_after_warmup,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and images."""
        return torch.float64 if self.precision == "64-true" else torch.float32
