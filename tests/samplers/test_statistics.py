"""Stochastic samplers by the moments of many samples, against the law they ought to have."""

from itertools import pairwise

import pytest
import torch

from hierdiff.exact import Joint
from hierdiff.noise import from_generator
from hierdiff.process import Flow, VariancePreserving
from hierdiff.samplers import integrate, samplers
from hierdiff.samplers.integrate import State, Step
from hierdiff.schedules import Cosine, LinearFlow, Shifted

N = 4_000
RULES = {
    "small": {"name": "ancestral", "variance": "small"},
    "large": {"name": "ancestral", "variance": "large"},
    "eta 1": {"name": "ddim", "eta": 1.0},
    "eta 0.5": {"name": "ddim", "eta": 0.5},
}
JOINT = Joint(VariancePreserving([Shifted(Cosine(-9, 9), 2, 1), Cosine(-9, 9)]), (2, 1))
FLOW = Joint(Flow([Shifted(LinearFlow(), 2, 1), LinearFlow()]), (2, 1))
TIMES = torch.linspace(0.95, 0.05, 11, dtype=torch.float64)


def law(joint, options, times):
    """Covariance at the end: each step is x0 = M z, then a mean linear in (x0, z), then noise."""
    covariance = joint.marginal(float(times[0]))
    widths = torch.tensor([side**2 for side in joint.sides])
    for t, s in zip(times, times[1:], strict=False):
        alpha, sigma = joint.process.alpha_sigma(torch.stack([t, s]))
        a_t, a_s = alpha.repeat_interleave(widths, dim=1)
        s_t, s_s = sigma.repeat_interleave(widths, dim=1)
        beta = s_t**2 - (a_t / a_s * s_s) ** 2
        small = beta * s_s**2 / s_t**2
        matrix = joint.matrix(float(t))
        identity = torch.eye(len(matrix), dtype=torch.float64)
        if options["name"] == "ancestral":
            added = beta if options["variance"] == "large" else small
            kept = a_t / a_s * s_s**2 / s_t**2
            step = torch.diag(kept) + (a_s * beta / s_t**2)[:, None] * matrix
        else:
            added = options["eta"] ** 2 * small
            eps = (identity - a_t[:, None] * matrix) / s_t[:, None]
            step = a_s[:, None] * matrix + (s_s**2 - added).sqrt()[:, None] * eps
        covariance = step @ covariance @ step.T + torch.diag(added)
    return covariance


@pytest.mark.parametrize("joint", [JOINT, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("rule", RULES)
def test_samples_have_the_covariance_of_the_stated_step(joint, rule):
    """Within 4.5 standard errors, sqrt((c_ii c_jj + c_ij^2) / n), for each of the 15 entries."""
    noise = from_generator(torch.Generator().manual_seed(7), dtype=torch.float64)
    root = torch.linalg.cholesky(joint.marginal(float(TIMES[0])))
    start = joint.split(noise((N, 5)) @ root.T)
    step = samplers.build(RULES[rule])
    found = joint.stacked(integrate(step, joint, joint.process, start, TIMES, noise))
    wanted = law(joint, RULES[rule], TIMES)
    diagonal = wanted.diagonal()
    error = ((diagonal[:, None] * diagonal + wanted**2) / N).sqrt()
    assert ((found.T @ found / N - wanted).abs() / error).max() < 4.5
    assert (found.mean(0).abs() / (diagonal / N).sqrt()).max() < 4.5


@pytest.mark.parametrize("joint", [JOINT, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("rule", RULES)
def test_that_law_is_the_marginal_as_steps_shrink(joint, rule):
    """Stochastic rules are of first order in law."""
    wanted = joint.marginal(0.2)

    def distance(steps):
        times = torch.linspace(0.8, 0.2, steps + 1, dtype=torch.float64)
        return float((law(joint, RULES[rule], times) - wanted).norm())

    coarse, fine = distance(30), distance(120)
    assert fine < coarse / 3 and fine < 0.02 * float(wanted.norm())


@pytest.mark.parametrize("joint", [JOINT, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize(
    ("coefficient", "norm"),
    [("sigma", 1), ("sigma", 0.3), ("sbdm", 1), ("constant", 0.5), ("decreasing", 0.5),
     ("increasing_decreasing", 1)],
)  # fmt: skip
def test_every_diffusion_coefficient_keeps_the_marginals(joint, coefficient, norm):
    """The law at 0.2 from that at 0.8, whatever the coefficient, to the first order in the step."""
    node = {"name": "euler_maruyama", "coefficient": coefficient, "norm": norm}
    rule, expected = samplers.build(node), joint.marginal(0.2)

    def distance(steps):
        times = torch.linspace(0.8, 0.2, steps + 1, dtype=torch.float64)
        moments = joint.process.trajectory(times.tolist(), joint.split(torch.zeros(1, 5).double()))
        covariance = joint.marginal(0.8)
        for t, s in pairwise(moments):
            step = Step(t, s, last=False)
            matrix = moved(rule, joint, torch.eye(5).double(), step, 0.0)
            added = moved(rule, joint, torch.zeros(1, 5).double(), step, 1.0)[0]
            covariance = matrix.T @ covariance @ matrix + torch.diag(added**2)
        return float((covariance - expected).norm())

    coarse, fine = distance(40), distance(160)
    assert fine < coarse / 3 and fine < 0.03 * float(expected.norm())


def moved(rule, joint, z, step, noise):
    """The rule's step of states in rows, each with noise of the same value everywhere."""
    x = joint.split(z)
    rows = Step(*[joint.process.trajectory([m.time], x)[0] for m in step[:2]], step.last)
    end, _ = rule(joint, x, rows, State(), lambda shape: torch.full(shape, noise).double())
    return joint.stacked(end)


@pytest.mark.parametrize("joint", [JOINT, FLOW], ids=["vp", "flow"])
def test_ddim_with_eta_one_is_small_ancestral_given_the_same_noise(joint):
    start = joint.split(torch.randn(4, 5, dtype=torch.float64))
    times = torch.linspace(1, 0, 9, dtype=torch.float64)[1:]

    def run(options):
        noise = from_generator(torch.Generator().manual_seed(3), dtype=torch.float64)
        return integrate(samplers.build(options), joint, joint.process, start, times, noise)

    torch.testing.assert_close(run(RULES["eta 1"]), run(RULES["small"]), rtol=1e-9, atol=1e-9)
