"""Loss weights against their published values."""

import math

import pytest
import torch

from hierdiff.objective import (
    ScoreMatching,
    weights,
)
from hierdiff.objective.weights import SNR, MinSNR
from hierdiff.parameterization import PREDICTIONS, Parameterization
from hierdiff.process import Flow, VariancePreserving
from hierdiff.schedules import Cosine, LinearFlow
from tests.objective.problems import PROCESS, B, Guess, loss, problem


@pytest.mark.parametrize("prediction", ["v", "eps", "x0", "u", "edm"])
@pytest.mark.parametrize("space", sorted(PREDICTIONS))
def test_constant_weight_is_the_plain_mean_square_in_the_loss_space(prediction, space):
    """By hand, one example and one level at a time."""
    parameterization = Parameterization(prediction)
    found = loss(ScoreMatching(parameterization, loss_space=space))
    x0, draws = problem()
    alpha, sigma = PROCESS.alpha_sigma(draws.t)
    log_snr = PROCESS.log_snr(draws.t)
    for i, side in enumerate((4, 2)):
        errors = []
        for row in range(B):
            a, s = alpha[row, i], sigma[row, i]
            x, e = x0[i][row], draws.eps[i][row]
            x_t = a * x + s * e
            guess = Guess().factor.double() * x_t + 0.02 * log_snr[row, i]
            matrix = torch.stack(
                [torch.stack(PREDICTIONS[prediction](a, s, 0.5)), torch.stack([a, s])]
            )
            pair = torch.stack([guess.flatten(), x_t.flatten()])
            clean, eps = torch.linalg.solve(matrix, pair)
            p, q = PREDICTIONS[space](a, s, 0.5)
            wrong = p * (clean - x.flatten()) + q * (eps - e.flatten())
            errors.append((wrong**2).mean())
        torch.testing.assert_close(found.logs[f"loss/{side}"], torch.stack(errors).mean())


@pytest.mark.parametrize("name", [name for name in weights.names() if name != "constant"])
@pytest.mark.parametrize("process", [PROCESS, Flow([LinearFlow(), LinearFlow()])])
def test_a_weight_is_on_x0_whatever_the_loss_space(name, process):
    weight = weights.build({"name": name})
    totals = [
        loss(ScoreMatching(loss_space=space, weight=weight), process).total.detach()
        for space in sorted(PREDICTIONS)
    ]
    for total in totals[1:]:
        torch.testing.assert_close(total, totals[0], rtol=1e-9, atol=0)


def test_snr_weight_is_the_plain_loss_on_eps_and_constant_in_x0_is_none():
    plain = loss(ScoreMatching(loss_space="eps")).total
    torch.testing.assert_close(loss(ScoreMatching(loss_space="v", weight=SNR())).total, plain)


@pytest.mark.parametrize(
    ("node", "log_snr", "wanted"),
    [
        ({"name": "snr"}, 2, math.exp(2)),
        ({"name": "truncated_snr"}, 2, math.exp(2)),
        ({"name": "truncated_snr"}, -2, 1),
        ({"name": "truncated_snr"}, math.log(1 / 3), 1),
        ({"name": "min_snr"}, 2, 5),
        ({"name": "min_snr"}, 0, 1),
        ({"name": "min_snr", "gamma": 0.5}, 0, 0.5),
        ({"name": "sigmoid"}, 0, 0.5),
        ({"name": "sigmoid", "bias": 2.0}, 2, math.exp(2) / 2),
        ({"name": "edm"}, -2 * math.log(0.5), 8),
        ({"name": "edm"}, -2 * math.log(80), 4.00015625),
        ({"name": "edm"}, -2 * math.log(0.002), 250004),
    ],
)
def test_weights_have_their_published_values(node, log_snr, wanted):
    found = weights.build(node)(
        torch.tensor(float(log_snr), dtype=torch.float64), torch.tensor(7.0)
    )
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("log_snr", "wanted"), [(2, 0.596014610), (0, 0.5), (-2, 0.119202922)])
def test_min_snr_5_weighs_the_error_of_v_as_published(log_snr, wanted):
    """Read off the loss: min-SNR total over plain v loss, at one log-SNR for all."""
    process = VariancePreserving([Cosine(), Cosine()])
    t = Cosine().inverse(torch.full((B,), float(log_snr), dtype=torch.float64))
    x0, draws = problem(t=t)
    objectives = [
        ScoreMatching(loss_space="x0", weight=MinSNR()),
        ScoreMatching(loss_space="v"),
    ]
    weighted, plain = (loss(o, process, x0=x0, draws=draws).total for o in objectives)
    assert float((weighted / plain).detach()) == pytest.approx(wanted, rel=1e-8)


@torch.no_grad()
def test_eps_loss_of_a_v_network_is_alpha_squared_times_its_v_loss():
    """MDM: gamma ||v - v'||^2 = SNR ||x - x'||^2."""
    t = torch.full((B,), 0.3, dtype=torch.float64)
    x0, draws = problem(t=t)
    by_space = {
        space: loss(ScoreMatching(loss_space=space), x0=x0, draws=draws).logs
        for space in PREDICTIONS
    }
    alpha, sigma = PROCESS.alpha_sigma(t)
    for i, side in enumerate((4, 2)):
        key, a, s = f"loss/{side}", float(alpha[0, i]), float(sigma[0, i])
        assert float(by_space["eps"][key]) == pytest.approx(a**2 * float(by_space["v"][key]))
        assert float(by_space["eps"][key]) == pytest.approx((a / s) ** 2 * by_space["x0"][key])
