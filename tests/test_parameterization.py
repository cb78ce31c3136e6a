"""The table of predictions, the 2x2 solve, and the scaling of the network's input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.denoisers.layers import GammaClock
from hierdiff.parameterization import (
    PREDICTIONS,
    Parameterization,
    error_ratio,
    target,
    to_x0_eps,
)
from hierdiff.process import processes
from hierdiff.schedules import GammaLinear, InputScaled

KINDS = sorted(PREDICTIONS)
PROCESSES = processes.names()
log_snrs = st.floats(-12, 12)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def alpha_sigma(process, log_snr):
    return processes.get(process).coefficients(number(log_snr))


@pytest.mark.parametrize("process", PROCESSES)
@given(kind=st.sampled_from(KINDS), log_snr=log_snrs, sigma_data=st.floats(0.1, 2))
def test_every_prediction_gives_back_x0_and_eps(process, kind, log_snr, sigma_data):
    alpha, sigma = alpha_sigma(process, log_snr)
    x0, eps = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    x_t = alpha * x0 + sigma * eps
    prediction = target(kind, x0, eps, alpha, sigma, sigma_data)
    got = to_x0_eps(kind, prediction, x_t, alpha, sigma, sigma_data)
    torch.testing.assert_close(got, (x0, eps), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
@given(kind=st.sampled_from(KINDS), log_snr=st.floats(-8, 8))
def test_any_x0_and_eps_read_off_a_prediction_explain_the_state(process, kind, log_snr):
    """alpha x0 + sigma eps = x_t also where the prediction is wrong."""
    alpha, sigma = alpha_sigma(process, log_snr)
    prediction, x_t = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    x0, eps = to_x0_eps(kind, prediction, x_t, alpha, sigma, 0.5)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=1e-8, atol=1e-8)
    again = target(kind, x0, eps, alpha, sigma, 0.5)
    torch.testing.assert_close(again, prediction, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("process", PROCESSES)
@given(first=st.sampled_from(KINDS), second=st.sampled_from(KINDS), log_snr=st.floats(-8, 8))
def test_error_ratio_is_measured_by_converting_two_predictions(process, first, second, log_snr):
    """An error of x0 at fixed x_t, converted to either space, has the stated ratio."""
    alpha, sigma = alpha_sigma(process, log_snr)
    x_t, x0, other = number(0.7), number(0.2), number(0.9)

    def error(kind):
        ends = [target(kind, x, (x_t - alpha * x) / sigma, alpha, sigma, 0.5) for x in (x0, other)]
        return (ends[0] - ends[1]) ** 2 / (x0 - other) ** 2

    for kind in (first, second):
        wanted = error_ratio(kind, alpha, sigma, 0.5)
        torch.testing.assert_close(error(kind), wanted, rtol=1e-6, atol=1e-9)


def test_v_and_u_are_what_their_papers_say():
    alpha, sigma = alpha_sigma("variance_preserving", 0.7)
    x0, eps = number(0.3), number(-1.1)
    x_t = alpha * x0 + sigma * eps
    v = target("v", x0, eps, alpha, sigma)
    torch.testing.assert_close(v, alpha * eps - sigma * x0)
    torch.testing.assert_close(alpha * x_t - sigma * v, x0)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps)
    torch.testing.assert_close(target("u", x0, eps, alpha, sigma), eps - x0)


@pytest.mark.parametrize(
    ("sigma", "skip", "out", "into"),
    [
        (0.5, 0.5, 0.353553391, 1.414213562),
        (80, 3.90609742e-5, 0.499990235, 0.0124997559),
    ],
)
def test_edm_preconditioning_is_a_row_of_the_table(sigma, skip, out, into):
    """D = c_skip x + c_out F(c_in x): c_skip answers x = 1, F = 0, and c_out the reverse."""
    one, zero, s = number(1.0), number(0.0), number(float(sigma))
    assert float(to_x0_eps("edm", zero, one, one, s, 0.5)[0]) == pytest.approx(skip, rel=1e-8)
    assert float(to_x0_eps("edm", one, zero, one, s, 0.5)[0]) == pytest.approx(out, rel=1e-8)
    scaled = Parameterization("edm", "data", 0.5).scaled(
        (one.reshape(1, 1, 1, 1),), one.reshape(1, 1), s.reshape(1, 1)
    )
    assert float(scaled[0]) == pytest.approx(into, rel=1e-8)


@pytest.mark.parametrize(
    ("log_snr", "eps", "v"),
    [(2, 7.389056099, 8.389056099), (0, 1, 2), (-2, 0.135335283, 1.135335283)],
)
def test_error_ratios_of_the_variance_preserving_process(log_snr, eps, v):
    alpha, sigma = alpha_sigma("variance_preserving", float(log_snr))
    assert float(error_ratio("eps", alpha, sigma)) == pytest.approx(eps, rel=1e-8)
    assert float(error_ratio("v", alpha, sigma)) == pytest.approx(v, rel=1e-8)
    assert float(error_ratio("x0", alpha, sigma)) == 1


def test_at_pure_noise_v_still_gives_an_image_and_x0_still_gives_noise():
    alpha, sigma = number(0.0), number(1.0)
    v, x_t = number(0.3), number(-0.8)
    x0, eps = to_x0_eps("v", v, x_t, alpha, sigma)
    assert float(x0) == pytest.approx(-0.3) and float(eps) == pytest.approx(-0.8)
    assert float(to_x0_eps("x0", v, x_t, alpha, sigma)[1]) == pytest.approx(-0.8)


def test_edm_target_has_unit_variance_at_every_noise_level():
    for log_snr in (-6.0, 0.0, 6.0):
        alpha, sigma = alpha_sigma("variance_exploding", log_snr)
        a, b = PREDICTIONS["edm"](alpha, sigma, 0.5)
        assert float(a**2 * 0.25 + b**2) == pytest.approx(1)


def test_input_scale_of_each_level_is_its_own():
    x = tuple(5 * torch.randn(2, 3, side, side, dtype=torch.float64) for side in (8, 4, 2))
    alpha = torch.full((2, 3), 0.6, dtype=torch.float64)
    sigma = torch.full((2, 3), 0.8, dtype=torch.float64)
    found = Parameterization("v", ["none", "sample", "data"], 0.5).scaled(x, alpha, sigma)
    assert torch.equal(found[0], x[0])
    torch.testing.assert_close(found[1].std(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found[2], x[2] / math.sqrt(0.36 * 0.25 + 0.64))


def test_sample_scale_takes_each_example_by_itself():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    ones = torch.ones(2, 1, dtype=torch.float64)
    scaled = Parameterization("v", "sample").scaled
    (both,), (alone,) = scaled((x,), ones, ones), scaled((x[:1],), ones[:1], ones[:1])
    torch.testing.assert_close(both[:1], alone)
    (louder,) = scaled((x * torch.tensor([1.0, 7.0]).reshape(2, 1, 1, 1),), ones, ones)
    torch.testing.assert_close(louder, both)


def test_population_scale_divides_by_the_root_of_the_mean_square_about_the_mean():
    """n, not n - 1, as in the released code of Chen: 1 3 5 7 have the deviation sqrt(5)."""
    x = torch.tensor([1.0, 3.0, 5.0, 7.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    one = torch.ones(1, 1, dtype=torch.float64)
    (found,) = Parameterization("eps", "population").scaled((x,), one, one)
    torch.testing.assert_close(found, x / math.sqrt(5))
    (other,) = Parameterization("eps", "sample").scaled((x,), one, one)
    torch.testing.assert_close(other, x / math.sqrt(20 / 3))


@pytest.mark.parametrize("b", [1.0, 0.5, 0.1])
def test_a_network_on_scaled_images_receives_gamma(b):
    """gamma(t) = 1 - t whatever b, though the process is at b^2 gamma / (1 - gamma)."""
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    log_snr = InputScaled(GammaLinear(), b)(t)
    found = Parameterization("eps", image_scale=b).network_log_snr(log_snr[:, None])
    torch.testing.assert_close(GammaClock()(found[:, 0]), 1000 * (1 - t))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "epsilon"}, r"unknown prediction 'epsilon'.*'eps'"),
        ({"input_scale": "samples"}, r"unknown input scale 'samples'.*'sample'"),
        ({"input_scale": ["none", "date"]}, r"unknown input scale 'date'.*'data'"),
    ],
)
def test_unknown_choices_suggest_the_nearest(options, message):
    with pytest.raises(ValueError, match=message):
        Parameterization(**options)
