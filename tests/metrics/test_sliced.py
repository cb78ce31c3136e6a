"""MIND: closed forms, and one-dimensional transport as SciPy has it."""

import pytest
import torch

from hierdiff.metrics.sliced import directions, mind


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_directions_are_unit_and_uniform():
    found = directions(16, 4000)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4000).double())
    covariance = found.T @ found / 4000
    torch.testing.assert_close(covariance, torch.eye(16).double() / 16, rtol=0, atol=0.01)


def test_equal_sets_in_any_order_are_at_distance_zero():
    x = normal(40, 9)
    assert mind(x, x) == 0 and mind(x, x[torch.randperm(40)]) < 1e-28


def test_a_shift_costs_three_times_its_squared_length():
    """W2² along u is (u.m)², whose mean over the sphere is |m|² / d; exactly so for the
    directions that are drawn."""
    x, m = normal(40, 32), normal(32, seed=1)
    drawn = float((directions(32) @ m).square().mean())
    assert mind(x, x + m) == pytest.approx(3 * 32 * drawn, rel=1e-10)
    assert mind(x, x + m) == pytest.approx(3 * float(m.square().sum()), rel=0.15)


def test_stretching_an_isotropic_gaussian_costs_three_d_times_a_minus_one_squared():
    x = normal(4000, 24)
    assert mind(x, 1.5 * x, count=200) == pytest.approx(3 * 24 * 0.25, rel=0.05)


def test_in_one_dimension_it_is_three_times_the_squared_wasserstein_distance():
    x, y = normal(30, 1), 2 * normal(30, 1, seed=1)
    cost = torch.cdist(x, y).square().numpy()
    from scipy.optimize import linear_sum_assignment

    pairs = linear_sum_assignment(cost)
    assert mind(x, y, count=3) == pytest.approx(3 * float(cost[pairs].mean()), rel=1e-10)


def test_symmetric_quadratic_in_scale_and_another_for_other_directions():
    x, y = normal(50, 6), normal(50, 6, seed=1) + 1
    assert mind(x, y) == mind(y, x)
    assert mind(3 * x, 3 * y) == pytest.approx(9 * mind(x, y), rel=1e-12)
    assert mind(x, y, seed=1) != mind(x, y) == mind(x, y, seed=0)


def test_sets_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="got 4 and 5"):
        mind(normal(4, 2), normal(5, 2))
