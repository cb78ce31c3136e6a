"""Reading `log.jsonl`, the log of a run, one line an interval. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hierdiff.files.reading import from_json, read_text
from hierdiff.resolution import RESOLUTION_TEXT


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a half line at its end is left out.

    Raises:
        ValueError: names a line that is no JSON.
    """
    lines = []
    for number, line in enumerate(read_text(path).split("\n")[:-1] if path.exists() else [], 1):
        try:
            lines.append(from_json(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number} is no line of a log ({error}): remove it") from error
    return lines


def losses(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[np.ndarray]]:
    """(images, value) of each loss by its name in the log, a piece for each stage.

    A total that is its only part is left out.
    """
    series: dict[str, list[np.ndarray]] = {}
    for _, rows in groupby(lines, key=lambda line: line["stage"]):
        pieces: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for name in row:
                if name.startswith("loss"):
                    pieces.setdefault(name, []).append((row["images"], row[name]))
        for name, piece in pieces.items():
            if name != "loss" or list(pieces.values()).count(piece) == 1:
                series.setdefault(name, []).append(np.array(piece, dtype=float))
    return series


def loss_label(name: str) -> str:
    """The name of a loss in a chart, from its name in the log: "total", "level 32", "pixel"."""
    part = name.removeprefix("loss/")
    if name == "loss":
        return "total"
    return f"level {part}" if RESOLUTION_TEXT.fullmatch(part) else part
