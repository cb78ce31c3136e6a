"""A prediction solved for x0 and eps, in the loss and in sampling by the same function."""

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.noise import from_generator
from hierdiff.parameterization import PREDICTIONS, Parameterization, target
from hierdiff.process import VariancePreserving
from hierdiff.schedules import Cosine, Shifted
from hierdiff.solve import solve

PROCESS = VariancePreserving([Shifted(Cosine(-40, 40), 4, 2), Cosine(-40, 40)])


class Perfect(Denoiser):
    """Predicts from the x0 and eps that it is given, and keeps what it sees."""

    levels = 2

    def __init__(self, kind, x0, eps, t):
        super().__init__()
        columns = zip(x0, eps, t.alpha.T, t.sigma.T, strict=True)
        self.out = tuple(target(kind, x, e, a[:, None, None, None], s[:, None, None, None], 0.5)
                         for x, e, a, s in columns)  # fmt: skip

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        self.seen, self.log_snr = x_t, log_snr
        return Prediction(self.out, carry=carry)


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
@pytest.mark.parametrize("scale", ["none", "data", "sample"])
def test_a_perfect_prediction_of_any_kind_is_solved_for_x0_and_eps(kind, scale):
    noise = from_generator(torch.Generator().manual_seed(0), dtype=torch.float64)
    x0, eps = ((noise((3, 2, 4, 4)), noise((3, 2, 2, 2))) for _ in "xe")
    times = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    t = PROCESS.moment(times)
    denoiser, parameterization = Perfect(kind, x0, eps, t), Parameterization(kind, scale)
    x_t = PROCESS.corrupt(x0, eps, times)
    found = solve(denoiser, parameterization, x_t, t, Cond(), carry="kept")
    for level, wanted in zip((*found.x0, *found.eps), (*x0, *eps), strict=True):
        torch.testing.assert_close(level, wanted)
    assert found.prediction.carry == "kept"
    wanted = parameterization.scaled(x_t, t.alpha, t.sigma)
    assert all(map(torch.equal, denoiser.seen, wanted))


def test_the_network_is_given_log_snrs_within_30():
    times = torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)
    t = PROCESS.moment(times)
    x = torch.zeros(2, 1, 4, 4).double(), torch.zeros(2, 1, 2, 2).double()
    denoiser = Perfect("v", x, x, t)
    solve(denoiser, Parameterization("v"), x, t, Cond())
    assert float(t.log_snr.max()) > 30 and float(denoiser.log_snr.max()) == 30
    assert float(t.log_snr.min()) < -30 and float(denoiser.log_snr.min()) == -30
