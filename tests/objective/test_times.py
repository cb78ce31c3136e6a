"""Time densities and the uniform numbers behind them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.objective import (
    densities,
    objectives,
    uniforms,
)
from hierdiff.objective.times import LogitNormal, Steps, TimeDensity, Uniform, Window
from hierdiff.process import VariancePreserving
from hierdiff.schedules import Power, ScaledLinearBeta, Shifted
from tests.objective.problems import PROCESS, noise


@given(b=st.integers(1, 40), seed=st.integers(0, 1000))
def test_stratified_times_have_exactly_one_in_each_cell(b, seed):
    u = uniforms(b, noise(seed), stratified=True)
    assert sorted((u * b).floor().long().tolist()) == list(range(b))


def test_stratified_times_are_shuffled():
    """The first rows alone carry the high level in a mixed batch: not always at early times."""
    first = torch.stack([uniforms(8, noise(seed), stratified=True)[0] for seed in range(400)])
    assert abs(float(first.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 400)
    assert abs(float(first.var()) - 1 / 12) < 0.015


def test_uniform_times_are_uniform_and_never_at_the_ends():
    u = uniforms(20_000, noise())
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 20_000)
    extreme = uniforms(2, lambda shape: torch.tensor([-40.0, 40.0]))
    assert float(extreme[0]) > 0 and float(extreme[1]) < 1


GRID = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000


def test_logit_normal_times_have_the_stated_moments():
    t = densities.build({"name": "logit_normal", "mean": -0.5, "std": 0.7})(GRID, PROCESS)
    assert float(torch.logit(t).mean()) == pytest.approx(-0.5, abs=1e-6)
    assert float(torch.logit(t).std()) == pytest.approx(0.7, abs=1e-3)


def test_edm_times_have_log_normal_noise_levels():
    process = VariancePreserving([Shifted(Power(), 4, 2), Power(sigma_max=1e4)])
    t = densities.build({"name": "edm"})(GRID, process)
    log_sigma = -process.log_snr(t)[:, 1] / 2
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-4)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=1e-3)


@pytest.mark.parametrize("name", densities.names())
def test_every_density_keeps_times_inside_and_in_order(name):
    u = torch.linspace(1e-6, 1 - 1e-6, 1001, dtype=torch.float64)
    t = densities.build({"name": name})(u, PROCESS)
    assert t.shape == u.shape and float(t.min()) >= 0 and float(t.max()) <= 1
    moved = t.diff()
    assert (moved >= 0).all() or (moved <= 0).all()


WINDOWS = [("uniform", 0, 0.2), ("logit_normal", 0.3, 0.45), ("edm", 0.4, 1)]


class Squared(TimeDensity):
    """A density of another package, without a `cdf` of its own."""

    def __call__(self, u, process):
        return u**2


@pytest.mark.parametrize(("name", "low", "high"), WINDOWS)
def test_times_in_a_window_have_the_law_of_the_density_given_that_they_are_there(name, low, high):
    whole = densities.build({"name": name})(GRID, PROCESS)
    inside = whole[(whole >= low) & (whole <= high)]
    node = {"name": "window", "density": {"name": name}, "low": low, "high": high}
    found = densities.build(node)(GRID, PROCESS)
    assert float(found.min()) >= low and float(found.max()) <= high
    shares = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(found.quantile(shares), inside.quantile(shares), rtol=0, atol=2e-5)


def test_a_window_of_a_density_that_gives_no_cdf_is_found_by_bisection():
    found = Window(Squared(), 0.04, 0.25)(GRID, PROCESS)
    torch.testing.assert_close(found, (0.2 + 0.3 * GRID) ** 2)


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "edm"])
def test_the_cdf_is_the_inverse_of_the_density(name):
    density = densities.build({"name": name})
    for t in (0.2, 0.5, 0.8):
        u = torch.tensor([density.cdf(t, PROCESS)], dtype=torch.float64)
        assert float(density(u, PROCESS)) == pytest.approx(t, abs=1e-9)
        assert TimeDensity.cdf(density, t, PROCESS) == pytest.approx(float(u), abs=1e-9)


def test_a_window_keeps_times_stratified_and_windows_nest():
    u = uniforms(10, noise(), stratified=True)
    t = Window(Uniform(), 0.2, 0.4)(u, PROCESS)
    assert sorted(((t - 0.2) / 0.2 * 10).floor().long().tolist()) == list(range(10))
    inner = Window(Window(LogitNormal(), 0.1, 0.5), 0.2, 0.9)(GRID, PROCESS)
    torch.testing.assert_close(inner, Window(LogitNormal(), 0.2, 0.5)(GRID, PROCESS))


def test_a_window_of_everything_is_the_density():
    for density in (Uniform(), LogitNormal()):
        torch.testing.assert_close(Window(density)(GRID, PROCESS), density(GRID, PROCESS))


def test_an_objective_draws_in_its_window_and_refuses_an_empty_one_before_compute():
    window = {"name": "window", "density": {"name": "uniform"}, "low": 0, "high": 0.2}
    objective = objectives.build({"time": window})
    t = objective.draw(PROCESS, [(100, 1, 2, 2), (100, 1, 1, 1)], noise()).t
    assert 0 < float(t.min()) < 0.01 and 0.19 < float(t.max()) < 0.2
    objective.check(PROCESS)
    with pytest.raises(ValueError, match=r"window of times from 0.2 to 0.2 is empty"):
        densities.build({**window, "low": 0.2})
    narrow = {"name": "logit_normal", "mean": 5.0, "std": 0.1}
    with pytest.raises(ValueError, match=r"a share of .* lies between 0 and 0.2.*wider window"):
        objectives.build({"time": {**window, "density": narrow}}).check(PROCESS)


def test_steps_are_the_entries_of_a_table_each_as_likely():
    found = densities.build({"name": "steps", "steps": 4})(GRID, PROCESS)
    times, counts = found.unique(return_counts=True)
    assert times.tolist() == [0.25, 0.5, 0.75, 1.0] and counts.tolist() == [25_000] * 4


def test_steps_of_a_density_that_is_not_uniform_have_its_shares():
    """u^2 is less than i / 10 with probability sqrt(i / 10)."""
    found = Steps(Squared(), 10)(GRID, PROCESS)
    for i in range(1, 11):
        share = float((found < (i + 0.5) / 10).double().mean())
        assert share == pytest.approx(math.sqrt(i / 10), abs=1e-5)


def test_the_cdf_of_steps_leaves_the_time_itself_out_and_windows_hold_whole_steps():
    steps = Steps(steps=1000)
    assert [steps.cdf(t, PROCESS) for t in (0.0, 0.001, 0.2, 0.2005, 1.0)] == pytest.approx(
        [0, 0, 0.199, 0.2, 0.999]
    )
    times = Window(Steps(steps=10), 0.2, 0.5)(GRID, PROCESS).unique()
    torch.testing.assert_close(times, torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_a_step_a_table_has_its_entry(dtype):
    """Of LDM's linear table on ImageNet, entries 0, 250, 500, 750 and 999."""
    wanted = [0.9985, 0.50842433, 0.114922001, 0.00833413595, 1.42303975e-4]
    u = torch.tensor([0.0005, 0.2505, 0.5005, 0.7505, 0.9995], dtype=dtype)
    process = VariancePreserving([ScaledLinearBeta(start=0.0015, end=0.0195)])
    alpha, _ = process.alpha_sigma(Steps()(u, process).double())
    assert (alpha[:, 0] ** 2).tolist() == pytest.approx(wanted, rel=1e-5)
