"""Objectives: what a training step minimises."""

from hierdiff.objective.base import Objective, Teacher, objectives
from hierdiff.objective.bound import variational_bound
from hierdiff.objective.distillation import (
    Distillation,
    GuidanceDistillation,
    ProgressiveDistillation,
)
from hierdiff.objective.edges import EdgeSupervised
from hierdiff.objective.loss import Draws, Loss
from hierdiff.objective.score import ScoreMatching
from hierdiff.objective.times import TimeDensity, densities, uniforms
from hierdiff.objective.weights import Weight, weights

__all__ = [
    "Distillation",
    "Draws",
    "EdgeSupervised",
    "GuidanceDistillation",
    "Loss",
    "Objective",
    "ProgressiveDistillation",
    "ScoreMatching",
    "Teacher",
    "TimeDensity",
    "Weight",
    "densities",
    "objectives",
    "uniforms",
    "variational_bound",
    "weights",
]
