"""Checkpoints in parts: a folder that every process has written its own tensors into.

The files are safetensors that `torch.distributed.checkpoint` writes and reads; `facts.json` beside
them has what is no tensor, and the SHA-256 of each file. A folder has its name only when all of it
is there. It can be read by any number of processes, since each names the part of a tensor that it
needs.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hierdiff.files.atomic import clean_beside, part_of
from hierdiff.files.digest import read_json, sha256_of_file, write_json
from hierdiff.training.format import SCHEMA, hierdiff_version

if TYPE_CHECKING:
    from concurrent.futures import Future

    from lightning_fabric import Fabric
    from torch.distributed import ProcessGroup

FACTS = "facts.json"
FILES = "files"  # {name: SHA-256}, among the facts


class Shards(Mapping[str, Tensor]):
    """The tensors of a checkpoint in parts, each read when it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def _reader(self) -> Any:
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        class Reader(HuggingFaceStorageReader):
            """Reads the metadata of all files once, and not for each tensor."""

            read_metadata = cache(HuggingFaceStorageReader.read_metadata)

        return Reader(str(self.folder))

    @cached_property
    def _shapes(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self._reader.read_metadata().state_dict_metadata)

    def __getitem__(self, name: str) -> Tensor:
        from torch.distributed.checkpoint import load

        there = self._shapes[name]
        tensor = torch.empty(there.size, dtype=there.properties.dtype)
        with warnings.catch_warnings():  # each process reads for itself, as it is meant to
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load({name: tensor}, storage_reader=self._reader, no_dist=True)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def read(folder: Path) -> tuple[Shards, dict[str, Any]]:
    """Tensors and facts of a folder; the files are compared with their SHA-256.

    Raises:
        ValueError: where a file is absent, damaged or not of this version.
    """
    facts = read_json(folder / FACTS)
    if facts.pop("schema", None) != SCHEMA:
        raise ValueError(f"{folder} has another schema than {SCHEMA}: use the version of its run")
    facts.pop("version", None)
    for name, digest in facts.pop(FILES).items():
        path = folder / str(name)
        if path.parent != folder or not path.is_file() or sha256_of_file(path) != digest:
            raise ValueError(
                f"{path} is absent or damaged (its sha256 is another): copy the folder again, or "
                f"use another checkpoint of the run"
            )
    return Shards(folder), facts


@dataclass
class Writing:
    """A checkpoint on its way into the folder `path`: all processes begin and finish it together.

    part: the folder beside it that is written into. future: of the writing of this process, None
    where it is done. group: the processes as those that write beside training talk to each other,
    apart from what training exchanges.
    """

    fabric: Fabric
    path: Path
    part: Path
    facts: Mapping[str, Any]
    future: Future[Any] | None
    group: ProcessGroup | None = None

    @property
    def done(self) -> bool:
        """Whether this process has written its part."""
        return self.future is None or self.future.done()

    def finish(self) -> None:
        """Waits for all parts, writes the facts and gives the folder its name.

        Raises:
            OSError: where a process could not write.
        """
        if self.future is not None:
            self.future.result()
        self.fabric.barrier()
        if self.group is not None:
            torch.distributed.destroy_process_group(self.group)
        ours, count = self.fabric.global_rank, self.fabric.world_size
        names = sorted(path.name for path in self.part.glob("*.safetensors"))
        digests = {name: sha256_of_file(self.part / name) for name in names[ours::count]}
        everyone: list[Any] = [digests]
        if count > 1:
            everyone = [None] * count
            torch.distributed.all_gather_object(everyone, digests)
        if self.fabric.is_global_zero:
            files = {name: digest for one in everyone for name, digest in one.items()}
            own = {"schema": SCHEMA, "version": hierdiff_version(), FILES: files}
            write_json(self.part / FACTS, {**own, **self.facts})
            if self.path.exists():  # of a run that was stopped at the same step
                shutil.rmtree(self.path)
            os.replace(self.part, self.path)
        self.fabric.barrier()


def begin(
    fabric: Fabric,
    path: Path,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    later: bool,
) -> Writing:
    """Begins a checkpoint of tensors that may be cut over processes; all of them call it.

    later: copy the tensors and write them while training goes on.

    Raises:
        OSError: where the folder cannot be written to.
    """
    from torch.distributed import checkpoint

    if fabric.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_beside(path)
    part = Path(fabric.broadcast(str(part_of(path))))
    if fabric.is_global_zero:
        part.mkdir()
    fabric.barrier()
    state = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    writer = checkpoint.HuggingFaceStorageWriter(str(part), save_distributed=True)
    future, group = None, None
    if later:
        group = cast("ProcessGroup", torch.distributed.new_group(backend="gloo"))
        saving = checkpoint.async_save(state, storage_writer=writer, process_group=group)
        future = cast("Future[Any]", saving)
    else:
        checkpoint.save(state, storage_writer=writer)
    return Writing(fabric, path, part, json.loads(json.dumps(facts)), future, group)
