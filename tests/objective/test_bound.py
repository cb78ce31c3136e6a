"""The variational bound of a learned variance."""

import logging
import math

import pytest
import torch
from torch import nn

from hierdiff.objective import (
    Draws,
    ScoreMatching,
    variational_bound,
)
from hierdiff.process import Flow, VariancePreserving
from hierdiff.schedules import LinearBeta, LinearFlow
from tests.objective.problems import ONE, PROCESS, Guess, loss, noise, problem


class Unsure(Guess):
    """A guess with a variance that has a weight of its own."""

    learns_variance = True

    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(0.3))

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        out = super().forward(x_t, log_snr, cond)
        return out._replace(variance=tuple((self.width * x.double()).tanh() for x in x_t))


CHAIN = VariancePreserving([LinearBeta()])


def chain(step):
    """Coefficients of x0 and of x_t in the posterior's mean, its log-variance and log beta, written
    for 1000 integer steps from 0; the posterior of step 0 has the variance of step 1."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1).double(), bar[:-1]])
    variance = betas * (1 - before) / (1 - bar)
    of_x0 = betas * before.sqrt() / (1 - bar)
    of_x_t = (1 - before) * (1 - betas).sqrt() / (1 - bar)
    return of_x0[step], of_x_t[step], variance[max(step, 1)].log(), betas[step].log()


def bound_problem(seed=5):
    """x0 with both ends of the range, x_t, a guess and a variance."""
    draw = noise(seed)
    x0, x_t, guess, variance = (draw((1, 3, 4, 4)) for _ in range(4))
    x0 = (x0 * 0.5).clamp(-1, 1)
    x0[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    return x0, x_t, x0 + 0.003 * guess, variance.tanh()


def bound(x0, x_t, guess, variance, t, process=CHAIN, steps=1000):
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
    return variational_bound(process, (x0,), (x_t,), (guess,), (variance,), t, steps)[0]


@pytest.mark.parametrize("step", [1, 2, 499, 999])
def test_the_bound_is_that_of_a_chain_of_integer_steps(step):
    x0, x_t, guess, variance = bound_problem()
    of_x0, of_x_t, low, high = chain(step)
    share = (variance + 1) / 2
    posterior, model = (
        torch.distributions.Normal(of_x0 * x + of_x_t * x_t, (log / 2).exp())
        for x, log in ((x0, low), (guess, share * high + (1 - share) * low))
    )
    bits = torch.distributions.kl_divergence(posterior, model) / math.log(2)
    found = bound(x0, x_t, guess, variance, (step + 1) / 1000)
    rounding = 1e-16  # of terms about 1, whose sum is 5e-12 at the last step
    torch.testing.assert_close(found, bits.mean()[None], rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("t", [0.001, 0.0004])
def test_the_bound_of_the_first_step_is_the_likelihood_of_256_values(t):
    x0, x_t, guess, variance = bound_problem()
    _, _, low, high = chain(0)
    share = (variance + 1) / 2
    model = torch.distributions.Normal(guess, ((share * high + (1 - share) * low) / 2).exp())
    above = torch.where(x0 == 1, 1.0, model.cdf(x0 + 1 / 255))
    below = torch.where(x0 == -1, 0.0, model.cdf(x0 - 1 / 255))
    bits = -(above - below).clamp(min=1e-12).log2()
    found = bound(x0, x_t, guess, variance, t)
    torch.testing.assert_close(found, bits.mean()[None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("process", [CHAIN, ONE, Flow([LinearFlow()])])
def test_the_bound_is_zero_only_where_mean_and_variance_are_the_posteriors(process):
    x0, x_t, _, _ = bound_problem()
    small = -torch.ones_like(x0)
    for t in (0.1, 0.5, 0.9):
        found = [
            float(bound(x0, x_t, guess, variance, t, process, steps=20))
            for guess, variance in ((x0, small), (x0, small + 1), (x0 + 0.1, small))
        ]
        assert found[0] == pytest.approx(0, abs=1e-12) and min(found[1:]) > 1e-9


def test_the_best_variance_is_the_posteriors_and_the_squared_error_of_the_mean():
    of_x0, _, low, high = chain(20)
    wrong = 0.5 * (high.exp() - low.exp()).sqrt()  # of the mean: within the range
    best = ((low.exp() + wrong**2).log() - low) / (high - low) * 2 - 1
    assert -1 < float(best) < 1
    x0, x_t, _, _ = bound_problem()
    variance = torch.full_like(x0, float(best)).requires_grad_()
    bound(x0, x_t, x0 + wrong / of_x0, variance, 0.021).backward()
    assert variance.grad.abs().max() < 1e-9
    assert float(bound(x0, x_t, x0 + wrong / of_x0, variance.detach() + 0.1, 0.021)) > 0


def test_the_bound_stays_small_where_the_posterior_shrinks_to_a_point():
    """An error of a tenth of the noise, at times on both sides of the first step."""
    t = torch.linspace(1e-6, 0.004, 400, dtype=torch.float64)
    sigma = CHAIN.alpha_sigma(t)[1][:, :, None, None]
    x0 = torch.zeros(400, 1, 2, 2, dtype=torch.float64)
    found = bound(x0, x0, x0 + 0.1 * sigma, -torch.ones_like(x0), t)
    assert torch.isfinite(found).all() and float(found[t > 0.001].max()) < 0.1


def test_the_bound_moves_the_variance_and_nothing_else():
    gradients = []
    for vlb in (0.0, 1.0):
        denoiser = Unsure()
        loss(ScoreMatching(vlb=vlb), denoiser=denoiser).total.backward()
        gradients.append((denoiser.factor.grad, denoiser.width.grad))
    (plain, nothing), (same, moved) = gradients
    assert torch.equal(plain, same) and nothing is None and moved.abs() > 0


def test_the_bound_is_added_by_its_weight_and_that_of_its_level():
    plain = loss(ScoreMatching(level_weights=[3, 1]), denoiser=Unsure())
    found = loss(ScoreMatching(level_weights=[3, 1], vlb=0.5, vlb_steps=10), denoiser=Unsure())
    assert list(found.logs) == ["loss/4", "loss/2", "vlb/4", "vlb/2"]
    added = 0.5 * (3 * found.logs["vlb/4"] + found.logs["vlb/2"])
    torch.testing.assert_close(found.total, plain.total + added)
    assert found.logs["vlb/4"] > 0 and found.logs["vlb/2"] > 0


def test_without_the_bound_a_variance_changes_no_number():
    with_variance, without = (loss(ScoreMatching(), denoiser=d()) for d in (Unsure, Guess))
    assert torch.equal(with_variance.total, without.total)
    assert list(with_variance.logs) == list(without.logs) == ["loss/4", "loss/2"]


def test_a_level_of_fewer_rows_has_the_bound_of_its_rows():
    x0, draws = problem()
    objective = ScoreMatching(vlb=1.0)
    first = loss(
        objective,
        denoiser=Unsure(),
        x0=(x0[0][:1], x0[1]),
        draws=Draws(draws.t, (draws.eps[0][:1], draws.eps[1]), draws.drop),
    )
    alone = loss(
        objective,
        denoiser=Unsure(),
        x0=tuple(level[:1] for level in x0),
        draws=Draws(draws.t[:1], tuple(e[:1] for e in draws.eps), draws.drop[:1]),
    )
    torch.testing.assert_close(first.logs["vlb/4"], alone.logs["vlb/4"])


def test_a_network_without_a_variance_is_refused_the_bound():
    with pytest.raises(ValueError, match=r"vlb 1.0 with Guess, which learns no variance"):
        ScoreMatching(vlb=1.0).check(PROCESS, Guess())
    ScoreMatching(vlb=1.0).check(PROCESS, Unsure())


def test_a_learned_variance_that_nothing_trains_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        ScoreMatching(vlb=1.0).check(PROCESS, Unsure())
        ScoreMatching().check(PROCESS, Guess())
        ScoreMatching().check(PROCESS)
        assert not caplog.text
        ScoreMatching().check(PROCESS, Unsure())
    assert "Unsure learns a variance, which vlb 0 leaves untrained" in caplog.text
