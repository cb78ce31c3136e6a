"""Weights & Biases, offline unless asked: `wandb sync` sends later what lies in the folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from typing_extensions import override

from hierdiff.training.loggers.logger import RunLogger, loggers, run_id

QUIET = ("offline", "disabled")  # values of WANDB_MODE that are stronger than an option


@loggers.register("wandb")
class WandB(RunLogger):
    """Writes to `wandb/` of the run folder.

    project, entity: where a run belongs. mode: "offline" keeps it in the folder, "online" sends it;
    WANDB_MODE=offline or disabled holds whatever the mode is.
    """

    package: ClassVar[str] = "wandb"

    def __init__(
        self,
        *,
        project: str = "hierdiff",
        entity: str | None = None,
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        super().__init__()
        self.project, self.entity, self.mode = project, entity, mode

    @override
    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        asked = os.environ.get("WANDB_MODE", "")
        mode = asked if asked in QUIET else self.mode
        if mode != "online":  # read where it is imported; reports of errors are sent otherwise
            os.environ["WANDB_ERROR_REPORTING"] = "false"
        wandb = self.module()
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=folder.name,
            id=run_id(folder),
            resume="allow",
            dir=str(folder),
            mode=mode,
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
