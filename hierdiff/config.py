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


def folder_of_configs() -> str:
    """`configs/` of the checkout."""
    return str(Path(__file__).resolve().parents[1] / "configs")
