"""What can be chosen by name: every registered part with its options, defaults and source.

python -m hierdiff.list                      all roles, and how many parts each has
python -m hierdiff.list denoisers samplers   the parts of these roles
python -m hierdiff.list unet                 one part, whatever its role: options and description
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hierdiff.options import parameters
from hierdiff.registry import load_plugins, suggest
from hierdiff.registry import roles as registries

PAPER = re.compile(r"arXiv[ :]\d{4}\.\d{4,5}(?:v\d+)?")
SYNONYMS = {"data": "datasets"}


def parts() -> dict[str, Mapping[str, Callable[..., Any]]]:
    """Constructors by name, by the plural of their role: `{"denoisers": {"unet": UNet, ...}}`."""
    # roles whose modules no plugin needs
    from hierdiff import data, text  # noqa: F401
    from hierdiff.interop import conversion  # noqa: F401
    from hierdiff.metrics import extractors, perceptual  # noqa: F401
    from hierdiff.metrics.table import METRICS

    load_plugins()
    known = {plural(role): {name: r.get(name) for name in r} for role, r in registries().items()}
    return {**known, "metrics": {name: metric.compute for name, metric in METRICS.items()}}


def plural(role: str) -> str:
    """`time density` to `time-densities`, as the command line takes it."""
    ending = re.sub(r"y$", "ie", role)
    return f"{ending}{'es' if ending.endswith('s') else 's'}".replace(" ", "-")


def description(entry: Callable[..., Any]) -> str:
    """The first sentence of the docstring, its line breaks removed; "" where there is none."""
    text = _documentation(entry).partition("\n\n")[0]
    return re.split(r"(?<=[.])\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".")


def paper_of(entry: Callable[..., Any]) -> str:
    """The first paper that the docstring names, else that of its module, else nothing."""
    module = inspect.getmodule(entry)
    for text in (_documentation(entry), inspect.getdoc(module) or ""):
        if paper := PAPER.search(text):
            return paper.group()
    return ""


def _documentation(entry: Callable[..., Any]) -> str:
    own = entry.__doc__ or ""
    generated = own.startswith(f"{getattr(entry, '__name__', '')}(")  # by `dataclass`
    return "" if generated else inspect.cleandoc(own)


def options(entry: Callable[..., Any]) -> dict[str, str]:
    """Defaults of the options by name, as YAML has them; `required` where there is none."""
    return {
        name: "required" if option.default is option.empty else _value(option.default)
        for name, option in parameters(entry).items()
        if option.kind in (option.KEYWORD_ONLY, option.POSITIONAL_OR_KEYWORD)
        and name != "view"  # of a metric: what it is made of
    }


def _value(default: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if default is None or isinstance(default, bool):
        return words[default]
    if isinstance(default, (tuple, list)):
        return f"[{', '.join(map(_value, default))}]"
    for registry in registries().values():
        name = registry.name_of(default)
        if name is not None:
            return "{}" if name == registry.default else f"{{name: {name}}}"
    return str(default) if isinstance(default, (int, float, str, dict)) else "its own"


def table(role: str, entries: Mapping[str, Callable[..., Any]]) -> Table:
    """One line for each part: name, description, options with their defaults, source."""
    lines = Table(title=role, title_justify="left", show_lines=False, expand=False)
    for heading in ("name", "what it is", "options", "source"):
        lines.add_column(heading, overflow="fold")
    for name, entry in sorted(entries.items()):
        takes = ", ".join(f"{key}={value}" for key, value in options(entry).items())
        lines.add_row(name, *map(escape, (description(entry), takes, paper_of(entry))))
    return lines


def overview(roles: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line for each role: its parts by name."""
    lines = Table(show_header=True, expand=False)
    for heading in ("role", "names"):
        lines.add_column(heading, overflow="fold")
    for role, entries in roles.items():
        lines.add_row(role, ", ".join(sorted(entries)))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 for a name that nothing has."""
    parser = argparse.ArgumentParser(
        "hierdiff.list", description="Shows what can be chosen by name, with options and sources."
    )
    parser.add_argument("names", nargs="*", metavar="ROLE|NAME", help="without one, an overview")
    chosen = parser.parse_args(arguments).names
    roles = parts()
    console = Console()
    console.width = console.width if console.is_terminal else 160
    if not chosen:
        console.print(overview(roles))
    for word in chosen:
        role = SYNONYMS.get(word, word)
        single = {f"{name} ({kind})": entries[name] for kind, entries in roles.items()
                  for name in entries if name == word}  # fmt: skip
        if role in roles:
            console.print(table(role, roles[role]))
        elif single:
            for label, entry in single.items():
                console.print(table(label, {word: entry}))
                console.print(escape(_documentation(entry)))
        else:
            known = {*roles, *SYNONYMS, *(name for entries in roles.values() for name in entries)}
            near = suggest(word, known) or ","
            print(
                f"error: no role or part {word!r}{near} roles: {', '.join(roles)}", file=sys.stderr
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
