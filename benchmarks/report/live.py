"""Runs in training: how far each is, its losses so far, and its newest sheet of samples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report.charts import Axis, Line, lines
from benchmarks.report.parts import Chart, Charts, Figure, Gallery, mapping
from benchmarks.report.pictures import ReportFiles
from hierdiff.config import from_yaml
from hierdiff.files.log import loss_label, losses, read_log
from hierdiff.results.record import FILE

LOG = "log.jsonl"
ALIVE = 3600.0  # seconds without a change, after which a run counts as ended
POINTS = 200  # of a line, at most


@dataclass(frozen=True)
class LiveRun:
    """A run in training. progress: how far it is, in words; charts: its losses, None before there
    are two lines of the log; gallery: its newest sheet, None before there is one."""

    name: str
    progress: str
    charts: Charts | None = None
    gallery: Gallery | None = None


def live_folders(folders: Iterable[Path], now: float | None = None) -> list[Path]:
    """The run folders in these that have a log and no record, and have changed of late.

    now: seconds since the epoch, None for the clock.
    """
    now = time.time() if now is None else now
    logs = {log for folder in folders for log in folder.rglob(LOG)}
    return sorted(
        log.parent
        for log in logs
        if not (log.parent / FILE).exists() and now - _changed(log.parent) < ALIVE
    )


def state_of(folders: Iterable[Path]) -> list[tuple[str, float]]:
    """What of the folders a page shows, by name and time of change: equal for an equal page."""
    names = (FILE, LOG, "samples/*.png", "*.png")
    found = {path for folder in folders for name in names for path in folder.rglob(name)}
    return sorted((str(path), path.stat().st_mtime) for path in found)


def live_run(folder: Path, files: ReportFiles) -> LiveRun:
    """What there is of a run so far; its picture is added to `files`."""
    found = read_log(folder / LOG)
    return LiveRun(folder.name, _progress(folder, found), _loss_chart(found), _sheet(folder, files))


def _changed(folder: Path) -> float:
    """When a file of a run was last written."""
    places = [folder, *(path for path in folder.iterdir())]
    return max(path.stat().st_mtime for path in places)


def _progress(folder: Path, found: Sequence[dict[str, Any]]) -> str:
    if not found:
        return "no line of the log yet"
    try:
        steps = mapping(from_yaml(folder / "config.yaml").get("trainer")).get("steps")
    except (OSError, ValueError):
        steps = None
    last = found[-1]
    of = f" of {steps:,}" if isinstance(steps, int) else ""
    return f"step {last['step']:,}{of}, stage {last['stage']}, {last['images']:,} images"


def _loss_chart(found: Sequence[dict[str, Any]]) -> Charts | None:
    curves = []
    for look, (name, pieces) in enumerate(losses(found).items()):
        for points in (list(_thinned(piece.tolist())) for piece in pieces):
            if len(points) > 1:
                curves.append(Line(loss_label(name), points, look))
    if not curves:
        return None
    return Charts(
        "Loss", [Chart("Loss", lines(curves, Axis("training images"), Axis("training loss")))]
    )


def _thinned(points: Sequence[Sequence[float]]) -> Iterator[tuple[float, float]]:
    """Means of neighbours where there are more points than `POINTS`."""
    ends = [round(i * len(points) / POINTS) for i in range(POINTS + 1)]
    if len(points) <= POINTS:
        ends = list(range(len(points) + 1))
    for first, end in pairwise(ends):
        own = points[first:end]
        yield own[-1][0], sum(value for _, value in own) / len(own)


def _sheet(folder: Path, files: ReportFiles) -> Gallery | None:
    sheets = sorted((folder / "samples").glob("step_*.png"))
    picture = files.picture(sheets[-1]) if sheets else None
    if picture is None:
        return None
    step = int(sheets[-1].stem.removeprefix("step_"))
    alt = f"Samples of {folder.name} in training."
    return Gallery("Samples", "", [Figure(picture, f"after {step:,} steps", alt)])
