"""Loggers: where the numbers and pictures of a run are shown beside its own files.

`trainer.loggers='[{name: tensorboard}]'`; several may be named. The files of a run (`log.jsonl`,
`samples/`) are written whatever loggers there are. Each logger is an extra of its own name, and
none sends anything anywhere unless an option of it says so.
"""

from __future__ import annotations

from hierdiff.training.loggers import mlflow, tensorboard, trackio, wandb
from hierdiff.training.loggers.logger import Logger, loggers

__all__ = ["Logger", "loggers", "mlflow", "tensorboard", "trackio", "wandb"]
