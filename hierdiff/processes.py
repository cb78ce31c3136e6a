"""The processes that share work outside of training: sampling, features, reference statistics.

Items are dealt to them in turn, and what they make of the items reaches the first process in the
order of the items. Whatever is added up there is the same sum however many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from hierdiff.files.lock import RANKS

Item = TypeVar("Item")
Made = TypeVar("Made")
PATIENCE = timedelta(hours=12)  # the others wait while the first one measures costs or neighbours


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or did not answer in time."""


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `count`.

    group: a group of gloo, in which objects on the CPU are exchanged; None for one process.
    """

    rank: int = 0
    count: int = 1
    group: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def joined(cls, patience: timedelta = PATIENCE) -> Processes:
        """Those of the default process group, or else of torchrun; a collective call.

        patience: how long one waits for another that lives.
        """
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
                return cls()
            dist.init_process_group("gloo", timeout=patience)
        if dist.get_world_size() == 1:
            return cls()
        group = dist.new_group(backend="gloo", timeout=patience)
        return cls(dist.get_rank(), dist.get_world_size(), group)

    @property
    def first(self) -> bool:
        """Whether this is the process that adds up and writes."""
        return self.rank == 0

    def deal(
        self, items: Sequence[Item], make: Callable[[Item], Made]
    ) -> Iterator[tuple[Item, Made]]:
        """Each item with what a process has made of it: all of them in order on the first process,
        none on the others, which work while they are iterated over.

        Raises:
            ProcessLost: where another process has ended.
        """
        for start in range(0, len(items), self.count):
            mine = start + self.rank
            made = make(items[mine]) if mine < len(items) else None
            yield from zip(items[start : start + self.count], self._gathered(made), strict=False)

    def agree(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, on all of them.

        Raises:
            ProcessLost: where another process has ended.
        """
        if self.group is None:
            return make()
        box: list[Any] = [make() if self.first else None]
        with self._together():
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def _gathered(self, made: Any) -> list[Any]:
        """What all processes have made, on the first one."""
        if self.group is None:
            return [made]
        places = [None] * self.count if self.first else None
        with self._together():
            dist.gather_object(made, places, dst=0, group=self.group)
        return places or []

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ProcessLost(
                f"process {self.rank} of {self.count} ends because another one has ended or does "
                f"not answer: its own message says why, the same command goes on from what is kept"
            ) from error


ALONE = Processes()


def leads() -> bool:
    """Whether this is the first process of its run, as far as its environment says."""
    return all(os.environ.get(rank, "0") == "0" for rank in RANKS)
