"""Processes over joint levels: corruption, posterior, re-noising, tails."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.process import VariancePreserving, processes
from hierdiff.schedules import Cosine, Shifted

NAMES = processes.names()
LEVELS = [Shifted(Cosine(), 16, 8), Cosine()]
times = st.floats(0.02, 0.98)


def build(name, schedules=LEVELS):
    return processes.build({"name": name, "schedules": schedules})


def at(*t):
    return torch.tensor(t, dtype=torch.float64)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def state(rows=2, fine_rows=None):
    return draw(fine_rows or rows, 3, 4, 4), draw(rows, 3, 2, 2)


@pytest.mark.parametrize(
    ("name", "relation"),
    [
        ("variance_preserving", lambda a, s: a**2 + s**2),
        ("flow", lambda a, s: a + s),
        ("variance_exploding", lambda a, s: a),
    ],
)
def test_alpha_and_sigma_obey_the_relation_of_their_process(name, relation):
    alpha, sigma = build(name).alpha_sigma(at(0.1, 0.5, 0.9))
    assert alpha.shape == (3, 2)
    torch.testing.assert_close(relation(alpha, sigma), torch.ones_like(alpha))


@pytest.mark.parametrize("name", NAMES)
def test_every_process_keeps_the_snr_of_its_schedules(name):
    process, t = build(name), at(0.1, 0.5, 0.9)
    alpha, sigma = process.alpha_sigma(t)
    wanted = torch.stack([schedule(t) for schedule in LEVELS], dim=1)
    torch.testing.assert_close(2 * (alpha / sigma).log(), wanted)


def test_sigma_is_exact_where_almost_nothing_is_noise():
    """1 - alpha^2 would be rounded away in single precision."""
    _, sigma = VariancePreserving([Cosine()]).alpha_sigma(torch.zeros(1))
    assert float(sigma) == pytest.approx(math.exp(-7.5), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_each_level_is_corrupted_by_its_own_coefficients(name):
    process, t = build(name), at(0.2, 0.7)
    x0, eps = state(), state()
    alpha, sigma = process.alpha_sigma(t)
    for i, level in enumerate(process.corrupt(x0, eps, t)):
        for row in range(2):
            wanted = alpha[row, i] * x0[i][row] + sigma[row, i] * eps[i][row]
            torch.testing.assert_close(level[row], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_level_with_the_first_rows_only_is_corrupted_as_in_a_full_batch(name):
    process, t = build(name), at(0.2, 0.5, 0.7)
    x0, eps = state(3), state(3)
    full = process.corrupt(x0, eps, t)
    part = process.corrupt((x0[0][:2], x0[1]), (eps[0][:2], eps[1]), t)
    torch.testing.assert_close(part, (full[0][:2], full[1]))


@pytest.mark.parametrize("name", NAMES)
@given(t=times, s=times)
def test_posterior_and_transition_are_bayes_rule_for_gaussians(name, t, s):
    """Precisions add: 1 / small = (alpha_t / alpha_s)^2 / large + 1 / sigma_s^2."""
    t, s = max(t, s), min(t, s)
    if t - s < 1e-3:
        return
    process = build(name)
    t, s = at(t), at(s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
    here, there = process.moment(t), process.moment(s)
    large, small = process.step_variance(here, there)
    ratio = alpha_t / alpha_s
    torch.testing.assert_close(large, sigma_t**2 - ratio**2 * sigma_s**2, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(1 / small, ratio**2 / large + sigma_s**-2, rtol=1e-6, atol=0)
    x0, x_t = state(1), state(1)
    mean, variance = process.posterior(x0, x_t, here, there)
    torch.testing.assert_close(variance, small)
    for i in range(2):
        from_t = ratio[0, i] / large[0, i] * x_t[i]
        from_x0 = alpha_s[0, i] / sigma_s[0, i] ** 2 * x0[i]
        torch.testing.assert_close(mean[i], small[0, i] * (from_t + from_x0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_posterior_at_zero_is_the_clean_image(name):
    process = build(name, [Shifted(Cosine(log_snr_max=80), 16, 8), Cosine(log_snr_max=80)])
    x0 = state(1)
    mean, variance = process.posterior(
        x0, state(1), process.moment(at(0.5)), process.moment(at(0.0))
    )
    torch.testing.assert_close(mean, x0)
    assert float(variance.max()) < 1e-30


@pytest.mark.parametrize("name", NAMES)
@given(t=times)
def test_renoising_to_the_same_time_is_the_identity(name, t):
    x, process = state(), build(name)
    log_snr = process.log_snr(at(t, t))
    moved = process.renoise(x, log_snr, log_snr, state())
    torch.testing.assert_close(moved, x, rtol=1e-12, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@given(t=times, s=times)
def test_corrupting_and_renoising_has_the_marginal_of_corrupting_once(name, t, s):
    """Mean and variance, from the response to x0 and to both noises."""
    process, zero = build(name), (torch.zeros(1, 1, dtype=torch.float64),) * 2
    one = (torch.ones(1, 1, dtype=torch.float64),) * 2
    t, s = at(min(t, s)), at(max(t, s))
    alpha, sigma = process.alpha_sigma(s)
    ends = process.log_snr(t), process.log_snr(s)
    mean = process.renoise(process.corrupt(one, zero, t), *ends, zero)
    carried = process.renoise(process.corrupt(zero, one, t), *ends, zero)
    added = process.renoise(zero, *ends, one)
    for i in range(2):
        torch.testing.assert_close(mean[i][:, 0], alpha[:, i])
        total = carried[i] ** 2 + added[i] ** 2
        torch.testing.assert_close(total[:, 0], sigma[:, i] ** 2, rtol=1e-9, atol=1e-12)


def test_noise_added_between_two_log_snrs_is_the_published_one():
    """Log-SNR 2 to 0 adds noise of standard deviation 0.657519854."""
    process = VariancePreserving([Cosine()])
    one = torch.ones(1, 1, dtype=torch.float64)
    (added,) = process.renoise((one * 0,), at(2.0)[:, None], at(0.0)[:, None], (one,))
    assert float(added) == pytest.approx(0.657519854, rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_tail_holds_the_schedules_of_the_coarsest_levels_themselves(name):
    process = build(name)
    tail = process.tail(1)
    assert type(tail) is type(process)
    assert len(tail.schedules) == 1 and tail.schedules[0] is process.schedules[1]


def renoised(name, here, there, x=None, noise=None):
    """One level; response to `x` and `noise`, by default 1 and 0."""
    level = torch.ones(1, 1, dtype=torch.float64) if x is None else x
    noise = torch.zeros_like(level) if noise is None else noise
    here, there = (at(value)[:, None] for value in (here, there))
    (found,) = type(build(name)).renoise((level,), here, there, (noise,))
    return found


ONES = torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "scale", "std"),
    [
        ("variance_preserving", math.sqrt(0.5 / 0.880797078), 0.657519854),
        ("flow", 0.5 / 0.731058579, 0.5 * math.sqrt(1 - math.exp(-2))),
        ("variance_exploding", 1, math.sqrt(1 - math.exp(-2))),
    ],
)
def test_renoising_from_log_snr_two_to_zero_by_hand(name, scale, std):
    """Variance sigma^2 - (sigma alpha / alpha)^2 = sigma^2 (1 - e^-2) with each process's sigma."""
    assert float(renoised(name, 2.0, 0.0)) == pytest.approx(scale, rel=1e-8)
    assert float(renoised(name, 2.0, 0.0, ONES * 0, ONES)) == pytest.approx(std, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "level"),
    [(name, level) for name in NAMES for level in (math.inf, 30.0, 0.3, -20.0)]
    + [("variance_preserving", -math.inf), ("flow", -math.inf)],
)
def test_renoising_to_the_same_log_snr_changes_no_bit(name, level):
    x = draw(1, 3)
    assert torch.equal(renoised(name, level, level, x, draw(1, 3)), x)


