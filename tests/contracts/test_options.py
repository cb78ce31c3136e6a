"""Every option of every registered part: it has an annotation that is checked, and it is read."""

import ast
import dataclasses
import inspect
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import hierdiff.metrics.extractors  # noqa: F401  (registers)
import hierdiff.training  # noqa: F401  (registers)
from baselines.cascaded import StageOptions
from benchmarks.settings import GROUPS
from hierdiff.options import fits, hints, words
from hierdiff.registry import roles

ROOT = Path(__file__).resolve().parents[2]
OWN = ("hierdiff", "baselines", "benchmarks")


def entries() -> dict[str, Any]:
    """Every constructor of this project by its role and name."""
    found = {cls.__name__: cls for cls in (StageOptions, *GROUPS.values())}
    for role, registry in roles().items():
        for name in registry.names():
            entry = registry.get(name)
            if entry.__module__.partition(".")[0] in OWN:
                found[f"{role} {name}"] = entry
    return found


ENTRIES = entries()
each = pytest.mark.parametrize("what", ENTRIES)


@each
def test_every_option_has_an_annotation_that_can_be_checked(what):
    entry = ENTRIES[what]
    parameters = inspect.signature(entry).parameters
    assert not [name for name in parameters if hints(entry).get(name, Any) is Any]


@each
def test_every_default_fits_its_own_annotation(what):
    entry = ENTRIES[what]
    for name, parameter in inspect.signature(entry).parameters.items():
        if parameter.default is parameter.empty or type(parameter.default).__name__.startswith("_"):
            continue  # none, or the mark of a dataclass's factory
        kind = hints(entry)[name]
        assert fits(parameter.default, kind), f"{name}={parameter.default!r}: {words(kind)}"


def reads(entry: Any) -> set[str]:
    """Names that a constructor reads; of a dataclass, all attributes that the project reads."""
    if dataclasses.is_dataclass(entry):
        return attributes()
    function = inspect.unwrap(entry.__init__ if isinstance(entry, type) else entry)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@cache
def attributes() -> set[str]:
    found: set[str] = set()
    for package in OWN:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)  # options["name"]
    return found


@each
def test_every_option_is_read(what):
    entry = ENTRIES[what]
    assert set(inspect.signature(entry).parameters) <= reads(entry)
