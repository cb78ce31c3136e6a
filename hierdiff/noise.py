"""Where randomness enters: `noise(shape) -> Tensor` of independent standard normals.

A source is a function, so that the same code runs from one generator, from one generator per
example (the draw of an example then depends on neither batch size nor process count), or from
prepared tensors in a test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Noise = Callable[[Sequence[int]], Tensor]


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any parts, the same on every machine: `seed_of(seed, "draws", step)`."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by `seed_of(*parts)`."""
    return torch.Generator(device).manual_seed(seed_of(*parts))


def from_generator(
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Noise:
    """A source that draws all examples from one generator."""

    def noise(shape: Sequence[int]) -> Tensor:
        drawn = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
        return drawn.to(device)

    return noise


def per_example(
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Noise:
    """A source that draws example i from its own generator, seeded with `seeds[i]`.

    Raises:
        ValueError: by the source, for a batch of another size than `seeds`.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise(shape: Sequence[int]) -> Tensor:
        if shape[0] != len(generators):
            raise ValueError(
                f"noise for {shape[0]} examples from {len(generators)} seeds: give one seed each"
            )
        rows = [torch.randn(tuple(shape[1:]), generator=g, dtype=dtype) for g in generators]
        return torch.stack(rows).to(device)

    return noise


def from_tensors(tensors: Sequence[Tensor]) -> Noise:
    """A source that returns the tensors one after another.

    Raises:
        ValueError: by the source, where a tensor does not have the requested shape.
    """
    rest: Iterator[Tensor] = iter(tensors)

    def noise(shape: Sequence[int]) -> Tensor:
        tensor = next(rest)
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"the next noise has shape {tuple(tensor.shape)}, not {tuple(shape)}")
        return tensor

    return noise
