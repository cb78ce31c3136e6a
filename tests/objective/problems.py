"""A joint state of two levels, a network that keeps what it sees, and its loss."""

import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.noise import from_generator
from hierdiff.objective import (
    Draws,
)
from hierdiff.process import VariancePreserving
from hierdiff.schedules import Cosine, Shifted

PROCESS = VariancePreserving([Shifted(Cosine(), 4, 2, 1.0), Cosine()])
ONE = VariancePreserving([Cosine()])
B = 4
NONE = Cond()


class Guess(Denoiser):
    """Each level times a number plus its log-SNR: uses all of its inputs, and keeps them."""

    levels = 2

    def __init__(self, losses=None):
        super().__init__()
        self.factor, self.losses, self.told = nn.Parameter(torch.tensor(0.4)), losses, []

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        self.told.append((x_t, log_snr, cond))
        levels = tuple(
            self.factor.to(x.dtype) * x + 0.02 * log_snr[: len(x), i].reshape(-1, 1, 1, 1)
            for i, x in enumerate(x_t)
        )
        return Prediction(levels, losses=self.losses)


def noise(seed=0, dtype=torch.float64):
    return from_generator(torch.Generator().manual_seed(seed), dtype=dtype)


def problem(rows=B, t=None):
    draw = noise(1)
    x0 = draw((rows, 3, 4, 4)), draw((rows, 3, 2, 2))
    eps = draw((rows, 3, 4, 4)), draw((rows, 3, 2, 2))
    t = torch.linspace(0.1, 0.9, rows, dtype=torch.float64) if t is None else t
    return x0, Draws(t, eps, torch.zeros(rows, dtype=torch.bool))


def loss(objective, process=PROCESS, denoiser=None, x0=None, draws=None, cond=NONE):
    given_x0, given_draws = problem()
    return objective(process, denoiser or Guess(), x0 or given_x0, cond, draws or given_draws)