@pytest.mark.parametrize("name", NAMES)
@given(there=st.floats(-25, 25))
def test_renoising_a_clean_image_is_corrupting_it(name, there):
    x, noise = draw(1, 3), draw(1, 3)
    alpha, sigma = build(name).coefficients(at(there))
    wanted = alpha * x + sigma * noise
    torch.testing.assert_close(renoised(name, math.inf, there, x, noise), wanted)


@pytest.mark.parametrize("name", ["variance_preserving", "flow"])
@pytest.mark.parametrize("here", [math.inf, 2.0, -5.0])
def test_renoising_to_no_signal_leaves_the_noise_alone(name, here):
    noise = draw(1, 3)
    assert torch.equal(renoised(name, here, -math.inf, draw(1, 3), noise), noise)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_rise_keeps_its_digits_in_single_precision(name):
    """sigma^2 - (sigma alpha / alpha)^2 would cancel: at log-SNR 5 a rise by 1e-4."""
    here = torch.tensor([[5.0]])
    there = here - 1e-4
    one = torch.ones(1, 1)
    cls = type(build(name))
    (found,) = cls.renoise((one * 0,), here, there, (one,))
    _, sigma = cls.coefficients(there.double())
    wanted = sigma * (-torch.expm1(there.double() - here.double())).sqrt()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
