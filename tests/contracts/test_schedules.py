"""What holds for every registered schedule, alone and inside the ones that wrap another."""

import inspect

import pytest
import torch

from hierdiff.schedules import Schedule, schedules

FILLED = {
    "base": {"name": "cosine"},
    "noisy": {"name": "shifted", "base": {"name": "cosine"}, "resolution": 256, "reference": 32},
    "clean": {"name": "shifted", "base": {"name": "cosine"}, "resolution": 256, "reference": 64},
    "resolution": 256,
    "scale": 0.5,
}
T = torch.linspace(0, 1, 401, dtype=torch.float64)[1:-1]


def build(name: str) -> Schedule:
    """With defaults; an option that has none takes a value by its name."""
    parameters = inspect.signature(schedules.get(name)).parameters.values()
    needed = {p.name: FILLED[p.name] for p in parameters if p.default is p.empty}
    return schedules.build({"name": name, **needed})


def wrapped(name: str) -> Schedule:
    return schedules.build({"name": "shifted", "base": build(name), "resolution": 128})


CASES = [
    pytest.param(make, name, id=f"{make.__name__}-{name}")
    for name in schedules.names()
    for make in (build, wrapped)
]


@pytest.mark.parametrize(("make", "name"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_snr_is_finite_and_strictly_decreasing_inside(make, name, dtype):
    log_snr = make(name)(T.to(dtype))
    assert log_snr.dtype == dtype and log_snr.shape == T.shape
    assert torch.isfinite(log_snr).all() and (log_snr.diff() < 0).all()


@pytest.mark.parametrize(("make", "name"), CASES)
def test_the_ends_are_beyond_all_between_and_never_nan(make, name):
    schedule = make(name)
    first, last = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    inside = schedule(T)
    assert first > inside[0] and last < inside[-1]


@pytest.mark.parametrize(("make", "name"), CASES)
def test_inverse_undoes_the_schedule(make, name):
    schedule = make(name)
    torch.testing.assert_close(schedule.inverse(schedule(T)), T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("make", "name"), CASES)
def test_inverse_agrees_with_bisection(make, name):
    schedule = make(name)
    log_snr = schedule(T[::40])
    found = Schedule.inverse(schedule, log_snr)
    torch.testing.assert_close(schedule.inverse(log_snr), found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", schedules.names())
def test_schedules_are_values(name):
    assert build(name) == build(name) and hash(build(name)) == hash(build(name))
