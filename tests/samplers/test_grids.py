"""The grid of another schedule: sampling at its noise levels, whatever was trained on."""

import pytest
import torch

from hierdiff.process import Flow, VariancePreserving
from hierdiff.samplers import grids
from hierdiff.samplers.grids import ScheduleGrid, UniformGrid
from hierdiff.schedules import (
    Cosine,
    GammaCosine,
    GammaLinear,
    InputScaled,
    Limited,
    LinearBeta,
    Shifted,
    Sigmoid,
)


@pytest.mark.parametrize("schedule", [Cosine(), GammaLinear(), LinearBeta(), Sigmoid(-3, 3, 0.9)])
def test_a_schedule_apart_from_itself_is_the_uniform_grid(schedule):
    process = VariancePreserving([Shifted(schedule, 4, 2), schedule])
    found = ScheduleGrid(schedule)(16, process)
    torch.testing.assert_close(found, UniformGrid()(16, process), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [VariancePreserving, Flow])
@pytest.mark.parametrize("trained", [GammaLinear(), Sigmoid(-3, 3, 0.9), Limited(GammaLinear())])
def test_the_visited_noise_levels_are_those_of_the_other_schedule(kind, trained):
    process = kind([Shifted(trained, 64, 32), trained])
    times = ScheduleGrid(GammaCosine())(50, process)
    uniform = UniformGrid()(50, process)
    assert len(times) == 51 and float(times[-1]) == 0
    assert float(times[0]) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(process.log_snr(times)[1:-1, 1], GammaCosine()(uniform)[1:-1])


def test_known_times_of_a_cosine_on_a_linear_training_schedule():
    """1 - t = cos^2(pi / 2 u)."""
    times = ScheduleGrid()(4, VariancePreserving([GammaLinear()]))
    wanted = torch.tensor([1, 0.853553391, 0.5, 0.146446609, 0], dtype=torch.float64)
    torch.testing.assert_close(times, wanted, rtol=1e-8, atol=0)


def test_a_scale_on_both_schedules_moves_no_time():
    plain = ScheduleGrid(GammaCosine())(10, VariancePreserving([GammaLinear()]))
    process = VariancePreserving([InputScaled(GammaLinear(), 0.6)])
    scaled = ScheduleGrid(InputScaled(GammaCosine(), 0.6))(10, process)
    torch.testing.assert_close(scaled, plain)


def test_levels_beyond_the_ends_of_training_are_one_step():
    """The first of a cosine to 15 on training within 3: times fall strictly all the same."""
    process = VariancePreserving([Limited(GammaLinear(), log_snr_min=-3, log_snr_max=3)])
    times = ScheduleGrid(Cosine())(100, process)
    assert float(times[0]) == 1 and float(times[-1]) == 0 and (times.diff() < 0).all()
    inside = (Cosine()(UniformGrid()(100, process)).abs() < 3).sum()
    assert len(times) == int(inside) + 2


def test_the_highest_noise_of_the_other_schedule_is_where_sampling_starts():
    process = VariancePreserving([GammaLinear()])
    times = ScheduleGrid(Limited(GammaCosine(), log_snr_min=-6.0))(10, process)
    assert float(times[0]) == pytest.approx(float(torch.sigmoid(torch.tensor(6.0))))


TEN_EIGHT_FIVE = [
    *(0, 37, 74, 111, 148, 185, 222, 259, 296, 333),
    *(334, 381, 429, 476, 524, 571, 619, 666),
    *(667, 750, 833, 916, 999),
]
TWENTY_FIVE = [  # an exact 832.5 comes before 833 where strides are added up
    *(0, 42, 83, 125, 166, 208, 250, 291, 333, 375, 416, 458, 500),
    *(541, 583, 624, 666, 708, 749, 791, 832, 874, 916, 957, 999),
]
TEN_FIFTEEN_TWENTY = [  # the example in ADM's code: 300 steps in three sections
    *range(0, 100, 11),
    *(100, 107, 114, 121, 128, 135, 142, 149, 157, 164, 171, 178, 185, 192, 199),
    *(200, 205, 210, 216, 221, 226, 231, 236, 242, 247),
    *(252, 257, 263, 268, 273, 278, 283, 289, 294, 299),
]


