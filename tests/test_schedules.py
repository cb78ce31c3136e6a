"""Known answers of the schedules (float64); what holds for every one is in contracts/."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.levels import down
from hierdiff.schedules import (
    Cosine,
    GammaCosine,
    GammaLinear,
    InputScaled,
    Interpolated,
    Limited,
    LinearBeta,
    LinearFlow,
    Power,
    ScaledLinearBeta,
    Shifted,
    Sigmoid,
    SquaredCosine,
)


def at(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def same(found: torch.Tensor, wanted: list[float], rtol: float = 1e-8, atol: float = 2e-9) -> None:
    torch.testing.assert_close(found, at(*wanted), rtol=rtol, atol=atol)


def test_cosine_reaches_its_limits_by_rescaled_time():
    wanted = [15, 3.679740435, 1.761183248, 0, -1.761183248, -3.679740435, -15]
    same(Cosine()(at(0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)), wanted)


def test_cosine_with_distant_limits_is_the_plain_cosine():
    wide = Cosine(log_snr_min=-60, log_snr_max=60)
    same(wide(at(0.1, 0.25)), [3.685460069, 1.762747174])
    same(torch.sigmoid(wide(at(0.25, 0.5, 0.75))), [0.853553391, 0.5, 0.146446609])


@pytest.mark.parametrize(
    ("reference", "side", "shift"),
    [
        (64, 128, -1.386294361),
        (64, 256, -2.772588722),
        (32, 256, -4.158883083),
        (64, 512, -4.158883083),
        (32, 512, -5.545177444),
        (16, 256, -5.545177444),
    ],
)
def test_shift_is_twice_the_logarithm_of_the_side_ratio(reference, side, shift):
    t = at(0.1, 0.5, 0.9)
    same(Shifted(Cosine(), side, reference)(t) - Cosine()(t), [shift] * 3)


@pytest.mark.parametrize(
    ("side", "exponent", "wanted"),
    [
        (64, 1, [10.094, 7.367, 3.551, 1.711, -0.025, -1.780, -3.702, -12.928, -19.836]),
        (256, 1, [8.708, 5.981, 2.164, 0.325, -1.411, -3.167, -5.088, -14.314, -21.222]),
        (256, 2, [7.322, 4.595, 0.778, -1.061, -2.797, -4.553, -6.474, -15.701, -22.608]),
        (1024, 1, [7.322, 4.595, 0.778, -1.061, -2.797, -4.553, -6.474, -15.701, -22.608]),
        (1024, 2, [4.549, 1.822, -1.995, -3.834, -5.570, -7.325, -9.247, -18.473, -25.381]),
    ],
)
def test_levels_of_the_official_mdm_have_its_log_snr(side, exponent, wanted):
    """Its table is float32, which moves the first entry by 10^-3."""
    t = at(1, 10, 100, 250, 500, 750, 900, 999, 1000) / 1000
    same(Shifted(SquaredCosine(), side, 64, exponent)(t), wanted, rtol=0, atol=1.1e-3)


@given(t=st.floats(0.01, 0.99), side=st.sampled_from([16, 64, 1024]))
def test_shift_at_the_reference_is_no_shift(t, side):
    assert torch.equal(Shifted(Cosine(), side, side)(at(t)), Cosine()(at(t)))


def test_pooling_gains_what_the_shift_takes():
    """Block means of unit noise over k x k have variance 1 / k^2: a log-SNR gain of 2 ln k."""
    for k, gain in ((2, 1.386294361), (4, 2.772588722), (8, 4.158883083)):
        basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
        pooled = down(basis, 8 // k).flatten(1)  # transposed matrix of the pooling
        covariance = pooled.T @ pooled
        identity = torch.eye(len(covariance), dtype=torch.float64)
        torch.testing.assert_close(covariance, identity * math.exp(-gain), rtol=1e-8, atol=1e-12)
        same(Shifted(Cosine(), 8, 8 // k)(at(0.3)) + gain, [float(Cosine()(at(0.3)))])


def test_interpolated_lets_the_low_reference_rule_at_the_noisy_end():
    schedule = Interpolated(noisy=Shifted(Cosine(), 256, 32), clean=Shifted(Cosine(), 256, 256))
    wanted = [15, 0.721462477, -2.079441542, -4.880345560, -19.158883083]
    same(schedule(at(0, 0.25, 0.5, 0.75, 1)), wanted)
    exchanged = Interpolated(noisy=schedule.clean, clean=schedule.noisy)
    same(exchanged(at(0.25)), [-1.357979065])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((-3, 3, 0.9), [0.866370288, 0.5, 0.133629712]),
        ((-3, 3, 1.1), [0.837823362, 0.5, 0.162176638]),
        ((0, 3, 0.3), [0.151639333, 0.013296113, 0.001014854]),
    ],
)
def test_sigmoid_schedule_has_the_published_alpha_squared(options, wanted):
    same(torch.sigmoid(Sigmoid(*options)(at(0.25, 0.5, 0.75))), wanted)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((0, 1, 1), [0.853553391, 0.5, 0.146446609]),
        ((0.2, 1, 1), [0.723606798, 0.381966011, 0.105572809]),
    ],
)
def test_gamma_cosine_has_the_published_alpha_squared(options, wanted):
    same(torch.sigmoid(GammaCosine(*options)(at(0.25, 0.5, 0.75))), wanted)


@given(start=st.floats(0, 0.4), end=st.floats(0.5, 1), tau=st.floats(0.5, 3), t=st.floats(0.01, 1))
def test_gamma_cosine_is_the_stretched_piece_of_its_power(start, end, tau, t):
    first, here, last = (
        math.cos(math.pi / 2 * u) ** (2 * tau) for u in (start, start + t * (end - start), end)
    )
    found = torch.sigmoid(GammaCosine(start, end, tau)(at(t)))
    same(found, [(here - last) / (first - last)], atol=1e-10)


def test_the_whole_gamma_cosine_is_the_plain_cosine():
    t = at(0.01, 0.3, 0.99)
    torch.testing.assert_close(GammaCosine()(t), Cosine(log_snr_min=-90, log_snr_max=90)(t))


def test_the_cosine_with_offsets_is_a_cosine_with_other_limits():
    """cos^2(pi / 2 (t + 0.0002) / 1.00025), the released code of Chen without parameters."""
    first, last = (math.pi / 2 * u / 1.00025 for u in (0.0002, 1.0002))
    schedule = Cosine(-2 * math.log(math.tan(last)), -2 * math.log(math.tan(first)))
    wanted = [0.853400672, 0.499882220, 0.146432729]
    same(torch.sigmoid(schedule(at(0.25, 0.5, 0.75))), wanted)


def test_gamma_linear_has_alpha_squared_one_minus_t():
    t = at(1e-6, 0.1, 0.25, 0.9)
    torch.testing.assert_close(torch.sigmoid(GammaLinear()(t)), 1 - t)


@pytest.mark.parametrize(
    "schedule",
    [GammaLinear(), GammaCosine(), GammaCosine(0.2, 0.8, 0.7), Sigmoid(-3, 3, 0.9), Sigmoid(0, 3)],
)
def test_gamma_families_are_clean_at_zero_noise_at_one_and_finite_in_single_precision(schedule):
    assert schedule(at(0, 1)).tolist() == [math.inf, -math.inf]
    near = torch.tensor([1e-6, 1e-5, 1e-4], dtype=torch.float32)
    for t in (near, (1 - near).flip(0)):
        found = schedule(t)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.double(), schedule(t.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", [GammaLinear(), GammaCosine(0.2, 1, 1), Sigmoid(-3, 3, 0.9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits_are_reached_by_rescaled_time(base, dtype):
    """alpha^2 of 1e-9 at t = 1, though the time of it is 1 in single precision."""
    limited = Limited(base, log_snr_min=math.log(1e-9) - math.log1p(-1e-9), log_snr_max=9)
    ends = torch.tensor([0, 1], dtype=dtype)
    found = limited(ends)
    assert found.dtype == dtype
    same(found.double(), [9, -20.723265836], rtol=1e-6)
    first, last = base.inverse(at(9.0, -20.723265836))
    t = at(0.2, 0.5, 0.8)
    torch.testing.assert_close(limited(t), base(first + t * (last - first)))


def test_limits_beyond_the_ends_change_nothing():
    t = at(0, 0.3, 1)
    assert torch.equal(Limited(Cosine(), log_snr_min=-20, log_snr_max=20)(t), Cosine()(t))


@pytest.mark.parametrize(("low", "high"), [(2, 1), (16, 20), (-20, -16)])
def test_limits_must_hold_a_piece_of_the_schedule(low, high):
    with pytest.raises(ValueError, match=r"is no piece of Cosine"):
        Limited(Cosine(), log_snr_min=low, log_snr_max=high)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (LinearBeta(), [0.9999, 0.521423031, 0.0777966584, 0.00330015836, 4.03582977e-5]),
        (ScaledLinearBeta(), [0.99915, 0.673792625, 0.276332684, 0.056169848, 0.00466009851]),
        (
            ScaledLinearBeta(start=0.0015, end=0.0195),
            [0.9985, 0.50842433, 0.114922001, 0.00833413595, 1.42303975e-4],
        ),
        (SquaredCosine(), [0.999958716, 0.845887986, 0.492285172, 0.143178646, 2.42876691e-9]),
    ],
)
def test_discrete_tables_have_the_published_alpha_squared(schedule, wanted):
    """Published entry i, which counts from 0, stands at t = (i + 1) / 1000."""
    t = (at(0, 250, 500, 750, 999) + 1) / 1000
    same(torch.sigmoid(schedule(t)), wanted, rtol=3e-9, atol=0)


def test_discrete_tables_end_where_they_should():
    same(LinearBeta()(at(1)), [-10.11767], rtol=1e-6)
    same(ScaledLinearBeta()(at(1)), [-5.36405], rtol=1e-6)
    same(torch.sigmoid(ScaledLinearBeta(start=0.0015, end=0.0155)(at(1))), [6.68665174e-4])


@pytest.mark.parametrize(
    ("entry", "alpha", "sigma", "log_snr"),
    [
        (101, 0.998736, 0.050272, 5.978),
        (251, 0.994006, 0.109329, 4.415),
        (501, 0.978595, 0.205797, 3.118),
        (751, 0.953908, 0.300099, 2.313),
        (1001, 0.920180, 0.391495, 1.709),
        (1251, 0.877730, 0.479155, 1.211),
    ],
)
def test_a_table_of_4000_steps_has_the_published_augmentation_levels(entry, alpha, sigma, log_snr):
    found = SquaredCosine(steps=4000)(at(entry / 4000))
    same(torch.sigmoid(found).sqrt(), [alpha], atol=6e-7)
    same(torch.sigmoid(-found).sqrt(), [sigma], atol=6e-7)
    same(found, [log_snr], atol=6e-4)


@pytest.mark.parametrize("schedule", [LinearBeta(), ScaledLinearBeta(), SquaredCosine()])
def test_a_table_is_clean_at_zero_and_monotone_before_its_first_entry(schedule):
    assert float(schedule(at(0))) == math.inf
    assert (schedule(at(1e-9, 1e-6, 5e-4, 1e-3, 1.5e-3)).diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_integer_step_of_a_table_survives_single_precision(dtype):
    step = torch.arange(1, 1001)
    schedule = Shifted(SquaredCosine(), 1024, 64, 2)
    t = schedule.inverse(schedule((step / 1000).to(dtype)).double())
    assert torch.equal(torch.round(t * 1000).long(), step)


@pytest.mark.parametrize(
    ("scale", "shift", "std"),
    [
        (0.5, -1.386294361, 0.790569415),
        (0.3, -2.407945609, 0.738241153),
        (0.25, -2.772588722, 0.728868987),
        (0.1, -4.605170186, 0.710633520),
    ],
)
def test_input_scaling_is_a_shift_by_twice_its_logarithm(scale, shift, std):
    """and sqrt(1/2) (b x0 + eps), at alpha^2 = 1/2, is the shifted state times its std."""
    t = at(0.2, 0.5, 0.8)
    scaled = InputScaled(Cosine(), scale)
    same(scaled(t) - Cosine()(t), [shift] * 3)
    alpha = torch.sigmoid(scaled(at(0.5))).sqrt()
    assert float(math.sqrt(0.5) * scale / alpha) == pytest.approx(std, rel=1e-8)


def test_input_scale_of_a_quarter_is_64_over_256():
    t = at(0.1, 0.6)
    torch.testing.assert_close(InputScaled(Cosine(), 0.25)(t), Shifted(Cosine(), 256, 64)(t))


@pytest.mark.parametrize(
    ("s", "moved", "shift"),
    [
        (2, 0.666666667, -1.386294361),
        (3, 0.75, -2.197224577),
        (math.sqrt(48), 0.873868016, -3.871201011),
    ],
)
def test_the_flow_shift_of_time_is_a_shift_of_log_snr(s, moved, shift):
    t = at(0.1, 0.5, 0.9)
    later = s * t / (1 + (s - 1) * t)
    assert float(later[1]) == pytest.approx(moved, rel=1e-8)
    same(LinearFlow()(later) - LinearFlow()(t), [shift] * 3)
    torch.testing.assert_close(InputScaled(LinearFlow(), 1 / s)(t), LinearFlow()(later))


def test_linear_flow_has_alpha_one_minus_t():
    t = at(0.1, 0.25, 0.9)
    torch.testing.assert_close(torch.sigmoid(LinearFlow()(t) / 2), 1 - t)


def test_power_has_sigma_over_alpha_in_the_stated_power_of_time():
    t = at(0.25, 0.5, 1)
    torch.testing.assert_close(torch.exp(-Power(80, 7)(t) / 2), 80 * t**7)


def test_input_scale_must_be_positive():
    with pytest.raises(ValueError, match=r"input scale 0 is not positive"):
        InputScaled(Cosine(), 0)


def test_a_schedule_is_composed_from_nodes_too():
    node = {"name": "shifted", "base": {"name": "cosine"}, "resolution": 128}
    from hierdiff.schedules import schedules

    built = schedules.build(node)
    assert built == Shifted(Cosine(), 128)
    same(built(at(0.5)), [-1.386294361])


def test_an_infinite_end_that_does_not_rule_plays_no_part_in_an_interpolation():
    """0 times infinity is NaN, and t ln t ends at 0."""
    schedule = Interpolated(noisy=LinearFlow(), clean=Cosine())
    assert schedule(at(0, 1)).tolist() == [pytest.approx(15), -math.inf]
    schedule = Interpolated(noisy=Cosine(), clean=LinearFlow())
    assert schedule(at(0, 1)).tolist() == [math.inf, pytest.approx(-15)]
    near = at(1e-12, 1e-9)
    torch.testing.assert_close(
        Interpolated(noisy=LinearFlow(), clean=Cosine())(near), Cosine()(near), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cosine_to_any_limit_has_a_tangent(dtype):
    """Single precision rounds pi / 2 up, where the tangent is negative and has no logarithm."""
    t = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=dtype)
    for least in (-60.0, -90.0, -2000.0, -math.inf):
        found = Cosine(least, math.inf)(t)
        assert found[0] == math.inf and found[-1] < -30 and (found.diff() < 0).all()
        torch.testing.assert_close(
            found[1:4].double(), GammaCosine()(t)[1:4].double(), atol=1e-5, rtol=0
        )
