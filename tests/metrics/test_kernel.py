"""Kernel distance and CMMD: parity, no bias, and sums over subsets without loops."""

import numpy as np
import pytest
import torch

from hierdiff.metrics import kernel
from hierdiff.metrics.kernel import cmmd, kernel_distance


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_torchmetrics_finds_the_same_to_the_last_digits():
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(60, 12), 1.2 * normal(60, 12, seed=1) + 0.1
    expected = float(poly_mmd(x, y))
    assert kernel_distance(x, y, subsets=1) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_the_whole_u_statistic_by_its_definition_for_unequal_sizes(monkeypatch):
    """One subset of 5 of each: the double sum over pairs, written out."""
    x, y = normal(5, 3), normal(9, 3, seed=1)
    chosen = kernel._chosen(9, 5, 0, "y", 0).bool()
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(5) for j in range(5)]
    z = y[chosen]
    within = sum(k(x[i], x[j]) + k(z[i], z[j]) for i, j in pairs if i != j) / 20
    across = sum(k(x[i], z[j]) for i, j in pairs) / 25
    assert kernel_distance(x, y, subsets=1) == pytest.approx(within - 2 * across, rel=1e-12)


@pytest.mark.parametrize("block", [7, 1024])
def test_subsets_are_what_a_loop_over_them_finds(monkeypatch, block):
    monkeypatch.setattr(kernel, "SIZE", 20)
    monkeypatch.setattr(kernel, "BLOCK", block)
    x, y = normal(50, 8), normal(30, 8, seed=1) + 0.3
    found = kernel_distance(x, y, subsets=6)
    looped = []
    for i in range(6):
        a = x[kernel._chosen(50, 20, 0, "x", i).bool()]
        b = y[kernel._chosen(30, 20, 0, "y", i).bool()]
        looped.append(kernel_distance(a, b, subsets=1))
    assert found == pytest.approx(np.mean(looped), rel=1e-10)
    assert len(set(looped)) == 6


def test_of_equal_distributions_it_is_zero_on_average_and_below_zero_about_half_the_time():
    draws = [
        kernel_distance(normal(100, 8, seed=i), normal(100, 8, seed=i + 500), subsets=1)
        for i in range(100)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 10
    assert 30 < sum(value < 0 for value in draws) < 80


def test_it_is_the_closed_form_for_a_shift_in_one_dimension():
    """E k(x, y) = E (xy + 1)³; with x ~ N(0, 1), y ~ N(m, 1) the population value is
    m⁶ + 6 m⁴ + 12 m² with moments E y² = m² + 1, E y³ = m³ + 3 m: 3 m² + 3 m⁴ + m²(m² + 3)²."""
    m = 0.7
    expected = 3 * m**2 + 3 * m**4 + m**2 * (m**2 + 3) ** 2
    draws = [
        kernel_distance(normal(1000, 1, seed=i), normal(1000, 1, seed=i + 50) + m, subsets=1)
        for i in range(10)
    ]
    assert np.mean(draws) == pytest.approx(expected, abs=4 * np.std(draws) / 10**0.5)


def test_one_image_has_no_kernel_distance():
    with pytest.raises(ValueError, match="1 images have no kernel distance"):
        kernel_distance(normal(1, 3), normal(9, 3))


def test_cmmd_is_the_biased_gaussian_estimate_times_a_thousand():
    x, y = normal(20, 6), normal(30, 6, seed=1) + 1
    k = lambda a, b: torch.exp(-torch.cdist(a, b).square() / 200).mean()  # noqa: E731
    expected = 1000 * float(k(x, x) + k(y, y) - 2 * k(x, y))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-10)
    assert cmmd(x, y) == pytest.approx(cmmd(y, x), rel=1e-9)


def test_cmmd_of_two_points_has_the_closed_form():
    """2 (1 - exp(-d² / 200)) 1000."""
    x, y = torch.zeros(4, 3), torch.full((7, 3), 2.0)
    assert cmmd(x, y) == pytest.approx(2000 * (1 - np.exp(-12 / 200)), rel=1e-12)
