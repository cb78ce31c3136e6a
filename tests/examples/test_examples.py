"""The examples do what they show: packages are installed and found by name, the notebook runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOT = EXAMPLES.parent
FEW = ("budget=smoke", "trainer.steps=2", "measure.samples=8", "measure.seeds=[0]")


def ran(words: Sequence[str], place: Path, *paths: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])),
        "JAXTYPING_DISABLE": "1",
    }
    ended = subprocess.run(
        [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.fixture
def installed(request, tmp_path: Path) -> Path:
    """Where a package is installed, from a copy of its folder."""
    target = tmp_path / "site"
    source = tmp_path / "source"
    source.mkdir()
    for path in (EXAMPLES / request.param).iterdir():
        if path.suffix in (".py", ".toml"):
            (source / path.name).write_bytes(path.read_bytes())
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
    ran(["-m", "pip", "install", *offline, "--target", str(target), str(source)], tmp_path)
    return target


RUNS = {
    "denoiser": ("method=mdm", "denoiser=nested_custom", "denoiser.inner.name=convnext"),
    "method": ("--config-dir", str(EXAMPLES / "method" / "configs"), "method=one_pass"),
}


@pytest.mark.trial
@pytest.mark.parametrize(("installed", "words"), RUNS.items(), indirect=["installed"])
def test_a_package_is_found_by_name_and_gets_a_row(installed: Path, words, tmp_path: Path):
    ran(["-m", "benchmarks.run", *words, *FEW, "measure.metrics=[fd]"], tmp_path, installed)
    (record,) = (tmp_path / "runs").glob("*/record.json")
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found["failure"] is None
    assert found["quality"]
    assert found["cost"]
    ran(["-m", "benchmarks.report", "runs"], tmp_path, installed)


@pytest.mark.slow
@pytest.mark.parametrize("installed", RUNS, indirect=True)
def test_a_package_passes_its_own_tests(installed: Path, request, tmp_path: Path):
    folder = EXAMPLES / request.node.callspec.params["installed"] / "tests"
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)]
    assert "passed" in ran([*words, f"--rootdir={tmp_path}"], tmp_path, installed)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path):
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 4
    ran(["-c", "\n\n".join(code)], tmp_path)
    assert len(list((tmp_path / "runs" / "compared").glob("*/record.json"))) == 2


def test_the_notebook_holds_no_output():
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
