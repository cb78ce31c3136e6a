"""Trackio, in its own folder on this machine (TRACKIO_DIR) unless a space is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from hierdiff.training.loggers.logger import RunLogger, loggers, run_id


@loggers.register("trackio")
class Trackio(RunLogger):
    """Writes where `trackio show` looks. project: of the run. space: of Hugging Face, to which it
    is sent; None for this machine alone."""

    package: ClassVar[str] = "trackio"

    def __init__(self, *, project: str = "hierdiff", space: str | None = None) -> None:
        super().__init__()
        self.project, self.space = project, space

    @override
    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        self.run = self.module().init(
            project=self.project,
            name=f"{folder.name}-{run_id(folder)[:6]}",
            space_id=self.space,
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
