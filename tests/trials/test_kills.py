"""Kills at random: a command that was killed, however often and wherever, ends as one that was not.

A run is killed again and again while it goes on: before or after one of its writes reaches the disk
or its place, or at any time. `HIERDIFF_KILLS=100 pytest -m slow tests/trials/test_kills.py` kills
a hundred times, which takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.runs import NESTED

KILLS = int(os.environ.get("HIERDIFF_KILLS", "8"))
MANY = KILLS >= 20
ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]

KILLER = '''
"""Kills this process at the n-th file that it puts to the disk or moves to its place."""
import os, sys
word = os.environ.get("KILL")
if word and (sys.orig_argv.count("-m") > 1) == word.startswith("sweep"):
    _, place, number = word.split(":")
    left, own = [int(place)], {name: getattr(os, name) for name in ("fsync", "replace")}

    def counted(name):
        def call(*arguments, **options):
            for when in ("before", "after"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), int(number))
                if when == "before":
                    result = own[name](*arguments, **options)
            return result
        return call

    for name in own:
        setattr(os, name, counted(name))
'''

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
SWEEP = ("-m", "benchmarks.run", "-m", *SMALL, *MEASURED, "hydra.sweep.dir=runs")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("-m", "hierdiff.train", *SMALL, "folder=train"),
    "sweep": (*SWEEP, f"seed={'0,1' if MANY else '0'}", "folder=runs/s${seed}"),
    "sample": ("-m", "hierdiff.sample", "checkpoint=runs/s0/weights.safetensors", "n=6",
               "out=images", "batch_size=2"),
    "table": ("-m", "benchmarks.tables", "runs", "--format", "csv", "-o", "table.csv"),
    "report": ("-m", "benchmarks.report", "runs", "-o", "page"),
}  # fmt: skip
SHARES = {"train": 2, "sweep": 4, "sample": 2, "table": 1, "report": 1} if MANY else {
    "sweep": 5, "sample": 1, "table": 1, "report": 1}  # fmt: skip
WRITES = {"train": 40, "sweep": 60, "sample": 14, "table": 4, "report": 40}  # about, of a process
MADE = {"train": "train", "sweep": "runs", "sample": "images", "table": "none", "report": "page"}


@dataclass
class Place:
    """A working folder, with a cache of its own."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    survived: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        (self.folder / "killer").mkdir(parents=True)
        (self.folder / "killer" / "sitecustomize.py").write_text(KILLER)
        for name, node in {
            "denoiser/tiny": NESTED,
            "method/tiny": {"name": "mdm", "resolutions": [8, 4]},
        }.items():
            path = self.folder / "own" / f"{name}.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(yaml.safe_dump(node))

    def started(self, name: str, kill: str = "") -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.folder / 'killer'}{os.pathsep}{ROOT}",
            "HIERDIFF_CACHE": str(self.folder / "cache"),
            "JAXTYPING_DISABLE": "1",
            "OMP_NUM_THREADS": "1",
            "KILL": kill,
        }
        return subprocess.Popen(
            [sys.executable, *COMMANDS[name]],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ended(self, name: str) -> None:
        """The command, to its end; a job of a sweep that was killed may hold its run a while."""
        for _ in range(10):
            began = time.time()
            process = self.started(name)
            _, said = process.communicate(timeout=600)
            self.seconds[name] = time.time() - began
            if process.returncode != 75 and "another process" not in said:
                break
            time.sleep(1)
        assert process.returncode == 0, said
        assert "Traceback" not in said

    def killed(self, name: str, rng: random.Random) -> None:
        """The command until it has been killed once; one that ends before is begun anew."""
        while True:
            number, by_time = rng.choice(SIGNALS), rng.random() < 0.3
            who = rng.choice(["sweep", "job"]) if name == "sweep" else "job"
            place = rng.randint(1, WRITES[name] if who == "job" else 6)
            process = self.started(name, "" if by_time else f"{who}:{place}:{int(number)}")
            if by_time:
                try:
                    process.wait(rng.uniform(0.3, 1) * self.seconds[name])
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
            _, said = process.communicate(timeout=600)
            assert number != signal.SIGKILL or "Traceback" not in said, said
            if process.returncode not in (0, 75) and "another process" not in said:
                how = "at any time" if by_time else "at a write"
                self.survived[f"{name}, {number.name} {how}"] += 1
                return
            if process.returncode == 0:
                self.remove(name)

    def remove(self, name: str) -> None:
        """What a command made."""
        shutil.rmtree(self.folder / MADE[name], ignore_errors=True)
        (self.folder / "table.csv").unlink(missing_ok=True)

    def files(self) -> set[str]:
        """All but checkpoints, whose steps depend on when a run was asked to end."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return {str(path) for path in found if path.parent.name != "checkpoints"}


def values(path: Path) -> dict[str, Any]:
    """A record without what names the moment and the clock."""

    def timeless(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: timeless(v) for key, v in node.items() if key != "seconds"}
        return [timeless(child) for child in node] if isinstance(node, list) else node

    record = json.loads(path.read_text())
    own = record.pop("provenance")
    return timeless({**record, "hash": None, "inputs": own.get("inputs"), "seeds": own["seeds"]})


@pytest.mark.slow
def test_a_command_that_was_killed_anywhere_ends_as_one_that_was_not(tmp_path: Path):
    rng = random.Random(int(os.environ.get("HIERDIFF_KILLS_SEED", "0")))
    whole, hurt = Place(tmp_path / "whole"), Place(tmp_path / "hurt")
    names = [name for name in COMMANDS if name in SHARES]
    for name in names:
        whole.ended(name)
        hurt.seconds[name] = whole.seconds[name]
        for _ in range(round(KILLS * SHARES[name] / sum(SHARES.values()))):
            hurt.killed(name, rng)
        hurt.ended(name)
    print(f"{sum(hurt.survived.values())} kills survived: {dict(hurt.survived)}")

    assert not [path for path in hurt.folder.rglob("*.part")]
    assert hurt.files() == whole.files()
    weights = [path for path in whole.files() if path.endswith("weights.safetensors")]
    pictures = [path for path in whole.files() if path.startswith("images/")]
    logs = [path for path in whole.files() if path.endswith("log.jsonl")]
    for path in (*weights, *pictures, *logs, "table.csv"):
        assert (hurt.folder / path).read_bytes() == (whole.folder / path).read_bytes(), path
    for path in (path for path in whole.files() if path.endswith("record.json")):
        assert values(hurt.folder / path) == values(whole.folder / path), path
    page = {path: (hurt.folder / path).read_bytes() for path in hurt.files() if path[:5] == "page/"}
    hurt.remove("report")
    hurt.ended("report")
    assert page == {path: (hurt.folder / path).read_bytes() for path in page}
