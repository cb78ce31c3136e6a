"""Timings of the hot paths by pytest-benchmark: `make speed`. Elsewhere each runs once, untimed."""

import pytest
import torch

from hierdiff.methods import Request
from hierdiff.metrics.frechet import Moments, frechet
from tests import tiny


@pytest.mark.parametrize("name", tiny.METHODS)
def test_speed_of_a_training_step(name, benchmark):
    stage = tiny.method(name).stages[-1]
    batch = tiny.batch("class")

    def step() -> torch.Tensor:
        loss = stage(batch, stage.draw(batch, tiny.noise())).total
        loss.backward()
        return loss

    assert torch.isfinite(benchmark(step))


@pytest.mark.parametrize("name", tiny.METHODS)
def test_speed_of_sampling(name, benchmark):
    method = tiny.method(name)
    images = benchmark(lambda: method.sample(Request(2, noise=tiny.noise(), steps=2)))
    assert set(images) == set(method.resolutions)


def test_speed_of_a_frechet_distance(benchmark):
    x = torch.randn(300, 128, generator=torch.Generator().manual_seed(0))
    a, b = Moments.of(x[:150]), Moments.of(x[150:])
    assert benchmark(frechet, a, b) > 0
