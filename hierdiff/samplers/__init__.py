"""Samplers: a file for each step rule, and `integrate`, the only loop."""

from hierdiff.samplers import (  # noqa: F401  (they register)
    ancestral,
    ddim,
    dpmpp_2m,
    euler_maruyama,
    heun,
)
from hierdiff.samplers.grids import grids
from hierdiff.samplers.integrate import Sampler, integrate, samplers

__all__ = ["Sampler", "grids", "integrate", "samplers"]
