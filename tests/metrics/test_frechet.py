"""The distance: known answers, agreement of its routes, streaming, and the noise floor."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff.metrics.frechet import (
    Moments,
    Statistics,
    at_infinity,
    distance,
    frechet,
    noise_floor,
    sizes_of,
)
from tests.reference import frechet_nuclear, frechet_numpy


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean, covariance, n=11):
    """Moments that are stated, not sampled."""
    return Moments(n, torch.as_tensor(mean).double(), torch.as_tensor(covariance) * (n - 1.0))


def orthogonal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def every_route(x, y):
    """The distance by eigenvalues, by the nuclear norm and by whichever `distance` takes."""
    return {
        "eigenvalues": frechet(Moments.of(x), Moments.of(y)),
        "nuclear-norm": frechet_nuclear.frechet(x, y),
        "chosen": distance(Statistics.of(x), Statistics.of(y)).value,
    }


def assert_routes(x, y, expected, **tolerance):
    for route, value in every_route(x, y).items():
        assert value == pytest.approx(expected, **tolerance), route


def test_two_by_two_that_do_not_commute():
    s1 = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    s2 = torch.tensor([[1.0, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    closed = (
        s1.trace()
        + s2.trace()
        - 2 * torch.sqrt((s1 @ s2).trace() + 2 * torch.sqrt(torch.det(s1) * torch.det(s2)))
    )
    zero = torch.zeros(2)
    found = frechet(gaussian(zero, s1), gaussian(zero, s2))
    assert found == pytest.approx(0.929311854967773, abs=1e-12)
    assert found == pytest.approx(float(closed), abs=1e-12)


@pytest.mark.parametrize("d", [256, pytest.param(2048, marks=pytest.mark.slow)])
def test_identity_against_four_times_identity_is_the_number_of_dimensions(d):
    zero, eye = torch.zeros(d), torch.eye(d, dtype=torch.float64)
    assert frechet(gaussian(zero, eye), gaussian(zero, 4 * eye)) == pytest.approx(d, rel=1e-12)


def test_commuting_covariances_have_the_closed_form():
    q, a, b = orthogonal(12), normal(12, seed=1).square(), normal(12, seed=2).square()
    shift = normal(12, seed=3)
    found = frechet(gaussian(shift, q * a @ q.T), gaussian(torch.zeros(12), q * b @ q.T))
    expected = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_rank_deficient_commuting_covariances_have_the_closed_form():
    a, b = torch.rand(300).double(), torch.rand(300).double()
    a[100:], b[150:] = 0, 0
    q = orthogonal(300)
    zero = torch.zeros(300)
    found = frechet(gaussian(zero, q * a @ q.T), gaussian(zero, q * b @ q.T))
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), abs=1e-5)


def test_a_point_at_zero_leaves_mean_and_trace():
    mean, s = normal(6), torch.cov(normal(6, 20, seed=1))
    found = frechet(gaussian(mean, s), gaussian(torch.zeros(6), torch.zeros(6, 6).double()))
    assert found == pytest.approx(float(mean.square().sum() + s.trace()), rel=1e-12)


@pytest.mark.parametrize("n", [5, 40])
def test_identical_features_are_at_distance_zero(n):
    x = normal(n, 16)
    assert_routes(x, x, 0, abs=1e-6)
    assert frechet_nuclear.frechet(x, x) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n", [5, 40])
def test_a_shift_costs_its_squared_length(n):
    x, m = normal(n, 16), normal(16, seed=1)
    assert_routes(x, x + m, float(m.square().sum()), abs=1e-6)


@pytest.mark.parametrize("n", [5, 40])
def test_stretching_by_a_costs_a_minus_one_squared_times_the_trace(n):
    x = normal(n, 16)
    trace = float(torch.cov(x.T).trace())
    mean = x.mean(dim=0)
    assert_routes(x, mean + 3 * (x - mean), 4 * trace, rel=1e-6)


def test_rank_one_covariances_have_the_closed_form_by_the_nuclear_norm():
    u, v = normal(9), normal(9, seed=1)
    two = torch.tensor([[1.0], [-1.0]], dtype=torch.float64) / math.sqrt(2)  # scatter 1, n - 1 = 1
    expected = float(u @ u + v @ v - 2 * (u @ v).abs())
    assert frechet_nuclear.frechet(two * u, two * v) == pytest.approx(expected, rel=1e-13)
    assert distance(Statistics.of(two * u), Statistics.of(two * v)).value == pytest.approx(expected)
    assert frechet(Moments.of(two * u), Moments.of(two * v)) == pytest.approx(expected, abs=1e-6)


@given(
    n=st.integers(3, 40),
    m=st.integers(3, 40),
    c=st.floats(0.1, 10),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=25, deadline=None)
def test_symmetric_invariant_under_rotation_and_quadratic_in_scale(n, m, c, seed):
    x, y = normal(n, 10, seed=seed), 2 * normal(m, 10, seed=seed + 1) + 1
    q = orthogonal(10, seed=seed)
    forth = distance(Statistics.of(x), Statistics.of(y)).value
    assert distance(Statistics.of(y), Statistics.of(x)).value == pytest.approx(forth, rel=1e-6)
    turned = distance(Statistics.of(x @ q), Statistics.of(y @ q)).value
    assert turned == pytest.approx(forth, rel=1e-6)
    scaled = distance(Statistics.of(c * x), Statistics.of(c * y)).value
    assert scaled == pytest.approx(c * c * forth, rel=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "route"),
    [
        (50, 60, "eigenvalues"),
        (20, 60, "factor"),
        (60, 20, "factor"),
        (20, 7, "nuclear-norm"),
        (32, 33, "factor"),
    ],
)
def test_the_route_follows_from_the_numbers_of_images_and_the_value_does_not(n, m, route):
    x, y = normal(n, 32), 1.5 * normal(m, 32, seed=1) + 0.2
    found = distance(Statistics.of(x), Statistics.of(y))
    assert found.route == route
    assert found.value == pytest.approx(frechet_nuclear.frechet(x, y), rel=1e-7)
    assert found.value == pytest.approx(frechet_numpy.frechet(x.numpy(), y.numpy()), rel=1e-6)


@pytest.mark.parametrize("n", [40, 8])
def test_torchmetrics_agrees_on_the_same_features(n):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Corner(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)[:, :12].double()

    images = [
        torch.randint(0, high, (n, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator())
        for high in (256, 200)
    ]
    other = FrechetInceptionDistance(feature=Corner())
    other.update(images[0], real=True)
    other.update(images[1], real=False)
    ours = distance(*[Statistics.of(Corner()(batch)) for batch in images]).value
    assert ours == pytest.approx(float(other.compute()), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("n", [15, 100])
def test_a_stream_in_chunks_equals_one_pass(n, offset):
    x = normal(n, 20) + offset
    stream = Statistics(20)
    for chunk in x.split([1, 0, 6, n - 7]):
        stream.add(chunk)
    whole = Statistics.of(x)
    assert (stream.n, stream.features is None) == (n, n > 20)
    torch.testing.assert_close(stream.moments.mean, x.mean(dim=0), rtol=1e-14, atol=1e-12)
    covariance = torch.cov(x.T)
    torch.testing.assert_close(stream.moments.covariance, covariance, rtol=1e-9, atol=1e-11)
    assert distance(stream, whole).value == pytest.approx(0, abs=1e-6)


def test_merging_does_not_depend_on_the_order():
    parts = [Moments.of(normal(n, 5, seed=n) + n) for n in (2, 9, 30)]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[2].merge(parts[0].merge(parts[1]))
    torch.testing.assert_close((left.mean, left.scatter), (right.mean, right.scatter))
    assert left.n == right.n == 41


@pytest.mark.parametrize("n", [10, 30])
def test_statistics_come_back_from_their_file(n, tmp_path):
    kept = Statistics.of(normal(n, 20).float())
    kept.save(tmp_path / "a.npz", "who")
    back = Statistics.load(tmp_path / "a.npz", "who")
    assert back.n == n and (back.features is None) == (n > 20)
    assert torch.equal(back.moments.scatter, kept.moments.scatter)
    assert torch.equal(back.moments.mean, kept.moments.mean)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_changed_file_is_found_out(tmp_path):
    Statistics.of(normal(10, 20)).save(tmp_path / "a.npz", "who")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "a.npz", **{**arrays, "mean": arrays["mean"] + 1e-9})
    with pytest.raises(ValueError, match="does not match its sha256"):
        Statistics.load(tmp_path / "a.npz", "who")


@pytest.mark.parametrize("keep", [0, 8, 30, 500])
def test_no_more_features_stay_than_were_asked_for_and_the_same_however_they_came(keep):
    x = normal(300, 6)
    whole, stream = Statistics.of(x, keep), Statistics(6, keep)
    for chunk in x.split([1, 100, 0, 7, 192]):
        stream.add(chunk)
    assert len(stream.kept) == min(keep, 300)
    assert torch.equal(stream.rows, whole.rows) and torch.equal(stream.kept, x[whole.rows])
    assert torch.equal(stream.rows, stream.rows.unique())
    assert distance(stream, whole).value == pytest.approx(0, abs=1e-6)


def test_what_is_kept_is_a_fair_choice_of_the_stream():
    """The mean number of 1,000 of 100,000 has standard error 100,000 / sqrt(12,000) = 913."""
    stream = Statistics(1, keep=1000)
    stream.add(torch.zeros(100_000, 1))
    rows = stream.rows.double()
    assert abs(float(rows.mean()) - 50_000) < 3 * 913
    assert abs(int((rows % 2).sum()) - 500) < 3 * 16 and int((rows < 10_000).sum()) > 70


def test_a_sample_is_part_of_what_is_kept_and_always_the_same():
    x = normal(50, 4)
    found = Statistics.of(x, 50).sample(20)
    assert len(found) == 20 and all(bool((row == x).all(1).any()) for row in found)
    assert torch.equal(found, Statistics.of(x, 50).sample(20))
    assert torch.equal(Statistics.of(x, 20).kept, found)
    assert torch.equal(Statistics.of(x, 50).sample(80), x)


def test_stated_moments_are_exact():
    mean, covariance = normal(5), torch.cov(normal(5, 30))
    stated = Statistics.stated(mean, covariance)
    x = normal(40, 5, seed=3)
    expected = frechet(Moments.of(x), gaussian(mean, covariance))
    assert distance(Statistics.of(x), stated).value == pytest.approx(expected, rel=1e-12)
    assert distance(Statistics.of(x[:4]), stated).route == "factor"
    assert len(stated.kept) == 0 and math.isinf(stated.n)
    of_few = Statistics.stated(mean, covariance, n=3)
    assert distance(of_few, stated).value == pytest.approx(0, abs=1e-6)


def test_a_file_of_other_statistics_is_refused(tmp_path):
    Statistics.of(normal(10, 20)).save(tmp_path / "a.npz", "who")
    with pytest.raises(ValueError, match="statistics of 'who', not of 'another'"):
        Statistics.load(tmp_path / "a.npz", "another")


def test_a_pickle_is_not_read(tmp_path):
    bad = np.array([object()], dtype=object)
    np.savez(tmp_path / "a.npz", identity=np.asarray("who"), n=2, mean=bad, scatter=bad)
    with pytest.raises(ValueError, match="holds no statistics"):
        Statistics.load(tmp_path / "a.npz", "who")


def test_one_image_or_nan_or_two_widths_are_refused():
    with pytest.raises(ValueError, match="measure at least 2"):
        distance(Statistics.of(normal(1, 4)), Statistics.of(normal(9, 4)))
    with pytest.raises(ValueError, match="1 of 3 images have features that are not finite"):
        Moments.of(torch.tensor([[0.0], [math.nan], [1.0]]))
    with pytest.raises(ValueError, match="width 4 and 5"):
        distance(Statistics.of(normal(9, 4)), Statistics.of(normal(9, 5)))


def test_the_floor_of_64_isotropic_dimensions():
    """bias = 2/n (d + d/2 (d + 1)/2) for unit eigenvalues; 2.208 at n = 1000."""
    expected = 2 / 1000 * (64 + (64 * 64 + 64) / 4)
    assert noise_floor(torch.ones(64).double(), 1000, 1000) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(2.208)


def test_two_samples_of_one_gaussian_lie_at_the_floor():
    draws = [two_samples(1000, 64, seed) for seed in range(6)]
    assert np.mean(draws) == pytest.approx(2.21, abs=0.1)


def two_samples(n, d, seed):
    return frechet(Moments.of(normal(n, d, seed=seed)), Moments.of(normal(n, d, seed=seed + 1000)))


def test_the_floor_holds_for_a_falling_spectrum_and_one_exact_side():
    values = torch.arange(1, 33).double() ** -1.0
    exact = gaussian(torch.zeros(32), torch.diag(values))
    draws = [frechet(Moments.of(normal(400, 32, seed=i) * values.sqrt()), exact) for i in range(60)]
    assert np.mean(draws) == pytest.approx(noise_floor(exact, 400), rel=0.05)


@pytest.mark.parametrize("n", [10, 50])
def test_the_spectrum_is_that_of_the_covariance(n):
    statistics = Statistics.of(normal(n, 20))
    values = torch.linalg.eigvalsh(statistics.moments.covariance)
    found = statistics.spectrum().sort().values[-min(n - 1, 20) :]
    torch.testing.assert_close(found, values[-min(n - 1, 20) :])
    assert noise_floor(statistics.spectrum(), 100) == pytest.approx(
        noise_floor(statistics.moments, 100), rel=1e-6
    )


def test_subsets_for_the_extrapolation_go_from_a_quarter_to_all():
    sizes = sizes_of(512)
    assert (sizes[0], sizes[-1], len(sizes)) == (128, 512, 15)
    assert sizes_of(8) == [2, 3, 4, 5, 6, 7, 8]


def test_the_distance_at_infinity_takes_the_bias_away():
    """d = 64, N = 2000, scaled by 1.05: 0.16 by the closed form, where the plain one says 0.73."""
    exact = Statistics.stated(torch.zeros(64).double(), torch.eye(64, dtype=torch.float64))
    draws = [1.05 * normal(2000, 64, seed=seed) for seed in range(2)]
    plain = np.mean([distance(Statistics.of(x), exact).value for x in draws])
    found = np.mean([at_infinity(x, exact) for x in draws])
    assert plain == pytest.approx(
        0.16 + noise_floor(torch.ones(64).double(), 2000) * 1.05**2, rel=0.1
    )
    assert found == pytest.approx(0.16, abs=0.06)


def test_fewer_than_eight_images_are_not_extrapolated():
    with pytest.raises(ValueError, match="7 images cannot be extrapolated"):
        at_infinity(normal(7, 3), Statistics.of(normal(9, 3)))


def test_a_distance_of_moments_that_are_not_finite_is_no_zero():
    """max(0, NaN) is 0."""
    whole = Moments(5, torch.zeros(2).double(), torch.eye(2).double())
    bad = Moments(5, torch.tensor([0.0, math.nan]).double(), torch.eye(2).double())
    with pytest.raises(FloatingPointError, match="moments are not finite"):
        frechet(whole, bad)
