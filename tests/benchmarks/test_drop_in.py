"""A stranger's denoiser, from a package outside this repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = """
from torch import nn

from hierdiff.denoisers import OneLevelDenoiser, denoisers


@denoisers.register("stranger")
class Stranger(OneLevelDenoiser):
    def __init__(self, *, width: int = 8, channels: int = 3, classes: int = 0):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.level = nn.Linear(1, width)
        self.label = nn.Embedding(classes + 1, width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def denoise(self, x, log_snr, cond):
        told = self.level(log_snr[:, None] / 10) + self.label(cond.labels + 1)
        return self.last((self.first(x) + told[:, :, None, None]).tanh())
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "stranger"
version = "1.0"
[tool.setuptools]
py-modules = ["stranger"]
[project.entry-points."hierdiff.plugins"]
stranger = "stranger"
"""
QUICK = (
    *("budget=smoke", "trainer.steps=2", "trainer.progress=false", "measure.samples=8"),
    *("measure.batch=8", "cost.batches=[8]", "cost.repeats=1", "sampler.steps=2"),
    "measure.extractor={name: random_conv}",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The source of the package."""
    source = tmp_path_factory.mktemp("stranger")
    (source / "stranger.py").write_text(NETWORK)
    (source / "pyproject.toml").write_text(PROJECT)
    return source


@pytest.fixture(scope="module")
def site(package, tmp_path_factory) -> Path:
    """Where the package is installed, in this interpreter's own way."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(package)]
    subprocess.run(command, check=True)
    return target


def bench(folder: Path, *options: str, path: Path) -> dict:
    """The record of a run of the main job, with `path` on the import path."""
    command = [sys.executable, "-m", "benchmarks.run", *QUICK, f"folder={folder}", *options]
    environment = {**os.environ, "PYTHONPATH": str(path), "JAXTYPING_DISABLE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / "record.json").read_text())


@pytest.mark.slow
def test_an_installed_denoiser_runs_by_its_name_end_to_end(site, tmp_path):
    record = bench(
        tmp_path, "method=end_to_end", "denoiser=custom", "denoiser.name=stranger", path=site
    )
    assert record["config"]["denoiser"] == {"name": "stranger"}
    assert [row["resolution"] for row in record["cost"]] == [32]


@pytest.mark.slow
def test_an_installed_denoiser_is_innermost_in_a_nested_network(site, tmp_path):
    options = ["method=mdm", "denoiser=nested_custom", "denoiser.inner.name=stranger"]
    record = bench(tmp_path, *options, "+denoiser.inner.width=4", path=site)
    assert record["config"]["denoiser"]["inner"] == {"name": "stranger", "width": 4}
    assert [row["resolution"] for row in record["cost"]] == [32, 16]
    assert all(row["value"] is not None for row in record["quality"])


@pytest.mark.slow
def test_a_denoiser_runs_by_its_path_without_installation(package, tmp_path):
    name = "denoiser.name=stranger:Stranger"
    record = bench(tmp_path, "method=end_to_end", "denoiser=custom", name, path=package)
    assert record["config"]["denoiser"]["name"] == "stranger:Stranger"
