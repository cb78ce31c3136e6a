"""TensorBoard: event files in `tensorboard/` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from typing_extensions import override

from hierdiff.config import to_yaml
from hierdiff.training.loggers.logger import Logger, loggers


@loggers.register("tensorboard")
class TensorBoard(Logger):
    """Writes event files, which `tensorboard --logdir RUNS` shows."""

    package: ClassVar[str] = "tensorboard"

    @override
    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        writer = self.module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=step)
        lines = to_yaml(config).decode().splitlines()
        self._writer.add_text("config", "\n".join(f"    {line}" for line in lines), step)

    @override
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    @override
    def image(self, name: str, image: Image.Image, step: int) -> None:
        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    @override
    def finish(self) -> None:
        self._writer.close()
