"""Orders of convergence on a joint state of two levels, each level on its own schedule.

The truth is the probability-flow ODE of the exact Gaussian denoiser, solved in float64 by an
adaptive method of order 8; the window stays away from t = 0.
"""

import math

import pytest
import torch

from hierdiff.exact import Joint
from hierdiff.metrics.frechet import Moments, frechet
from hierdiff.noise import from_tensors
from hierdiff.process import Flow, VarianceExploding, VariancePreserving
from hierdiff.samplers import integrate, samplers
from hierdiff.samplers.grids import LeadingGrid, UniformGrid
from hierdiff.schedules import Cosine, Interval, LinearFlow, Power, Shifted

ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2}  # ddim with eta 0 is euler
BASES = {
    "vp": (VariancePreserving, Cosine(log_snr_min=-8, log_snr_max=8)),
    "flow": (Flow, LinearFlow()),
    "ve": (VarianceExploding, Power(sigma_max=20, rho=3)),
}
START, END = 0.9, 0.2


@pytest.fixture(scope="module", params=BASES)
def problem(request):
    cls, base = BASES[request.param]
    joint = Joint(cls([Shifted(base, 4, 2, exponent=1), base]))
    z = torch.randn(1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = z @ torch.linalg.cholesky(joint.marginal(START)).T
    return joint, z, joint.flow(z, START, END)


def error(name, problem, steps):
    joint, z, wanted = problem
    times = torch.linspace(START, END, steps + 1, dtype=torch.float64)
    rule = samplers.build({"name": name})
    end = integrate(rule, joint, joint.process, joint.split(z), times, from_tensors([]))
    return float((joint.stacked(end) - wanted).norm())


@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_at_the_order_of_the_rule(name, problem):
    errors = [error(name, problem, steps) for steps in (32, 64, 128)]
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert orders == pytest.approx([ORDERS[name]] * 2, abs=0.3)


def test_the_two_levels_are_coupled_and_differ(problem):
    """Otherwise the orders above would be those of two separate problems."""
    joint, _, _ = problem
    matrix = joint.matrix(0.5)
    assert matrix[:16, 16:].abs().max() > 0.01 and matrix[16:, :16].abs().max() > 0.01
    alpha, sigma = joint.process.alpha_sigma(torch.tensor([0.5], dtype=torch.float64))
    assert float((sigma / alpha)[0, 0]) > 1.3 * float((sigma / alpha)[0, 1])


def error_of_samples(name, joint, grid, steps):
    """Squared Fréchet distance of samples from the data, over the trace: the rule is linear."""
    x, times = joint.split(torch.eye(20, dtype=torch.float64)), grid(steps, joint.process)
    rule = samplers.build({"name": name})
    end = integrate(rule, joint, joint.process, x, times, from_tensors([]))
    z = joint.stacked(end)
    mean = torch.zeros(20, dtype=torch.float64)
    own, clean = (Moments(math.inf, mean, c) for c in (z.T @ z, joint.clean))
    return frechet(own, clean) / float(joint.clean.trace())


@pytest.mark.parametrize("steps", [10, 20, 40])
@pytest.mark.parametrize("case", ["staggered", "leading"])
def test_second_order_is_better_than_first_where_steps_of_log_snr_are_uneven(case, steps):
    """With levels in intervals of their own, and with a grid whose last steps are uneven."""
    base, grid = Cosine(), UniformGrid()
    schedules = [Interval(base, 0, 2 / 3), Interval(base, 1 / 3, 1)]
    if case == "leading":
        schedules, grid = [base, base], LeadingGrid()
    joint = Joint(VariancePreserving(schedules))
    errors = [error_of_samples(name, joint, grid, steps) for name in ("ddim", "dpmpp_2m")]
    assert errors[1] < errors[0] / 3


def test_the_truth_carries_one_marginal_onto_the_next():
    """The ODE is linear, so its map M obeys M V_start M' = V_end."""
    joint = Joint(VariancePreserving([Shifted(Cosine(-8, 8), 2, 1), Cosine(-8, 8)]), (2, 1))
    moved = torch.cat([joint.flow(e[None], START, END) for e in torch.eye(5).double()])
    found = moved.T @ joint.marginal(START) @ moved
    torch.testing.assert_close(found, joint.marginal(END), rtol=1e-7, atol=1e-8)
