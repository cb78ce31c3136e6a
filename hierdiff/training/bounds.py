"""A method out of a file is built no larger than the file's own tensors.

A config may say `width: 1000000` or `blocks: 1000000000`. The method is built on the meta device
first, where a tensor takes no memory, and its parts are counted while they are made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from hierdiff.config import check_depth
from hierdiff.inputs import leaves
from hierdiff.methods import Method, methods, on_shapes

Shapes = Mapping[str, Sequence[int]]
NUMBER = 1 << 20  # a number in a config may be so large, or as large as all tensors together
SPARE = 1000  # parts that a method may make beside those that are kept


def built(
    config: Mapping[str, Any], source: Path, shapes: Shapes | None = None, *, real: bool = True
) -> Method:
    """The method of a config that comes from the file `source`, on the meta device unless `real`.

    shapes: of its tensors, by name; None where they are not known, and the memory of this machine
    is the bound.

    Raises:
        ValueError: before memory is taken, where the config describes no method or one of another
            size.
        OSError: of a file that the config names.
        ImportError: of a package that the config needs.
    """
    if shapes is None:
        count, elements = 100_000, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    else:
        count, elements = len(shapes), sum(map(math.prod, shapes.values()))
    check_depth(config, source)
    _check_numbers(config, max(NUMBER, elements if shapes is not None else 0), source)
    _check_text(config, source)
    try:
        with _at_most(4 * count + SPARE, 4 * elements + NUMBER):
            method = on_shapes(config["method"], offered=config["facts"])
            if shapes is not None:
                check_shapes(method, shapes, source)
            return methods.build(config["method"], offered=config["facts"]) if real else method
    except (OSError, ImportError):
        raise
    except Exception as error:  # whatever a value of the wrong type leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason.startswith(str(source)):
            raise
        reason = reason if len(reason) < 1000 else f"{reason[:1000]}..."
        raise ValueError(f"{source} describes no method that can be built: {reason}") from error


def check_shapes(method: Method, shapes: Shapes, source: Path) -> None:
    """Checks that the tensors of a method have these names and shapes.

    Raises:
        ValueError: names the first tensor that is absent, unknown or of another shape.
    """
    own = tensors_of(method)
    for name in sorted(own.keys() ^ shapes.keys()):
        side = "lacks" if name in own else "has an unknown"
        raise ValueError(f"{source} {side} tensor {name!r}: it belongs to another method")
    for name, tensor in own.items():
        if tuple(shapes[name]) != tuple(tensor.shape):
            raise ValueError(
                f"{source}: {name!r} has shape {tuple(shapes[name])}, the method "
                f"{tuple(tensor.shape)}: it belongs to another method"
            )


def tensors_of(method: Method) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; one that several parts share is there once."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in method.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


@contextmanager
def _at_most(parts: int, elements: int) -> Iterator[None]:
    """Inside, modules register at most so many tensors and elements, and ten times as many modules.

    Raises:
        ValueError: at the first one too many.
    """
    left = {"tensors": parts, "elements": elements, "modules": 10 * parts}

    def take(**amounts: int) -> None:
        for what, amount in amounts.items():
            left[what] -= amount
            if left[what] < 0:
                raise ValueError(f"it has more {what} than its file")

    def tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is not None:
            take(tensors=1, elements=value.numel())

    def child(module: nn.Module, name: str, value: nn.Module | None) -> None:
        take(modules=1)

    with ExitStack() as held:
        held.enter_context(hooks.register_module_parameter_registration_hook(tensor))
        held.enter_context(hooks.register_module_buffer_registration_hook(tensor))
        held.enter_context(hooks.register_module_module_registration_hook(child))
        yield


def _check_numbers(config: Mapping[str, Any], largest: int, source: Path) -> None:
    for place, value in leaves({part: config.get(part) for part in ("method", "facts", "text")}):
        if isinstance(value, (int, float)) and largest < abs(value) < math.inf:
            raise ValueError(
                f"{source} says {place}={value}, more than {largest}: no part of a method of this "
                f"size is so large"
            )


def _check_text(config: Mapping[str, Any], source: Path) -> None:
    text, facts = config.get("text"), config["facts"]
    for name in ("width", "length"):
        stated = facts.get(f"text_{name}") if isinstance(facts, Mapping) else None
        own = text.get(name) if isinstance(text, Mapping) else None
        if own is not None and stated is not None and own != stated:
            raise ValueError(
                f"{source} says text.{name}={own} and facts.text_{name}={stated}: use a file that "
                f"hierdiff wrote"
            )