def entries(node, steps, table=1000):
    """Steps of the table that a grid visits, counted from 0 and rising, and where it ends."""
    *times, end = grids.build(node)(steps, VariancePreserving([LinearBeta()])).tolist()
    return [round(t * table) - 1 for t in reversed(times)], end


@pytest.mark.parametrize(
    ("respacing", "steps", "expected"),
    [
        ("25", 25, TWENTY_FIVE),
        (25, 25, TWENTY_FIVE),
        (None, 25, TWENTY_FIVE),
        ("10,8,5", 23, TEN_EIGHT_FIVE),
        ("10, 8, 5", 23, TEN_EIGHT_FIVE),
        ([10, 8, 5], 23, TEN_EIGHT_FIVE),
        ("ddim25", 25, range(0, 1000, 40)),
        ("1000", 1000, range(1000)),
        ("1,1,1", 3, [0, 334, 667]),
    ],
)
def test_respacing_visits_the_steps_that_the_released_code_visits(respacing, steps, expected):
    found, end = entries({"name": "respaced", "respacing": respacing}, steps)
    assert found == list(expected) and end == 0


def test_respacing_of_the_example_in_the_released_code():
    node = {"name": "respaced", "table": 300, "respacing": [10, 15, 20]}
    assert entries(node, 45, table=300) == (TEN_FIFTEEN_TWENTY, 0)


@pytest.mark.parametrize(
    ("respacing", "steps", "message"),
    [
        ("10,8,5", 25, "has 23 steps and not 25: set steps=23"),
        ("ddim25", 50, "has 25 steps and not 50"),
        ("ddim300", 300, "no whole stride visits 300 steps"),
        ("600,5", 605, "600 steps of a part of 500"),
        (None, 2000, "2000 steps of a part of 1000"),
        ("fast25", 25, "respacing 'fast25': write counts"),
        ("10,,5", 15, "respacing '10,,5': write counts"),
        ("0", 1, "respacing '0': write counts"),
    ],
)
def test_a_respacing_that_is_none_is_refused(respacing, steps, message):
    with pytest.raises(ValueError, match=message):
        entries({"name": "respaced", "respacing": respacing}, steps)


@pytest.mark.parametrize(("steps", "stride"), [(200, 5), (50, 20), (4, 250)])
def test_leading_steps_are_those_of_latent_diffusion(steps, stride):
    """range(0, 1000, 1000 // steps) + 1, and the last step goes to the table's first entry."""
    found, end = entries({"name": "leading", "end": 0.001}, steps)
    assert found == list(range(1, 1001, stride)) and end == 0.001
    assert entries({"name": "leading", "offset": 0}, steps) == (list(range(0, 1000, stride)), 0)


def test_leading_steps_that_do_not_divide_the_table_are_more_as_in_the_released_code():
    found, _ = entries({"name": "leading"}, 30)
    assert found == list(range(1, 1001, 33)) and len(found) == 31


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [({}, 1001, "choose fewer"), ({"end": 0.5}, 10, "does not fall to 0.5")],
)
def test_leading_steps_beyond_the_table_are_refused(options, steps, message):
    with pytest.raises(ValueError, match=message):
        entries({"name": "leading", **options}, steps)


def test_trailing_steps_begin_at_the_last_entry_of_the_table():
    found, end = entries({"name": "trailing"}, 30)
    assert found[-4:] == [899, 932, 966, 999] and found[0] == 32 and end == 0
    process = VariancePreserving([LinearBeta()])
    even = UniformGrid()(50, process)
    torch.testing.assert_close(grids.build({"name": "trailing"})(50, process), even)


def test_a_last_step_of_its_own_size():
    """SiT's: 249 equal steps from 1 to 0.04, and one to 0."""
    times = UniformGrid(last=0.04)(250, Flow([GammaLinear()]))
    assert len(times) == 251 and times[[0, -2, -1]].tolist() == [1, 0.04, 0]
    torch.testing.assert_close(-times.diff()[:-1], torch.full((249,), 0.96 / 249).double())
    assert UniformGrid(last=0.04)(1, Flow([GammaLinear()])).tolist() == [1, 0]


def test_a_last_step_that_leaves_no_other_is_refused():
    with pytest.raises(ValueError, match="with a last step of 0.5 does not fall"):
        UniformGrid(start=0.5, last=0.5)
