"""Progress of a run: a bar on a terminal, else a line every ten seconds through `logging`."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

log = logging.getLogger(__name__)
INTERVAL = 10.0  # seconds between lines


class Progress:
    """Over all stages; speed is that of the last seconds, without sheets and checkpoints."""

    def __init__(self, steps: int, done: int, *, visible: bool = True):
        self.steps, self.done = steps, done
        self._visible = visible
        self._rate = 0.0  # images/s
        self._pace = 0.0  # s a step
        self._start = self._last_line = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None
        if visible and sys.stderr.isatty():
            self._bar, self._task = _bar(steps, done)

    def step(
        self, stage: str, images: int, seconds: float, loss: float, loader: float | None = None
    ) -> None:
        """Reports a step of `images` images that took `seconds`; loader: images/s of reading them,
        where they are decoded in each step."""
        keep = 0.95 if self._rate else 0.0
        self.done += 1
        self._rate = keep * self._rate + (1 - keep) * images / seconds
        self._pace = keep * self._pace + (1 - keep) * seconds
        if not self._visible:
            return
        now = time.perf_counter()
        due = 0.2 if self._bar is not None else INTERVAL
        if now - self._last_line < due and self.done < self.steps:
            return
        self._last_line = now
        text = f"{self._rate:.0f} images/s  loss {loss:.4f}  {_clock(self._left)} left"
        if loader is not None:
            text += f"  loader {loader:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, stage=stage, text=text)
        else:
            log.info("stage %s  step %d/%d  %s", stage, self.done, self.steps, text)

    @property
    def _left(self) -> float:
        return (self.steps - self.done) * self._pace

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()


def _bar(steps: int, done: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("stage {task.fields[stage]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
    )
    bar.start()
    return bar, bar.add_task("training", total=steps, completed=done, stage="", text="")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
