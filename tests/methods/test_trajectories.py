"""img2img, inpainting and windows are calls of a generator: they start, stop and guide as the whole
trajectory does."""

import math
from dataclasses import replace

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.guidance import inpainted
from hierdiff.methods import Request
from hierdiff.process import VariancePreserving
from hierdiff.samplers import Sampler, grids, samplers
from hierdiff.samplers.integrate import State
from hierdiff.schedules import LinearBeta
from tests import tiny

LABELS = Cond(labels=torch.tensor([0, 1]))
DDIM = {"steps": 4, "rule": {"name": "ddim"}, "guidance": 2.0, "interval": [0.3, 0.8]}


def stage(name="mdm", **sampling):
    return tiny.randomised(tiny.method(name, sampling={**DDIM, **sampling})).stages[-1]


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
def test_a_start_in_the_middle_is_the_tail_of_the_whole_trajectory(threshold):
    """With guidance, its interval and the threshold; from the state that the whole passed."""
    one, seen, calls = stage(threshold={"name": threshold}), {}, []
    watch = lambda i, s, x: seen.update({s: x})  # noqa: E731
    whole = one.run(Request(2, LABELS, noise=tiny.noise(), watch=watch))
    tiny.count_evaluations(one.denoiser, calls)
    tail = one.run(Request(2, LABELS, noise=tiny.noise(7)), seen[0.5], start_t=0.5)
    assert all(torch.equal(a, b) for a, b in zip(whole, tail, strict=True))
    assert len(calls) == 3  # guided at 0.5, not at 0.25
    plain = one.run(Request(2, LABELS, noise=tiny.noise(), guidance=1.0), seen[0.5], start_t=0.5)
    assert not torch.equal(plain[0], tail[0])


def test_a_stop_on_the_way_calls_nothing_below():
    one, seen, calls = stage(), {}, []
    watch = lambda i, s, x: seen.update({s: x})  # noqa: E731
    one.run(Request(2, LABELS, noise=tiny.noise(), watch=watch))
    tiny.count_evaluations(one.denoiser, calls)
    early = one.run(Request(2, LABELS, noise=tiny.noise()), stop=0.5)
    assert all(torch.equal(a, b) for a, b in zip(early, seen[0.5], strict=True))
    assert len(calls) == 3 == sum(part.calls for part in one.parts(stop=0.5))
    assert one.evaluations == 6


def test_heun_in_a_window_has_both_calls_of_its_last_step():
    one, calls = stage(rule={"name": "heun"}, guidance=1.0), []
    tiny.count_evaluations(one.denoiser, calls)
    one.run(Request(2, LABELS, noise=tiny.noise()), stop=0.5)
    assert len(calls) == 4 == one.parts(stop=0.5)[0].calls
    assert one.evaluations == 7


@pytest.mark.parametrize("rule", samplers.names())
def test_evaluations_of_every_rule_on_every_grid_are_counted_calls(rule):
    """Guided within an interval, through to the end of the grid and to a stop on the way."""
    one, calls = stage(rule={"name": rule}, interval=[0.2, 0.8]), []
    tiny.count_evaluations(one.denoiser, calls)
    for name in grids.names():
        one.sampling = replace(one.sampling, grid=grids.build({"name": name}))
        for stop in (0.0, 0.5):
            calls.clear()
            one.run(Request(2, LABELS, noise=tiny.noise()), stop=stop)
            assert len(calls) == sum(part.calls for part in one.parts(stop)), (name, stop)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [({"name": "uniform", "end": 0.1}, 8), ({"name": "leading", "end": 0.001}, 8)],
)
def test_heun_calls_twice_in_the_last_step_of_a_grid_that_ends_above_zero(grid, expected):
    one, calls = stage(rule={"name": "heun"}, grid=grid, guidance=1.0), []
    tiny.count_evaluations(one.denoiser, calls)
    one.run(Request(2, LABELS, noise=tiny.noise()))
    assert len(calls) == one.evaluations == expected


class Thrice(Sampler):
    """A rule of one's own with three calls a step, and one in the step to t = 0."""

    calls_per_step = 3

    def __call__(self, denoise, x, step, state, noise):
        out = denoise(x, step.t, state.carry)
        for _ in range(0 if step.last else 2):
            out = denoise(x, step.s, out.carry)
        return out.x0, State(out.carry)


def test_a_rule_of_three_calls_counts_three():
    rule = {"name": "tests.methods.test_trajectories:Thrice"}
    one, calls = stage(rule=rule, guidance=2.0, interval=[0.2, 0.8]), []
    tiny.count_evaluations(one.denoiser, calls)
    one.run(Request(2, LABELS, noise=tiny.noise()))
    assert len(calls) == one.evaluations == 10 + 9  # guided at all times but 1


def test_guidance_of_a_network_that_reads_nothing_is_one_pass():
    method = tiny.method("end_to_end", "unconditional", sampling={"steps": 3, "guidance": 4.0})
    one, calls = method.stages[-1], []
    tiny.count_evaluations(one.denoiser, calls)
    one.sample(Request(2, noise=tiny.noise()))
    assert len(calls) == one.evaluations == 3


@pytest.mark.parametrize(("prior", "std"), [("sigma", math.sqrt(1 - 4.0358298e-5)), ("unit", 1.0)])
def test_a_trajectory_starts_from_noise_of_the_prior_that_is_chosen(prior, std):
    """alpha^2 at the end of ADM's table is 4.04e-5, and its code starts from unit noise."""
    one = stage(prior=prior, threshold={"name": "none"})
    one.process = VariancePreserving([LinearBeta(), LinearBeta()])
    seen = []
    wrap = lambda denoise: lambda x, t, carry: seen.append(x[0]) or denoise(x, t, carry)  # noqa: E731
    one.run(Request(2, LABELS, noise=lambda shape: torch.ones(shape)), wrap=wrap)
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], std), rtol=1e-7, atol=0)


def test_inpainting_is_a_call_that_keeps_what_is_known():
    one = stage("end_to_end")
    known = torch.rand(2, 3, 16, 16) * 2 - 1
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :8] = 1
    request = Request(2, LABELS, noise=tiny.noise())
    (made,) = one.run(request, wrap=lambda denoise: inpainted(denoise, (known,), (mask,)))
    torch.testing.assert_close(made[..., :8], known[..., :8], atol=1e-2, rtol=0)
    (other,) = one.run(Request(2, LABELS, noise=tiny.noise()))
    assert not torch.allclose(made[..., 8:], known[..., 8:], atol=0.1)
    assert not torch.equal(made[..., 8:], other[..., 8:])  # the rest sees what is known


def test_a_start_that_is_none_is_refused():
    one, request = stage("end_to_end"), Request(2, LABELS, noise=tiny.noise())
    with pytest.raises(ValueError, match="start_t=0.5 without a state"):
        one.run(request, start_t=0.5)
    with pytest.raises(ValueError, match=r"\[\(1, 3, 16, 16\)\] to start from.*\(2, 3, 16, 16\)"):
        one.run(request, (torch.zeros(1, 3, 16, 16),), start_t=0.5)
    with pytest.raises(ValueError, match="no images at 5"):
        tiny.method("mdm").sample(Request(1, noise=tiny.noise(), resolutions=[5]))
