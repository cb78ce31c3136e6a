"""Manifolds and nearest neighbours: known answers, expectations, parity, and no swapped names."""

import pytest
import torch

from hierdiff.metrics import neighbours
from hierdiff.metrics.neighbours import density_coverage, nearest, precision_recall


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_set_against_itself(k, dtype):
    x = normal(60, 8, dtype=dtype) + 100
    assert precision_recall(x, x.clone(), k) == (1, 1)
    assert density_coverage(x, x.clone(), k) == (pytest.approx((k + 1) / k, rel=1e-12), 1)


def test_sets_that_lie_apart_have_nothing_in_common():
    x, y = normal(40, 8), normal(40, 8, seed=1) + 100
    assert precision_recall(x, y) == (0, 0) and density_coverage(x, y) == (0, 0)


def test_a_tight_cluster_is_precise_and_an_over_wide_cloud_recalls():
    real = normal(300, 4)
    tight = real[real.norm(dim=1).argmin()] + 1e-3 * normal(300, 4, seed=1)
    precision, recall = precision_recall(real, tight)
    assert precision == 1 and recall < 0.05
    wide = 30 * normal(300, 4, seed=2)
    precision, recall = precision_recall(real, wide)
    assert precision < 0.05 and recall == 1


@pytest.mark.parametrize(("k", "expected"), [(1, 0.5), (3, 0.875), (5, 0.96875)])
def test_coverage_of_the_same_distribution_is_one_minus_two_to_the_minus_k(k, expected):
    draws = [
        density_coverage(normal(1000, 8, seed=i), normal(1000, 8, seed=i + 10), k) for i in range(3)
    ]
    density, coverage = (sum(column) / 3 for column in zip(*draws, strict=True))
    assert coverage == pytest.approx(expected, abs=0.03) and density == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("n", "m"), [(80, 80), (50, 90)])
def test_torch_fidelity_finds_the_same_precision_and_recall(n, m):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = normal(m, 6), 0.8 * normal(n, 6, seed=1) + 0.4
    expected = calculate_precision_recall_full(fake, real, neighborhood=3)
    found = precision_recall(real, fake, 3)
    assert found == pytest.approx(expected, abs=1e-6) and 0 < found[1] < found[0] < 1


def test_density_and_coverage_are_what_the_definition_counts():
    real, fake, k = normal(30, 3), normal(20, 3, seed=1), 4
    between = torch.cdist(real, fake)
    radius = torch.cdist(real, real).sort(dim=1).values[:, k]
    inside = between <= radius[:, None]
    expected = (float(inside.sum()) / (k * 20), float(inside.any(1).double().mean()))
    assert density_coverage(real, fake, k) == pytest.approx(expected)


def test_blocks_do_not_change_what_is_counted(monkeypatch):
    real, fake = normal(70, 5), normal(50, 5, seed=1)
    whole = precision_recall(real, fake), density_coverage(real, fake), nearest(fake, real, 2)
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    again = precision_recall(real, fake), density_coverage(real, fake), nearest(fake, real, 2)
    assert whole[:2] == again[:2] and torch.equal(whole[2][1], again[2][1])


def test_the_nearest_points_are_found_with_their_distances():
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 10.0]])
    distances, rows = nearest(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), points, k=2)
    assert rows.tolist() == [[0, 1], [1, 0]]
    expected = torch.tensor([[1.0, 10**0.5], [1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(distances, expected)


def test_a_copy_is_at_distance_zero_also_far_from_the_origin():
    x = normal(50, 16, dtype=torch.float32) + 1000
    distances, rows = nearest(x[[4, 9]], x)
    assert rows[:, 0].tolist() == [4, 9] and float(distances.max()) < 1e-4


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="3 images have no 3-th nearest other"):
        precision_recall(normal(3, 2), normal(9, 2), 3)
    with pytest.raises(ValueError, match="take k=3"):
        nearest(normal(2, 2), normal(3, 2), k=4)
