"""What an installation has that is no checkout: every file, and every command by its own name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("hierdiff", "baselines", "benchmarks")
MAINTAINERS = {  # commands that make what ships or are started by others; they have no script
    "benchmarks.cost.work",  # the process that measures, started by others
    "benchmarks.speed.work",
    "hierdiff.data.clips.make",
    "hierdiff.data.critters.make",
    "hierdiff.interop.isolated",  # the process that reads pickles, started by hierdiff.convert
    "hierdiff.plan.measure",  # the process that is measured
    "hierdiff.metrics.make_classifier",
}
BUILD = "import setuptools.build_meta as backend; print(backend.build_wheel('dist'))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def files() -> set[str]:
    """All that lies in the packages."""
    found = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix != ".pyc"}


MAKERS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "hierdiff").rglob("make*.py")
)


@pytest.mark.parametrize("module", MAKERS)
def test_what_makes_files_says_how_and_makes_none_when_asked_for_help(module, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        import_module(module).main(["--help"])
    assert "usage" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^2$"):
        import_module(module).main(["--foldr"])


@pytest.mark.slow
def test_a_wheel_has_every_file_of_the_packages(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        has = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert has == files()
    assert {
        "hierdiff/configs/train.yaml",
        "benchmarks/tables/published.csv",
        "hierdiff/py.typed",
    } <= has


@pytest.mark.slow
def test_an_installed_wheel_trains_samples_and_tables_away_from_the_checkout(wheel, tmp_path):
    site, place = tmp_path / "site", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    place.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "HIERDIFF_CACHE": str(tmp_path / "cache"),
        "JAXTYPING_DISABLE": "1",
    }

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        ran = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert str(site) in run(
        "-c", "import hierdiff, benchmarks, baselines; print(hierdiff.__file__)"
    )
    few = ("budget=smoke", "trainer.steps=2")
    assert "32x16" in run("-m", "benchmarks.run", "--dry-run", *few)
    run("-m", "hierdiff.train", *few, "name=alone")
    sampled = ("checkpoint=runs/alone/weights.safetensors", "n=2", "steps=2")
    run("-m", "hierdiff.sample", *sampled)
    assert (place / "samples" / "sheet.png").is_file()
    measured = ("measure.samples=8", "measure.seeds=[0]", "cost.repeats=0", "trainer.snapshots=0")
    run("-m", "benchmarks.run", *few, *measured)
    assert "CDM" in run("-m", "benchmarks.tables", "runs", "--published", "resolution=64")
    run("-m", "benchmarks.report", "runs")
    assert (place / "report" / "index.html").is_file()
    assert "cascaded" in run("-m", "hierdiff.list", "methods")


# -- console scripts -------------------------------------------------------------------------------


def modules() -> set[str]:
    """Modules with a command in them."""
    found = set()
    for path in sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        if re.search(r'^if __name__ == "__main__":', path.read_text("utf-8"), re.MULTILINE):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.add(name)
    return found


def test_every_command_has_a_script():
    have = {entry.partition(":")[0] for entry in PROJECT["scripts"].values()}
    assert have | MAINTAINERS == modules()


@pytest.mark.parametrize("entry", PROJECT["scripts"].values(), ids=PROJECT["scripts"])
def test_a_script_says_what_it_is_for(entry: str, monkeypatch, capsys):
    module, _, name = entry.partition(":")
    main = getattr(import_module(module), name)
    monkeypatch.setattr(sys, "argv", ["hierdiff", "--help"])
    try:
        ended = main()
    except SystemExit as stop:
        ended = stop.code
    out = capsys.readouterr().out
    assert ended in (None, 0)
    first = out.partition("powered by Hydra")[0]
    assert re.search(r"[a-z]{3,} [a-z]+ [a-z]+", first), "it says nothing of its own"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["method=mdm"], ["-m", "method=mdm,end_to_end"]])
def test_the_script_of_a_run_does_as_its_module(words: list[str], tmp_path: Path):
    code = "import sys; from benchmarks.run import launch; sys.exit(launch())"
    said = [
        subprocess.run(
            [*command, *words, "budget=smoke", "--dry-run"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for command in ([sys.executable, "-c", code], [sys.executable, "-m", "benchmarks.run"])
    ]
    own, module = (re.sub(r"^\[\d.*", "", text, flags=re.MULTILINE) for text in said)  # of a clock
    assert own == module
    assert "32x16" in own
