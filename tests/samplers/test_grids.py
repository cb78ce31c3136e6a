"""The grid of another schedule: sampling at its noise levels, whatever was trained on."""

import pytest
import torch

from hierdiff.process import Flow, VariancePreserving
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
