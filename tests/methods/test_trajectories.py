"""img2img, inpainting and windows are calls of a generator: they start, stop and guide as the whole
trajectory does."""

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.guidance import inpainted
from hierdiff.methods import Request
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
    one.denoiser.register_forward_hook(lambda *_: calls.append(1))
    tail = one.run(Request(2, LABELS, noise=tiny.noise(7)), seen[0.5], start_t=0.5)
    assert all(torch.equal(a, b) for a, b in zip(whole, tail, strict=True))
    assert len(calls) == 3  # guided at 0.5, not at 0.25
    plain = one.run(Request(2, LABELS, noise=tiny.noise(), guidance=1.0), seen[0.5], start_t=0.5)
    assert not torch.equal(plain[0], tail[0])


def test_a_stop_on_the_way_calls_nothing_below():
    one, seen, calls = stage(), {}, []
    watch = lambda i, s, x: seen.update({s: x})  # noqa: E731
    one.run(Request(2, LABELS, noise=tiny.noise(), watch=watch))
    one.denoiser.register_forward_hook(lambda *_: calls.append(1))
    early = one.run(Request(2, LABELS, noise=tiny.noise()), stop=0.5)
    assert all(torch.equal(a, b) for a, b in zip(early, seen[0.5], strict=True))
    assert len(calls) == 3 == sum(part.calls for part in one.parts(stop=0.5))
    assert one.evaluations == 6


def test_heun_in_a_window_has_both_calls_of_its_last_step():
    one, calls = stage(rule={"name": "heun"}, guidance=1.0), []
    one.denoiser.register_forward_hook(lambda *_: calls.append(1))
    one.run(Request(2, LABELS, noise=tiny.noise()), stop=0.5)
    assert len(calls) == 4 == one.parts(stop=0.5)[0].calls
    assert one.evaluations == 7


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
