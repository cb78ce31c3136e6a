"""The log of a run: `log.jsonl`, one line an interval, and the loggers that show the same.

A line holds the mean of each name since the line before it, over the steps that have the name. No
wall time is in it, so that a run that was killed and resumed leaves the same bytes as one that
was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hierdiff.files.atomic import raise_write_error
from hierdiff.training.loggers import Logger


class Log:
    """Means by name since the last line, and the file of lines. loggers: started ones, which are
    given the same numbers."""

    def __init__(self, path: Path, *, written: bool = True, loggers: Sequence[Logger] = ()):
        self.path, self._written, self.loggers = path, written, loggers
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}  # steps in each sum

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the values of a step to the means."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def line(self, **first: Any) -> None:
        """Writes a line of `first` and the means; nothing where no value came since the last
        one."""
        if not self._sums:
            return
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        if self._written:
            self._write({**first, **means})
        for logger in self.loggers:
            logger.scalars(means, first.get("step", 0))

    def image(self, name: str, image: Image.Image, step: int) -> None:
        """Shows a picture in the loggers."""
        for logger in self.loggers:
            logger.image(name, image, step)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(text.encode())
        except OSError as error:
            raise_write_error(error, self.path, len(text))

    def state(self) -> dict[str, Any]:
        """Length of the file in bytes, on the disk by now, and the sums that are not in it yet."""
        length = 0
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
                length = file.seek(0, os.SEEK_END)
        return {"bytes": length, "sums": self._sums, "counts": self._counts}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Cuts the log back to where `state` was taken; None: to nothing."""
        self._sums = dict(state["sums"]) if state else {}
        self._counts = counts_in(state) if state else {}
        if self._written and self.path.exists():
            length = self.path.stat().st_size
            os.truncate(self.path, min(state["bytes"] if state else 0, length))

    def close(self) -> None:
        """Ends the loggers."""
        for logger in self.loggers:
            logger.finish()


def counts_in(state: Mapping[str, Any]) -> dict[str, Any]:
    """Steps in each sum; older checkpoints have one `count` for all.

    They are as in the file: what is no whole number is for the caller to refuse.
    """
    return dict(state.get("counts") or dict.fromkeys(state["sums"], state.get("count")))
