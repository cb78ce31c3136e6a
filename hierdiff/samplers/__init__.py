"""Samplers: a file for each step rule, and `integrate`, the only loop."""

from hierdiff.samplers import ancestral, ddim, dpmpp_2m, heun  # noqa: F401  (they register)
from hierdiff.samplers.grids import grids
from hierdiff.samplers.integrate import Sampler, integrate, samplers

__all__ = ["Sampler", "grids", "integrate", "samplers"]
