"""What entry points share: errors in one line, and the resolved config as a file.

Exit codes: 1 for an error, 130 for Ctrl-C and SIGTERM. HIERDIFF_TRACEBACK=1 shows where an error
came from.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")
LARGEST = 1 << 24  # bytes of a config
DEEPEST = 60  # options in options

EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, TypeError)


def reported(main: Callable[..., R]) -> Callable[..., R]:
    """`main` as the body of a command: messages go to stderr, expected errors as one line."""

    @functools.wraps(main)
    def command(*args: Any, **kwargs: Any) -> R:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
        # Fabric announces its precision: the record says it
        logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted", file=sys.stderr)
            sys.exit(130)
        except EXPECTED as error:
            if os.environ.get("HIERDIFF_TRACEBACK") == "1" or _is_bug(error):
                raise
            print(f"error: {_one_line(error)}", file=sys.stderr)
            sys.exit(1)

    return command


def _is_bug(error: BaseException) -> bool:
    """A TypeError from the registry speaks to the user; any other one is ours to mend."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_by = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, TypeError) and raised_by != "hierdiff.registry"


def _one_line(error: BaseException) -> str:
    text = str(error) if not isinstance(error, OSError) or error.errno is None else _system(error)
    return " ".join(text.split()) or type(error).__name__


def _system(error: OSError) -> str:
    place = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{place}"


def to_yaml(node: Mapping[str, Any]) -> bytes:
    import yaml

    return yaml.safe_dump(dict(node), sort_keys=False, allow_unicode=True).encode()


def from_yaml(path: Path) -> dict[str, Any]:
    """The config in a file that somebody else may have written: plain values, without aliases.

    Errors: OSError, and ValueError for a file that is too large, too deep or no config.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not read")
            return super().compose_node(parent, index)

    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        node = yaml.load(text.decode(), Loader)  # noqa: S506  (a SafeLoader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            f"{path} is no config of a run ({_one_line(error)}): copy it again from its run"
        ) from error
    if not isinstance(node, dict):
        raise ValueError(f"{path} is no config of a run: it holds a {type(node).__name__}")
    check_depth(node, path)
    return node


def check_depth(node: Any, source: Path) -> None:
    """ValueError where lists and mappings stand more than `DEEPEST` in each other."""
    layer = [node]
    for _ in range(DEEPEST):
        children = [v.values() if isinstance(v, Mapping) else v for v in layer if _holds(v)]
        layer = [child for row in children for child in row]
        if not layer:
            return
    raise ValueError(f"{source} nests more than {DEEPEST} lists and options: no run does that")


def _holds(node: Any) -> bool:
    return isinstance(node, (Mapping, list, tuple))


def folder_of_configs() -> str:
    """`configs/` of the checkout."""
    return str(Path(__file__).resolve().parents[1] / "configs")
