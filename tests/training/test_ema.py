from __future__ import annotations

import pytest
import torch

from hierdiff.training.ema import EMA, decay


def test_a_constant_half_life_halves_the_start_after_that_many_images():
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema = EMA({"w": weight}, [100], ramp=None)
    with torch.no_grad():
        weight += 1
    for step in range(10):
        ema.update(step * 10, 10)
    torch.testing.assert_close(ema.weights()["w"], torch.full((3,), 0.5, dtype=torch.float64))


def test_the_average_is_the_weighted_sum_of_all_weights():
    values = torch.linspace(-1, 2, 7, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema = EMA({"w": weight}, [30])
    wanted = 0.0
    for step, value in enumerate(values):
        with torch.no_grad():
            weight.fill_(value)
        ema.update(step * 10, 10)
        keep = 0.5 ** (10 / min(30, 0.05 * step * 10)) if step else 0.0
        wanted = keep * wanted + (1 - keep) * float(value)
    torch.testing.assert_close(ema.weights()["w"].item(), wanted)


def test_the_ramp_forgets_the_start():
    assert decay(1e6, 0, 10) == 0
    assert decay(1e6, 1000, 10) == pytest.approx(0.5 ** (10 / 50))
    assert decay(1e6, 10**9, 10) == pytest.approx(0.5 ** (10 / 1e6))
    assert decay(1e6, 0, 10, ramp=None) == pytest.approx(0.5 ** (10 / 1e6))


def test_half_life_zero_is_the_weights():
    weight = torch.nn.Parameter(torch.ones(2))
    ema = EMA({"w": weight}, [0, 10])
    with torch.no_grad():
        weight *= 5
    ema.update(1000, 1)
    assert torch.equal(ema.weights(0)["w"], weight)
    assert set(ema.state()) == {"1/w"}


def test_weights_come_back_after_the_average_was_applied():
    weight = torch.nn.Parameter(torch.ones(2))
    ema = EMA({"w": weight}, [10])
    with torch.no_grad():
        weight *= 5
    with ema.applied():
        assert weight.tolist() == [1, 1]
    assert weight.tolist() == [5, 5]


def test_no_half_life_or_a_negative_one_is_refused():
    for wrong in ([], [-1]):
        with pytest.raises(ValueError, match="half-lives"):
            EMA({}, wrong)


@pytest.mark.parametrize("length", [float("nan"), float("inf")])
def test_a_half_life_that_is_not_finite_is_refused(length):
    with pytest.raises(ValueError, match="finite numbers of images"):
        EMA({"a": torch.ones(1)}, [length])


@pytest.mark.parametrize("half_life", [0.0, 16.0])
def test_an_average_that_is_not_finite_does_not_become_the_weights(half_life):
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    ema = EMA(weights, [half_life])
    ema.weights()["b"][1] = float("nan")
    before = weights["a"].clone()
    with pytest.raises(FloatingPointError, match="not finite in b and 0 others"):
        ema.into_weights()
    assert torch.equal(weights["a"], before)
