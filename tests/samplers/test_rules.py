"""What single rules do at their edges."""

import pytest
import torch

from hierdiff.guidance import Denoised
from hierdiff.noise import given
from hierdiff.process import VariancePreserving
from hierdiff.samplers import integrate, samplers
from hierdiff.samplers.integrate import State
from hierdiff.schedules import Cosine, Shifted

PROCESS = VariancePreserving([Shifted(Cosine(), 4, 2), Cosine()])
T, S = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)


def ones(value=1.0):
    return tuple(torch.full((1, 1, n, n), value, dtype=torch.float64) for n in (2, 1))


def step(options, variance):
    def denoise(x, t, carry):
        return Denoised(ones(0.2), variance=variance)

    start = ones(0.5)
    (end, _) = samplers.build(options)(
        denoise, PROCESS, start, T, S, State(), lambda shape: torch.ones(shape).double()
    )
    return end


def test_learned_variance_lies_between_small_and_large_in_its_logarithm():
    """iDDPM, equation 15: exp(w log large + (1 - w) log small), w = (variance + 1) / 2."""
    small, large = (step({"name": "ancestral", "variance": v}, None) for v in ("small", "large"))
    learned = {"name": "ancestral", "variance": "learned"}
    torch.testing.assert_close(step(learned, ones(-1.0)), small)
    torch.testing.assert_close(step(learned, ones(1.0)), large)
    mean, _ = PROCESS.posterior(ones(0.2), ones(0.5), T, S)
    middle = step(learned, ones(0.0))
    for m, a, b, c in zip(mean, small, large, middle, strict=True):
        torch.testing.assert_close((c - m) ** 2, (a - m) * (b - m))
        assert (a < b).all()


def test_learned_variance_asked_of_a_denoiser_without_one_is_refused():
    with pytest.raises(ValueError, match=r"'learned'.*choose 'small' or 'large'"):
        step({"name": "ancestral", "variance": "learned"}, None)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match=r"variance=.tiny.: variance takes one of small, large"):
        samplers.build({"name": "ancestral", "variance": "tiny"})


def test_euler_is_ddim_with_eta_zero():
    assert samplers.build({"name": "euler"}) == samplers.build({"name": "ddim", "eta": 0.0})


def test_a_trajectory_in_two_windows_is_the_trajectory():
    """Start state and times are arguments of the loop."""
    rule = samplers.build({"name": "heun"})

    def denoise(x, t, carry):
        return Denoised(tuple(torch.tanh(level) for level in x))

    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    whole = integrate(rule, denoise, PROCESS, ones(), times, given([]))
    first = integrate(rule, denoise, PROCESS, ones(), times[:5], given([]))
    second = integrate(rule, denoise, PROCESS, first, times[4:], given([]))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
