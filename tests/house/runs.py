"""Runs of the benchmark's main job with parts that a test announces as a plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hierdiff.results.record import Record
from tests.test_registry import announce

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    *("budget=smoke", "trainer.steps=2", "trainer.progress=false", "trainer.batch_size=4"),
    "trainer.snapshots=1",
    *("measure.samples=8", "measure.batch=8", "measure.metrics=[fd,mind,consistency]"),
    *("measure.curve={samples: 0, metrics: [], loss: 8}", "measure.seeds=[0]"),
    *("cost.batches=[2]", "cost.repeats=1", "sampler.steps=3"),
    "measure.extractor={name: random_conv}",
)


def environment(folder: Path) -> dict[str, str]:
    """Of a process that finds the parts announced in `folder`."""
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "JAXTYPING_DISABLE": "1"}


def bench(folder: Path, module: str, *options: str) -> Record:
    """Trains, samples and measures in `folder`, where the parts of `module` are registered."""
    (folder / "site").mkdir()
    announce(folder / "site", module)
    command = [sys.executable, "-m", "benchmarks.run", *QUICK, f"folder={folder / 'run'}", *options]
    ended = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return Record.read(folder / "run")
