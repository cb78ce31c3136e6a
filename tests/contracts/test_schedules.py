"""What holds for every registered schedule, alone and inside the ones that wrap another."""

import inspect

import pytest
import torch

from hierdiff.process import processes
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


WRAPPERS = {
    "shifted": lambda base: {"name": "shifted", "base": base, "resolution": 128},
    "input_scaled": lambda base: {"name": "input_scaled", "base": base, "scale": 0.5},
    "limited": lambda base: {"name": "limited", "base": base},
    "noisy": lambda base: {"name": "interpolated", "noisy": base, "clean": FILLED["clean"]},
    "clean": lambda base: {"name": "interpolated", "noisy": FILLED["noisy"], "clean": base},
    "both": lambda base: {"name": "interpolated", "noisy": base, "clean": base},
}
EDGES = torch.tensor([0.0, 1e-3, 0.5, 0.999, 1.0], dtype=torch.float64)


def is_defined(process) -> bool:
    """At both ends, in either precision."""
    return all(
        bool(part.isfinite().all())
        for dtype in (torch.float32, torch.float64)
        for part in process.alpha_sigma(EDGES.to(dtype))
    )


@pytest.mark.parametrize("outer", ["limited", "clean"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", schedules.names())
def test_compositions_are_defined_or_refused_at_both_ends(name, wrapper, outer):
    node = WRAPPERS[outer](WRAPPERS[wrapper](build(name)))
    for kind in ("variance_preserving", "flow"):
        try:
            process = processes.build({"name": kind, "schedules": [node]})
        except ValueError as error:  # two noisy ends of other noise: the mean of both rises
            assert "must fall from t = 0 to t = 1" in str(error) and "interpolated" in str(node)
            return
        log_snr = process.log_snr(EDGES)
        assert not log_snr.isnan().any() and is_defined(process)
        assert (log_snr.diff(dim=0) < 0).all()
    try:
        exploding = processes.build({"name": "variance_exploding", "schedules": [node]})
    except ValueError as error:
        assert "sigma of VarianceExploding is" in str(error) and "\n" not in str(error)
        assert schedules.build(node)(EDGES)[-1] == -torch.inf
    else:
        assert is_defined(exploding)


OPTIONS = [
    (name, option)
    for name in schedules.names()
    for option, parameter in inspect.signature(schedules.get(name)).parameters.items()
    if parameter.annotation in ("float", "int")
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0, -1, 1e300, -1e300])
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_options_that_define_no_schedule_are_refused_in_one_sentence(name, option, value):
    if inspect.signature(schedules.get(name)).parameters[option].annotation == "int":
        value = int(value) if abs(value) < 2 else 1
    needed = {"base", "noisy", "clean", "resolution", "scale"} & set(
        inspect.signature(schedules.get(name)).parameters
    )
    node = {"name": name, **{key: FILLED[key] for key in needed}, option: value}
    for kind in processes.names():
        try:
            process = processes.build({"name": kind, "schedules": [node]})
        except ValueError as error:
            assert "\n" not in str(error) and ": " in str(error)
        else:
            assert is_defined(process)
            assert (process.log_snr(EDGES).diff(dim=0) < 0).all()
