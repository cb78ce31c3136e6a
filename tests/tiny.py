"""Small instances of registered parts for the contracts, read off their constructors' signatures.

A new part is covered without a line here as long as its options have defaults or names known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hierdiff.batch import Batch, Cond
from hierdiff.denoisers import Denoiser, denoisers
from hierdiff.levels import Levels
from hierdiff.methods import Method, methods
from hierdiff.noise import from_generator
from hierdiff.training.published import FILES

SIDES = (16, 8, 4)
CLASSES, WIDTH, LENGTH = 3, 6, 4
KINDS = ("unconditional", "class", "text", "class and text")
kinds = pytest.mark.parametrize("kind", KINDS)
# with all conditions at once; with fewer in slow tests
swept_kinds = pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[:-1]), KINDS[-1]]
)

# a value for each option that makes a network small, used where the signature names it
SMALL = {
    "width": 16,
    "multiples": (1, 2),
    "blocks": 1,
    "attention": (0, 1),
    "heads": 2,
    "groups": 4,
    "depth": 1,
    "patch": 2,
    "space_experts": 2,
    "time_experts": 2,
    "gate_noise": 1.0,
    "image_size": 16,
    "resolution": 16,
    "resolutions": [16],
}
OUTER = {"multiples": (1, 1), "attention": 0}


def facts(kind: str) -> dict[str, int]:
    return {
        "channels": 3,
        "classes": CLASSES if "class" in kind else 0,
        "text_width": WIDTH if "text" in kind else 0,
        "text_length": LENGTH if "text" in kind else 0,
    }


def denoiser_node(name: str, depth: int = 1) -> dict:
    """`depth` levels where the constructor takes an `inner`, else one."""
    parameters = inspect.signature(denoisers.get(name)).parameters
    node = {"name": name, **{k: v for k, v in SMALL.items() if k in parameters}}
    if depth > 1 and "inner" in parameters:
        outer = {k: v for k, v in OUTER.items() if k in parameters}
        node |= {**outer, "inner": denoiser_node(name, depth - 1)}
    return node


def denoiser(name: str, kind: str = "unconditional", depth: int = 1) -> Denoiser:
    return randomised(denoisers.build(denoiser_node(name, depth), offered=facts(kind)))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight moved, so that nothing initialised to zero hides what lies behind it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def cond(kind: str, n: int, seed: int = 0) -> Cond:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % (CLASSES + 1) - 1 if "class" in kind else None
    if "text" not in kind:
        return Cond(labels=labels)
    tokens = torch.randn(n, LENGTH, WIDTH, generator=generator)
    mask = torch.arange(LENGTH)[None] < torch.arange(n)[:, None] + 1
    return Cond(labels=labels, tokens=tokens * mask[..., None], mask=mask)


def state(levels: int, n: int, seed: int = 0, rank: int = 2) -> tuple[Levels, Tensor]:
    """Noisy levels, the coarsest at 8 px or more, and their log-SNRs; of rank 3: clips, the
    coarsest of two frames."""
    generator = torch.Generator().manual_seed(seed)
    sides = [8 * 2**i for i in reversed(range(levels))]
    shapes = [((side // 4,) if rank == 3 else ()) + (side, side) for side in sides]
    x_t = tuple(torch.randn(n, 3, *shape, generator=generator) for shape in shapes)
    return x_t, torch.randn(n, levels, generator=generator)


@dataclass(frozen=True)
class Case:
    """A registered denoiser at a depth that it supports."""

    name: str
    depth: int

    def state(self, n: int) -> tuple[Levels, Tensor]:
        """As `state`; clips where the network takes them."""
        rank = denoisers.get(self.name).rank
        return state(self.depth, n, rank=max(rank) if isinstance(rank, tuple) else 2)

    def __str__(self) -> str:
        return f"{self.name}-{self.depth}"


def denoiser_cases() -> Iterator[Case]:
    """One name for each constructor."""
    names = {denoisers.get(name): name for name in denoisers.names()}
    for name in names.values():
        nests = "inner" in inspect.signature(denoisers.get(name)).parameters
        yield from (Case(name, depth) for depth in ((1, 2, 3) if nests else (1,)))


# Methods that are made of options; the others are made of files (tests/training).
METHODS = [name for name in methods.names() if name not in FILES]


def takes(name: str, *options: str) -> bool:
    """Whether the constructor of a method has these options."""
    return {*options} <= {*inspect.signature(methods.get(name)).parameters}


# Those among them that go through steps of a sampler.
SAMPLED = [name for name in METHODS if takes(name, "sampling")]


def method_node(name: str, resolutions: tuple[int, ...] | None = None, **options) -> dict:
    """With as many resolutions as the method takes, joint in one network if it can; a denoiser and
    a sampler where it has these."""
    parameters = inspect.signature(methods.get(name)).parameters
    small = {k: v for k, v in SMALL.items() if k in parameters and k in ("width", "blocks")}
    candidates = [resolutions] if resolutions else [SIDES[:2], SIDES[:1]]
    for sides, depth in [(some, n) for some in candidates for n in {len(some): 0, 1: 0}]:
        common = {"denoiser": denoiser_node("nested_unet", depth), "sampling": {"steps": 3}}
        common = {option: value for option, value in common.items() if option in parameters}
        node = {"name": name, "resolutions": list(sides), **small, **common, **options}
        try:
            methods.build(node)
        except ValueError as error:
            refused = error
            continue
        return node
    raise refused


def method(name: str, kind: str = "class", seed: int = 0, **options) -> Method:
    torch.manual_seed(seed)
    return methods.build(method_node(name, **options), offered=facts(kind))


def batch(kind: str, n: int = 4, side: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(11)
    return Batch(torch.rand(n, 3, side, side, generator=generator) * 2 - 1, cond(kind, n))


def noise(seed: int = 0):
    return from_generator(torch.Generator().manual_seed(seed))


def count_evaluations(network: nn.Module, calls: list[int], rows: int = 2) -> RemovableHandle:
    """Adds a 1 to `calls` for each `rows` of a call: guidance may have both passes in one."""
    return network.register_forward_hook(
        lambda _, given, out: calls.extend([1] * (len(given[0][0]) // rows))
    )
