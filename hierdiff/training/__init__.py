"""Training: one loop on Lightning Fabric, averages of weights, checkpoints that resume exactly."""

from hierdiff.training.checkpoint import load_method
from hierdiff.training.loop import Summary, train
from hierdiff.training.recipe import Recipe

__all__ = ["Recipe", "Summary", "load_method", "train"]
