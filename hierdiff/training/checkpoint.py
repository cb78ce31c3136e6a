"""Checkpoints: the state of a run at a step, from which it goes on exactly.

A checkpoint says what step comes next; randomness is a function of seed and step, so no generator
is in it. Tensors: `model/NAME`, `ema/WHICH/NAME`, `optimizer/TURN/PARAMETER/KEY`; a tensor that
several stages share is stored once, under its first name. A run whose weights are cut over
processes writes a folder of parts (`shards`) in place of a single file.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hierdiff.config import one_line
from hierdiff.data.classes import natural
from hierdiff.inputs import changed
from hierdiff.training import shards
from hierdiff.training.format import as_json, unpacked, write_packed

log = logging.getLogger(__name__)
DECISIVE = ("data", "method", "trainer", "seed", "data_sha256")  # parts that decide the weights
OF_TRAINER = (
    *("accelerator", "devices", "strategy", "shard_over", "async_checkpoints", "compile", "matmul"),
    *("recompute", "channels_last", "progress", "tensorboard", "loggers", "keep"),
    *("checkpoint_every", "sheet_every", "sheet_images", "snapshots"),
)
FREE = frozenset(  # options that do not; the digest of the data stands for where it lies
    (
        *("data.root", "data.test_root", "data.cache"),
        *("data.reading.workers", "data.reading.decoded", "method.sampling", "method.codec.cache"),
        *(f"trainer.{name}" for name in OF_TRAINER),
    )
)


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    stage, step: what comes next, step counted inside the stage. started: were steps of the stage
    done, so that `ema` and `optimizers` hold its state. images: seen in all stages before `step`.
    seconds: spent in the steps of each stage. log: length and open sums of the log. optimizers:
    what is no tensor, by turn.
    """

    config: dict[str, Any]
    stage: int
    step: int
    images: int
    total_step: int
    started: bool
    log: dict[str, Any]
    tensors: Mapping[str, Tensor]
    optimizers: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def part(self, prefix: str) -> Mapping[str, Tensor]:
        """Tensors below `prefix/`, by the rest of their names."""
        return Part(self.tensors, f"{prefix}/")

    @property
    def facts(self) -> dict[str, Any]:
        """What is no tensor."""
        return {
            "kind": "checkpoint",
            **{name: value for name, value in vars(self).items() if name != "tensors"},
        }


class Part(Mapping[str, Tensor]):
    """The tensors whose names begin with `start`, by the rest of their names; none is read before
    it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], start: str):
        self.tensors, self.start = tensors, start
        self.names = [k.removeprefix(start) for k in tensors if k.startswith(start)]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.start + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint into `folder` at once and removes all but the newest `keep` up to it."""
    path = folder / f"{name_at(checkpoint.total_step)}.safetensors"
    write_packed(path, checkpoint.tensors, checkpoint.facts)
    remove_older(path, keep)
    return path


def name_at(total_step: int) -> str:
    """The name of the checkpoint of a step, without the ending of a single file."""
    return f"step_{total_step:07d}"


def remove_older(path: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints up to `path`."""
    older = [p for p in all_in(path.parent) if natural(p.stem) <= natural(path.stem)]
    for old in older[: max(0, len(older) - keep)]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def all_in(folder: Path) -> list[Path]:
    """Paths of the checkpoints in a folder, oldest first, also after step 9,999,999: single files,
    and folders of parts."""
    whole, parts = folder.glob("step_*.safetensors"), folder.glob(f"step_*/{shards.FACTS}")
    found = [*whole, *(path.parent for path in parts)]
    return sorted(found, key=lambda path: natural(path.stem))


class Broken(ValueError):
    """A checkpoint is not what a run writes."""


def newest(
    folder: Path, check: Callable[[Path, Checkpoint], None] | None = None
) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is whole, or None where there is none; a broken one is skipped.

    check: raises `Broken` for one that is not as the run writes it; other errors are let through.

    Raises:
        ValueError: where there are some and all are broken: to begin anew would lose them.
    """
    paths = all_in(folder)
    reasons = []
    for path in reversed(paths):
        try:
            checkpoint = _read(path)
            if check is not None:
                check(path, checkpoint)
        except Broken as error:
            reasons.append(one_line(str(error))[:1000])
            log.warning("skipping the broken checkpoint %s (%s)", path, reasons[-1])
        else:
            if reasons:
                log.warning("%d of %d checkpoints are broken", len(reasons), len(paths))
            return path, checkpoint
    if paths:
        raise ValueError(
            f"all {len(paths)} checkpoints in {folder} are broken, the newest because of this: "
            f"{reasons[0]}; copy a whole one there, or remove the folder to begin anew"
        )
    return None


def _read(path: Path) -> Checkpoint:
    try:
        tensors, facts = shards.read(path) if path.is_dir() else unpacked(path)
        if facts.pop("kind") != "checkpoint":
            raise ValueError(f"{path} holds final weights, not the state of a run")
        return Checkpoint(tensors=tensors, **facts)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Broken(str(error)) from error


def check_config(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compares the config `old` of the checkpoint `path` with that of the run that would resume
    from it.

    Raises:
        ValueError: where method, data, recipe or seed differ, or files or code have changed since.
    """
    for part in DECISIVE:
        if part in old and part in new:
            difference = _difference(part, as_json(old[part]), as_json(new[part]))
            if difference:
                key, was, now = difference
                if key == "data_sha256":
                    raise ValueError(
                        f"{path} was written with other images, labels or captions than there are "
                        f"now: put the old ones back, or start another run in a folder of its own "
                        f"(name=...)"
                    )
                raise ValueError(
                    f"{path} was written with {key}={was!r}, now it is {now!r}: go on with the old "
                    f"value, or start another run in a folder of its own (name=...)"
                )
    other = changed(old.get("inputs", {}), new.get("inputs", {}))
    if other is not None:
        raise ValueError(
            f"{path} was written with another content of {other} than there is now: put the old "
            f"one back, or start another run in a folder of its own (name=...)"
        )


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else (key, old, new)
    for name in sorted(old.keys() | new.keys()):
        place = f"{key}.{name}"
        difference = None if place in FREE else _difference(place, old.get(name), new.get(name))
        if difference:
            return difference
    return None
