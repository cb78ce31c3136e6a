"""Docstrings of public names: each has one, and says under `Raises:` which errors it raises."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    p for name in ("hierdiff", "baselines", "benchmarks") for p in ROOT.glob(f"{name}/**/*.py")
)
IN_PROSE = re.compile(r"Error (for|where|is raised)|raises? \w*Error")


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Classes, functions and methods without an underscore, but for overrides."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if "override" not in map(ast.unparse, node.decorator_list):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_public_name_is_described_and_its_errors_stand_under_raises(path: Path):
    for node in public(ast.parse(path.read_text(encoding="utf-8")).body):
        text = ast.get_docstring(node)
        assert text, f"{node.name} has no docstring"
        prose = text.partition("Raises:")[0]
        assert not IN_PROSE.search(prose), f"{node.name}: {prose}"
