"""Training: one loop on Lightning Fabric, averages of weights, checkpoints that resume exactly."""

from hierdiff.training.check import check
from hierdiff.training.checkpoint import load_method
from hierdiff.training.loop import Summary, train
from hierdiff.training.recipe import Recipe

__all__ = ["Recipe", "Summary", "check", "load_method", "train"]
