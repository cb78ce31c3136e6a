"""Pages that are made when the site is built: the API reference, and the parts that have a name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hierdiff", "baselines")
PARTS = """# Parts by name

What `name=` may be, role by role, as `python -m hierdiff.list ROLE` shows it. An option without a
default is *required*; facts of the data, such as `channels`, are given by the data.
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    pages = [{name: f"reference/{name}.md"} for name, _ in rooms()]
    assert config.nav is not None
    config.nav.append({"Reference": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {f"reference/{name}.md": reference(name, place) for name, place in rooms()}
    for path, text in {**made, "parts.md": parts()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def rooms() -> Iterator[tuple[str, Path]]:
    """Name and place of what has a page: the modules and packages directly in ours."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).iterdir()):
            inside = path / "__init__.py" if path.is_dir() else path
            if inside.suffix == ".py" and inside.is_file() and path.name != "__init__.py":
                yield f"{package}.{path.stem}", path


def reference(name: str, place: Path) -> str:
    """The page of a module, or of a package and the modules in it."""
    lines = [f"# {name}", ""]
    if not place.is_dir():
        return "\n".join([*lines, directive(name, level=2, heading=False)])
    lines += [ast.get_docstring(ast.parse((place / "__init__.py").read_text("utf-8"))) or "", ""]
    for path in sorted(place.rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            lines += [directive(module, level=2), ""]
    return "\n".join(lines)


def directive(module: str, *, level: int, heading: bool = True) -> str:
    shown = str(heading).lower()
    return (
        f"::: {module}\n    options:\n"
        f"      heading_level: {level}\n      show_root_heading: {shown}\n"
    )


def parts() -> str:
    """Every registered part with its options, defaults and source."""
    from hierdiff import list as listing

    lines = [PARTS]
    for role, entries in listing.parts().items():
        lines += [f"## {role}", "", "| name | what it is | options | source |", "|---|---|---|---|"]
        for name, entry in sorted(entries.items()):
            options = ", ".join(f"`{k}={v}`" for k, v in listing.options(entry).items())
            cells = (f"`{name}`", listing.description(entry), options, listing.paper_of(entry))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)
