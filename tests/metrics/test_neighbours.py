"""Manifolds and nearest neighbours: known answers, expectations, parity, and no swapped names."""

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from hierdiff.metrics import neighbours
from hierdiff.metrics.neighbours import (
    clipped_density_coverage,
    density_coverage,
    expected_coverage,
    nearest,
    precision_recall,
)


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


def mixture(share, seed, n=512, d=16, far=30.0):
    """Samples of the distribution of reals, a share of them far away."""
    fake = normal(n, d, seed=seed)
    fake[: round(share * n)] += far
    return fake


def test_clipped_values_of_a_set_against_itself_are_one_and_of_sets_apart_zero():
    x = normal(60, 8) + 100
    assert clipped_density_coverage(x, x.clone()) == (1, 1)
    assert clipped_density_coverage(x, x + 100) == (0, 0)


def test_clipped_values_are_the_share_of_good_samples():
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    found = [
        [clipped_density_coverage(normal(512, 16, seed=i), mixture(s, i + 50)) for i in range(4)]
        for s in shares
    ]
    for column in zip(*(torch.tensor(one).mean(0).tolist() for one in found), strict=True):
        assert column == pytest.approx([1 - share for share in shares], abs=0.06)
        assert list(column) == sorted(column, reverse=True)


def test_one_real_image_far_away_moves_density_and_not_its_clipped_form():
    """Its ball is as large as its distance, and holds all of the bad samples on the way."""
    real = normal(200, 4)
    outlying = torch.cat([real, torch.full((1, 4), 100.0, dtype=torch.float64)])
    fake = torch.cat([normal(100, 4, seed=1), normal(100, 4, seed=2) + 50])
    plain = [density_coverage(x, fake)[0] for x in (real, outlying)]
    clipped = [clipped_density_coverage(x, fake)[0] for x in (real, outlying)]
    assert plain[1] - plain[0] > 0.05 and abs(clipped[1] - clipped[0]) < 0.01
    assert clipped[1] == pytest.approx(0.5, abs=0.08)


def test_many_samples_in_one_place_cover_no_more_than_that_place():
    real = normal(400, 4)
    crowd = real[real.norm(dim=1).argmin()] + 1e-3 * normal(400, 4, seed=1)
    coverage = clipped_density_coverage(real, crowd)[1]
    inside = (torch.cdist(real, crowd) <= torch.cdist(real, real).sort(1).values[:, 5:6]).sum(1)
    assert coverage < 0.2 < float(inside.double().mean()) / 5


@pytest.mark.parametrize(("n", "m"), [(300, 300), (120, 350)])
def test_clipped_values_are_what_the_public_definition_counts(n, m):
    """By full distance matrices; the public code rounds coverage up to a step of 1 / (n + 1), and
    sums over all counts of fakes in a ball."""
    k, real, fake = 5, normal(m, 6), 0.8 * normal(n, 6, seed=1) + 0.7
    own = torch.cdist(real, real)
    radius = own.sort(dim=1).values[:, k]
    small = radius.clamp(max=float(np.median(radius)))
    within = (torch.cdist(real, fake) <= small[:, None]).sum(0).clamp(max=k).double().mean() / k
    ideal = ((own <= small[:, None]).sum(0) - 1).clamp(max=k).double().mean() / k
    covered = (torch.cdist(real, fake) < radius[:, None]).sum(1).clamp(max=k).double().mean() / k
    expected = [0.0]
    for i in range(1, n + 1):
        j = np.arange(i + 1)
        law = betabinom(i, k, m - k).pmf(j)
        expected.append(float((np.minimum(j, k) * law).sum() / k))
    np.testing.assert_allclose(expected_coverage(m, n, k), expected, rtol=1e-9, atol=1e-12)
    density, coverage = clipped_density_coverage(real, fake, k)
    assert density == pytest.approx(min(1, float(within / ideal)), abs=1e-12)
    steps = np.searchsorted(expected, float(covered)) / (n + 1)
    assert 0 < coverage < 1 and abs(coverage - steps) <= 1 / n


def test_blocks_do_not_change_clipped_values(monkeypatch):
    real, fake = normal(70, 5), normal(50, 5, seed=1)
    whole = clipped_density_coverage(real, fake)
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    assert clipped_density_coverage(real, fake) == whole
