"""Training: one loop on Lightning Fabric, averages of weights, checkpoints that resume exactly."""

from hierdiff.training import distilled as distilled  # registers
from hierdiff.training import published as published  # registers
from hierdiff.training.check import check_run
from hierdiff.training.load import load_method
from hierdiff.training.recipe import Recipe
from hierdiff.training.run import Summary, train

__all__ = ["Recipe", "Summary", "check_run", "load_method", "train"]
