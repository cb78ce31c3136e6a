"""What single rules do at their edges."""

import math

import pytest
import torch

from hierdiff.guidance import Denoised
from hierdiff.noise import from_tensors
from hierdiff.process import VariancePreserving
from hierdiff.samplers import grids, integrate, samplers
from hierdiff.samplers.integrate import State, Step
from hierdiff.schedules import Cosine, GammaLinear, Limited, Shifted

PROCESS = VariancePreserving([Shifted(Cosine(), 4, 2), Cosine()])
T, S = (PROCESS.moment(torch.tensor([time], dtype=torch.float64), time) for time in (0.7, 0.4))


def ones(value=1.0):
    return tuple(torch.full((1, 1, n, n), value, dtype=torch.float64) for n in (2, 1))


def step(options, variance):
    def denoise(x, t, carry):
        return Denoised(ones(0.2), variance=variance)

    start = ones(0.5)
    (end, _) = samplers.build(options)(
        denoise, start, Step(T, S, last=False), State(), lambda shape: torch.ones(shape).double()
    )
    return end


def test_learned_variance_lies_between_small_and_large_in_its_logarithm():
    """iDDPM, equation 15: exp(w log large + (1 - w) log small), w = (variance + 1) / 2."""
    small, large = (step({"name": "ancestral", "variance": v}, None) for v in ("small", "large"))
    learned = {"name": "ancestral", "variance": "learned"}
    torch.testing.assert_close(step(learned, ones(-1.0)), small)
    torch.testing.assert_close(step(learned, ones(1.0)), large)
    mean, _ = PROCESS.posterior(ones(0.2), ones(0.5), T, S)
    middle = step(learned, ones(0.0))
    for m, a, b, c in zip(mean, small, large, middle, strict=True):
        torch.testing.assert_close((c - m) ** 2, (a - m) * (b - m))
        assert (a < b).all()


def test_learned_variance_asked_of_a_denoiser_without_one_is_refused():
    with pytest.raises(ValueError, match=r"'learned'.*choose 'small' or 'large'"):
        step({"name": "ancestral", "variance": "learned"}, None)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match=r"variance=.tiny.: variance takes one of small, large"):
        samplers.build({"name": "ancestral", "variance": "tiny"})


def test_the_coefficient_that_is_infinite_at_pure_noise_is_refused_there():
    rule = samplers.build({"name": "euler_maruyama", "coefficient": "sbdm"})
    times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="sbdm is infinite at t = 1: start the grid below"):
        integrate(rule, lambda x, t, carry: Denoised(x), PROCESS, ones(), times, from_tensors([]))


def test_the_last_step_of_an_sde_subtracts_its_churn_where_it_is_to_mean():
    """From sigma_t, "euler" ends in x0 and "mean" in x0 - w eps, w = sigma_t."""
    last = Step(S, PROCESS.moment(torch.zeros(1, dtype=torch.float64), 0.0), last=True)
    x0, x = ones(0.2), ones(0.5)
    ends = {}
    for name in ("euler", "mean"):
        rule = samplers.build({"name": "euler_maruyama", "last": name})
        ends[name], _ = rule(lambda x, t, carry: Denoised(x0), x, last, State(), from_tensors([]))
    for i, (plain, mean) in enumerate(zip(ends["euler"], ends["mean"], strict=True)):
        torch.testing.assert_close(plain, x0[i], rtol=0, atol=1e-3)
        fall = S.sigma[0, i] - last.s.sigma[0, i]
        eps = (x[i] - S.alpha[0, i] * x0[i]) / S.sigma[0, i]
        torch.testing.assert_close(plain - mean, fall * eps)


def test_euler_is_ddim_with_eta_zero():
    assert samplers.build({"name": "euler"}) == samplers.build({"name": "ddim", "eta": 0.0})


def test_a_trajectory_in_two_windows_is_the_trajectory():
    """Start state and times are arguments of the loop."""
    rule = samplers.build({"name": "heun"})

    def denoise(x, t, carry):
        return Denoised(tuple(torch.tanh(level) for level in x))

    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    whole = integrate(rule, denoise, PROCESS, ones(), times, from_tensors([]))
    first = integrate(rule, denoise, PROCESS, ones(), times[:5], from_tensors([]))
    second = integrate(rule, denoise, PROCESS, first, times[4:], from_tensors([]))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["ddim", "ancestral", "heun", "dpmpp_2m", "euler_maruyama"])
def test_a_state_that_is_not_finite_is_an_error_with_step_and_level(name, value):
    """At the third of eight steps, in one pixel of the coarser level."""
    calls = samplers.build({"name": name}).calls_per_step
    seen = []

    def denoise(x, t, carry):
        seen.append(t.time)
        x0 = tuple(torch.tanh(level) for level in x)
        if len(seen) == 2 * calls + 1:
            x0[1][0, 0, 0, 0] = value
        return Denoised(x0)

    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    with pytest.raises(FloatingPointError) as error:
        integrate(
            samplers.build({"name": name}), denoise, PROCESS, ones(), times,
            lambda shape: torch.ones(shape).double(), what="stage 8to16",
        )  # fmt: skip
    said = str(error.value)
    assert "samples of stage 8to16 are not finite" in said and "\n" not in said
    assert "after step 3 of 8, t = 0.75 to 0.625, at level 1 (1 x 1 x 1)" in said


def test_ancestral_sampling_goes_through_equal_noise_levels():
    """In single precision two times may have one log_snr: no variance, and no NaN."""
    process = VariancePreserving([Limited(GammaLinear(), log_snr_min=-20, log_snr_max=20)])
    t = torch.full((1,), 1e-7)
    step = Step(process.moment(t), process.moment(t * (1 - 1e-7)), last=False)
    for variance in ("small", "large"):
        rule = samplers.build({"name": "ancestral", "variance": variance})
        x = (torch.ones(1, 1, 2, 2),)
        (end,), _ = rule(lambda x, t, carry: Denoised(x), x, step, State(), torch.ones)
        assert end.isfinite().all()


@pytest.mark.parametrize(
    "node",
    [
        {"name": "uniform", "start": 5},
        {"name": "uniform", "start": math.nan},
        {"name": "uniform", "end": 1.0},
        {"name": "karras", "sigma_min": 0.0},
        {"name": "karras", "sigma_max": math.inf},
        {"name": "karras", "rho": math.nan},
        {"name": "mdm", "table": 0},
        {"name": "schedule", "schedule": {"name": "cosine", "log_snr_max": math.nan}},
    ],
)
def test_grids_of_no_times_are_refused(node):
    with pytest.raises(ValueError, match=": |takes") as error:
        grids.build(node)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_an_eta_that_is_none_is_refused(eta):
    with pytest.raises(ValueError, match="eta takes a number, 0 or more"):
        samplers.build({"name": "ddim", "eta": eta})
