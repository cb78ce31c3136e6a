"""Time densities and the uniform numbers behind them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.objective import (
    densities,
    uniforms,
)
from hierdiff.process import VariancePreserving
from hierdiff.schedules import Power, Shifted
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
