"""Kills at random: a command that was killed, however often and wherever, ends as one that was not.

A run is killed again and again while it goes on: before or after one of its files reaches the disk
or its place, or at any time. Processes are forked from one that has imported everything; the jobs
of a sweep are processes of their own. `HIERDIFF_KILLS=100` asks for a hundred kills.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hierdiff.config import reported
from tests.training.runs import NESTED, server

KILLS = int(os.environ.get("HIERDIFF_KILLS", "8"))
ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]
server.set_forkserver_preload(
    ["hierdiff.prepared", "hierdiff.sampled", "benchmarks.single", "benchmarks.report.__main__",
     "lightning_fabric"]
)  # fmt: skip


def arm(place: int, number: int) -> None:
    """This process is sent a signal before or after a file reaches the disk or its place."""
    import os

    left = [place]

    def armed(name: str) -> None:
        own = getattr(os, name)

        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
            result = own(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
            return result

        setattr(os, name, call)

    armed("fsync")
    armed("replace")


# sitecustomize of the processes that a sweep starts
OF_A_JOB = f"""
import os, sys
{inspect.getsource(arm)}
if os.environ.get("KILL") and "benchmarks.run" in sys.orig_argv:
    arm(*map(int, os.environ["KILL"].split(":")))
"""


def work(
    folder: Path, words: Sequence[str], environment: dict[str, str], kill: tuple[int, int] | None
) -> None:
    """`python -m WORDS` in a folder, its messages in the file `said`."""
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    out, said = (
        os.open(os.devnull, os.O_WRONLY),
        os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    )
    os.dup2(out, 1)
    os.dup2(said, 2)
    sys.argv = list(words)
    if kill is not None:
        arm(*kill)
    main = importlib.import_module(words[0]).main
    sys.exit(reported(main)())


SMALL = (
    *("--config-dir", "own", "method=tiny", "denoiser=tiny", "data.resolution=8", "budget=smoke"),
    *("sampler.steps=2", "trainer.accelerator=cpu", "trainer.progress=false"),
    *("trainer.steps=8", "trainer.batch_size=8", "trainer.checkpoint_every=2", "trainer.keep=2"),
    *("trainer.sheet_every=4", "trainer.log_every=1", "trainer.snapshots=2"),
)
MEASURED = (
    *("measure.samples=16", "measure.batch=8", "measure.seeds=[0,1]", "measure.metrics=[fd]"),
    *("measure.curve.metrics=[fd]", "measure.curve.samples=8", "cost.repeats=0"),
    "measure.extractor={name: random_conv}",
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("hierdiff.train", *SMALL, "folder=train"),
    "run": ("benchmarks.run", *SMALL, *MEASURED, "folder=runs/one"),
    "sweep": ("benchmarks.run", "-m", *SMALL, *MEASURED, "seed=1", "folder=runs/s${seed}",
              "hydra.sweep.dir=runs"),
    "sample": ("hierdiff.sample", "checkpoint=runs/one/weights.safetensors", "n=6", "out=images",
               "batch_size=2"),
    "table": ("benchmarks.tables.__main__", "runs", "--format", "csv", "-o", "table.csv"),
    "report": ("benchmarks.report.__main__", "runs", "-o", "page"),
}  # fmt: skip
SHARES = {"train": 0.15, "run": 0.4, "sweep": 0.1, "sample": 0.15, "table": 0.05, "report": 0.15}
WRITES = {"train": 70, "run": 100, "sweep": 100, "sample": 30, "table": 4, "report": 80}  # calls
CLOCKED = ("seconds", "images_per_s")
MADE = {
    **{"train": "train", "run": "runs/one", "sweep": "runs/s1", "sample": "images"},
    **{"table": "table.csv", "report": "page"},
}


@dataclass
class Place:
    """A working folder, with a cache of its own."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    survived: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        (self.folder / "killer").mkdir(parents=True)
        (self.folder / "killer" / "sitecustomize.py").write_text(OF_A_JOB)
        for name, node in {
            "denoiser/tiny": NESTED,
            "method/tiny": {"name": "mdm", "resolutions": [8, 4]},
        }.items():
            path = self.folder / "own" / f"{name}.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(yaml.safe_dump(node))

    def started(
        self, name: str, here: tuple[int, int] | None = None, in_job: tuple[int, int] | None = None
    ) -> Any:
        """A process of a command; where it is killed, or a job of the sweep is."""
        (self.folder / "said").write_text("")
        environment = {
            "PYTHONPATH": f"{self.folder / 'killer'}{os.pathsep}{ROOT}",
            "HIERDIFF_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "KILL": "" if in_job is None else f"{in_job[0]}:{in_job[1]}",
        }
        process = server.Process(target=work, args=(self.folder, COMMANDS[name], environment, here))
        process.start()
        return process

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def ended(self, name: str) -> None:
        """The command, to its end; a job whose sweep was killed may hold its run a while."""
        for _ in range(30):
            began = time.time()
            process = self.started(name)
            process.join(600)
            self.seconds[name] = time.time() - began
            if process.exitcode != 75 and "another process works" not in self.said:
                break
            time.sleep(1)
        assert process.exitcode == 0, self.said
        assert "Traceback" not in self.said

    def killed(self, name: str, rng: random.Random) -> None:
        """The command until it has been killed once; one that ends before is begun anew."""
        for _ in range(60):
            number, by_time = rng.choice(SIGNALS), rng.random() < 0.3
            in_job = name == "sweep" and rng.random() < 0.5
            limit = 12 if name == "sweep" and not in_job else WRITES[name]
            kill = None if by_time else (rng.randint(1, limit), int(number))
            process = self.started(name, None if in_job else kill, kill if in_job else None)
            if by_time:
                process.join(rng.uniform(0, 1) * self.seconds[name])
                if process.is_alive():
                    os.kill(process.pid, number)
            process.join(600)
            assert process.exitcode is not None, f"{name} hangs: {self.said}"
            if number == signal.SIGKILL:
                assert "Traceback" not in self.said, self.said
            if process.exitcode == 0:
                self.remove(name)
            elif process.exitcode == 75 or "another process works" in self.said:
                time.sleep(0.5)
            else:
                how = "at any time" if by_time else "at a write"
                self.survived[f"{name}, {signal.Signals(number).name} {how}"] += 1
                return
        raise AssertionError(f"{name} was never killed: {self.said}")

    def remove(self, name: str) -> None:
        """What a command made."""
        place = self.folder / MADE[name]
        if place.is_file():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)

    def files(self) -> set[str]:
        """All but checkpoints, whose steps depend on when a run was asked to end."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return {str(path) for path in found if path.parent.name != "checkpoints"}


def values(path: Path) -> dict[str, Any]:
    """A record without what names the moment and the clock."""

    def timeless(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: timeless(v) for key, v in node.items() if key not in CLOCKED}
        return [timeless(child) for child in node] if isinstance(node, list) else node

    record = json.loads(path.read_text())
    own = record.pop("provenance")
    return timeless({**record, "hash": None, "inputs": own.get("inputs"), "seeds": own["seeds"]})


@pytest.mark.trial
def test_a_command_that_was_killed_anywhere_ends_as_one_that_was_not(tmp_path: Path):
    rng = random.Random(int(os.environ.get("HIERDIFF_KILLS_SEED", "0")))
    whole, hurt = Place(tmp_path / "whole"), Place(tmp_path / "hurt")
    for name, share in SHARES.items():
        whole.ended(name)
        hurt.seconds[name] = whole.seconds[name]
        for _ in range(round(KILLS * share)):
            hurt.killed(name, rng)
        hurt.ended(name)
    print(f"{sum(hurt.survived.values())} kills survived: {dict(hurt.survived)}")

    assert not [path for path in hurt.folder.rglob("*.part")]
    assert hurt.files() == whole.files()
    weights = [path for path in whole.files() if path.endswith("weights.safetensors")]
    pictures = [path for path in whole.files() if path.endswith(".png")]
    logs = [path for path in whole.files() if path.endswith("log.jsonl")]
    for path in (*weights, *pictures, *logs, "table.csv"):
        assert (hurt.folder / path).read_bytes() == (whole.folder / path).read_bytes(), path
    for path in (path for path in whole.files() if path.endswith("record.json")):
        assert values(hurt.folder / path) == values(whole.folder / path), path
    page = {path: (hurt.folder / path).read_bytes() for path in hurt.files() if path[:5] == "page/"}
    hurt.remove("report")
    hurt.ended("report")
    assert page == {path: (hurt.folder / path).read_bytes() for path in page}
