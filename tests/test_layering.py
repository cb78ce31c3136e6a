"""A module imports only what lies below it; the arrows are kept by reading imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

import baselines
from tests.benchmarks.rows import quality, record

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hierdiff", "baselines", "benchmarks")

# From low to high. A name stands for a module and all that is in it; a line may import from itself
# and from the lines above it.
ORDER = (
    ("hierdiff.options", "hierdiff.heap"),
    ("hierdiff.resolution",),
    (
        *("hierdiff.registry", "hierdiff.trust", "hierdiff.batch", "hierdiff.noise"),
        *("hierdiff.config", "hierdiff.files", "hierdiff.processes"),
    ),
    ("hierdiff.sheets",),
    ("hierdiff.levels", "hierdiff.schedules", "hierdiff.images"),
    ("hierdiff.process", "hierdiff.parameterization", "hierdiff.codec"),
    ("hierdiff.bands",),
    (
        *("hierdiff.objective", "hierdiff.guidance", "hierdiff.samplers", "hierdiff.denoisers"),
        "hierdiff.solve",
        "hierdiff.exact",
        *("hierdiff.data", "hierdiff.text", "hierdiff.inputs", "hierdiff.native"),
    ),
    ("hierdiff.methods",),
    (
        *("hierdiff.training", "hierdiff.metrics", "hierdiff.interop", "hierdiff.command"),
        "hierdiff.resolvers",
    ),
    (
        *("hierdiff.train", "hierdiff.sample", "hierdiff.convert", "hierdiff.loader"),
        "hierdiff.fetch",
        *("hierdiff.prepared", "hierdiff.given", "hierdiff.sampled"),
        *("hierdiff.results", "hierdiff.list", "hierdiff.pretrained"),
    ),
    ("hierdiff.plan",),
    (
        "baselines",
        *("benchmarks.conditions", "benchmarks.device", "benchmarks.naming"),
        *("benchmarks.progress", "benchmarks.settings"),
    ),
    ("benchmarks.cost", "benchmarks.tables"),
    ("benchmarks.plan",),
    ("benchmarks.measure",),
    ("benchmarks.sweep", "benchmarks.report"),
    ("benchmarks",),
)
APART = (  # who never imports whom, whatever the order says
    ("hierdiff.denoisers", "hierdiff.process"),
    ("hierdiff.denoisers", "hierdiff.samplers"),
    ("hierdiff.samplers", "hierdiff.denoisers"),
    ("hierdiff", "baselines"),
    ("hierdiff", "benchmarks"),
    ("benchmarks", "baselines"),
    ("baselines", "benchmarks"),
)
ENTRY_POINTS = (  # who may import hydra
    *("hierdiff.command", "hierdiff.resolvers", "hierdiff.plan.shown", "benchmarks.naming"),
    *("benchmarks.sweep.launch", "benchmarks.sweep.shared", "benchmarks.sweep.job"),
    *("benchmarks.sides", "benchmarks.speed.layouts"),
)
HEAVY = (
    *("timm", "torchvision", "torchmetrics", "torch_fidelity", "transformers"),
    *("hydra", "omegaconf", "lightning_fabric", "matplotlib", "pandas", "tensorboard"),
    *("wandb", "mlflow", "trackio", "huggingface_hub"),
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Full names of what a module imports anywhere in it; `from a import b` gives `a.b`."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def rank(module: str) -> int | None:
    ranks = [i for i, line in enumerate(ORDER) for name in line if within(module, name)]
    return ranks[0] if ranks else None


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_place_in_the_order(module: str):
    assert module == "hierdiff" or rank(module) is not None


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_lies_below_it(module: str):
    own = rank(module)
    if own is None:  # `import hierdiff` itself, on which everything stands
        assert not [name for name in imports(module) if within(name, "hierdiff")]
        return
    above = [name for name in imports(module) if (found := rank(name)) is not None and found > own]
    assert not above, f"{module} imports {above}, which lie above it"


@pytest.mark.parametrize(("who", "whom"), APART)
def test_these_never_import_each_other(who: str, whom: str):
    found = [
        (module, name)
        for module in FILES
        if within(module, who)
        for name in imports(module)
        if within(name, whom)
    ]
    assert not found


def texts(module: str) -> Iterator[str]:
    """Strings of a module that are no docstring."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(module)):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("module", [m for m in FILES if not within(m, "baselines")])
def test_no_baseline_is_named_outside_the_baselines(module: str):
    names = {m.split(".")[1] for m in FILES if m.startswith("baselines.")} | {"baselines"}
    assert not names & set(texts(module))


def test_every_baseline_that_registers_is_loaded_as_a_plugin():
    reached, ahead = set[str](), list(baselines.hierdiff_plugins)
    while ahead:
        module = ahead.pop()
        reached.add(module)
        names = [name for one in imports(module) for name in (one, one.rpartition(".")[0])]
        ahead += [
            name for name in names if within(name, "baselines") and name in FILES.keys() - reached
        ]
    registering = {
        m for m in FILES if within(m, "baselines") and ".register(" in FILES[m].read_text()
    }
    assert registering <= reached


@pytest.mark.parametrize("module", FILES)
def test_only_entry_points_know_hydra(module: str):
    if module not in ENTRY_POINTS and not module.endswith("__main__"):
        known = [n for n in imports(module) if within(n, "hydra") or within(n, "omegaconf")]
        assert not known


def test_import_hierdiff_loads_no_heavy_library():
    light = [m for m in FILES if (rank(m) or 0) <= 3 and within(m, "hierdiff")]
    code = f"import sys, {', '.join(light)}\nprint(*(set(sys.modules) & {set(HEAVY)!r}))\n"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == ""


SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
# what an installed command is for, its `--help` says without what takes seconds to load
LIGHT = [script.partition(":")[0].removesuffix(".__main__") for script in SCRIPTS]
SLOW = {"torch", "scipy.stats", "pandas", "matplotlib", "lightning_fabric"}


RUN = f"""
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, words
    loaded = {SLOW!r} & set(sys.modules)
    print()
    print("loaded:", *words, "/", *loaded)
"""


def loaded(*commands: Sequence[str]) -> dict[str, set[str]]:
    """What of `SLOW` is loaded after each of these commands, in one process, by their modules."""
    command = [sys.executable, "-c", RUN, json.dumps(commands)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split() for line in ran.stdout.splitlines() if line.startswith("loaded: ")]
    return {line[1]: set(line[line.index("/") + 1 :]) for line in lines}


def test_help_loads_nothing_slow():
    assert loaded(*[(module, "--help") for module in LIGHT]) == {module: set() for module in LIGHT}


def test_tables_load_nothing_slow(tmp_path: Path):
    for name in ("mdm", "end_to_end"):
        record(name, quality=(quality(8, "native", 2.0),)).write(tmp_path / name)
    forms = ("markdown", "latex", "terminal", "csv")
    words = [("benchmarks.tables", str(tmp_path), f"--format={form}") for form in forms]
    words.append(("benchmarks.report", str(tmp_path), "-o", str(tmp_path / "report")))
    assert loaded(*words) == {"benchmarks.tables": set(), "benchmarks.report": set()}


def test_the_reader_of_imports_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "m.py").write_text(
        "import a.b\nfrom c import d, e as f\nfrom . import g\nfrom ..h import i\n"
        "def late():\n    from j import k\n"
    )
    monkeypatch.setitem(FILES, "p.q.m", tmp_path / "m.py")
    assert list(imports("p.q.m")) == ["a.b", "c.d", "c.e", "p.q.g", "p.h.i", "j.k"]
