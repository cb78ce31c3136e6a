"""The Fréchet distance by the nuclear norm of features, whatever the number of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def frechet(x: Tensor, y: Tensor) -> float:
    """|m1 - m2|² + tr S1 + tr S2 - 2 |A Bᵀ|_*, where S1 = Aᵀ A and S2 = Bᵀ B; x, y: n d."""
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    a, b = ((z - z.mean(dim=0)) / math.sqrt(len(z) - 1) for z in (x, y))
    shift = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    root = torch.linalg.matrix_norm(a @ b.T, ord="nuc")
    return float((shift + a.square().sum() + b.square().sum() - 2 * root).clamp(min=0))
