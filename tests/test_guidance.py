"""Guidance and thresholding wrap denoise functions, level by level."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.batch import Cond
from hierdiff.guidance import (
    Denoised,
    check_scale,
    dynamic_threshold,
    guided,
    is_off,
    static_threshold,
    thresholded,
)
from hierdiff.methods import Request
from hierdiff.parameterization import PREDICTIONS, target
from hierdiff.process import VariancePreserving
from hierdiff.registry import check_node
from hierdiff.schedules import Cosine, Shifted
from tests import tiny

PROCESS = VariancePreserving([Shifted(Cosine(), 4, 2), Cosine()])


def moment(time, rows=3):
    return PROCESS.moment(torch.full((rows,), time, dtype=torch.float64), time)


T = moment(0.5)


def state(rows=3, fine_rows=None):
    return (
        torch.randn(fine_rows or rows, 4, 4, 4, dtype=torch.float64),
        torch.randn(rows, 4, 2, 2, dtype=torch.float64),
    )


class Answer:
    """A denoise function whose x0 depends on the state; it counts its calls in the carry."""

    def __init__(self, slope, name=""):
        self.slope, self.name, self.calls = slope, name, 0

    def __call__(self, x, t, carry=None):
        self.calls += 1
        x0 = tuple(self.slope * level for level in x)
        return Denoised(x0, f"{carry or ''}{self.name}", tuple(level + 1 for level in x0))


@pytest.mark.parametrize("scale", [1, 1.0, [1.0, 1.0]])
def test_a_scale_of_one_is_the_strong_function_itself(scale):
    strong, weak = Answer(2), Answer(1)
    assert guided(strong, weak, scale) is strong and is_off(scale)
    assert not is_off(1.5) and not is_off([1.0, 2.0]) and not is_off(0)


@given(scale=st.floats(-3, 12).filter(lambda s: s != 1))
def test_guidance_is_linear_from_weak_to_strong(scale):
    x = state()
    out = guided(Answer(0.7), Answer(0.2), scale)(x, T, None)
    for level, found in zip(x, out.x0, strict=True):
        torch.testing.assert_close(found, (0.2 + scale * 0.5) * level)


def test_each_level_has_its_own_scale():
    x = state()
    out = guided(Answer(1.0), Answer(0.0), [3.0, 1.0])(x, T, None)
    torch.testing.assert_close(out.x0, (3 * x[0], x[1]))


def test_a_scale_for_each_of_the_wrong_number_of_levels_is_refused():
    with pytest.raises(ValueError):
        guided(Answer(1.0), Answer(0.0), [3.0, 1.0, 2.0])(state(), T, None)


@pytest.mark.parametrize(("time", "factor"), [(0.2, 1), (0.4, 2), (0.5, 2), (0.6, 2), (0.8, 1)])
def test_guidance_acts_only_within_its_interval(time, factor):
    x = state()
    out = guided(Answer(1.0), Answer(0.0), 2.0, interval=(0.4, 0.6))(x, moment(time), None)
    torch.testing.assert_close(out.x0, tuple(factor * level for level in x))


def test_outside_the_interval_the_weak_function_is_not_called():
    strong, weak = Answer(1.0, "s"), Answer(0.0, "w")
    denoise = guided(strong, weak, 2.0, interval=(0.4, 0.6))
    out = denoise(state(1), moment(0.2, 1), ("S", "W"))
    assert (strong.calls, weak.calls) == (1, 0)
    assert out.carry == ("Ss", "W")


def test_the_carry_is_a_pair_one_for_each_function():
    denoise = guided(Answer(1.0, "s"), Answer(0.0, "w"), 2.0)
    first = denoise(state(), T, None)
    assert first.carry == ("s", "w")
    assert denoise(state(), T, first.carry).carry == ("ss", "ww")


def test_a_shared_carry_is_that_of_the_strong_function():
    denoise = guided(Answer(1.0, "s"), Answer(0.0, "w"), 2.0, shared_carry=True)
    first = denoise(state(), T, None)
    assert first.carry == ("s", "w")
    assert denoise(state(), T, first.carry).carry == ("ss", "sw")


def test_variance_and_other_channels_come_from_the_strong_function():
    x = state()
    out = guided(Answer(1.0), Answer(0.0), 3.0, channels=slice(0, 3))(x, T, None)
    for level, found, variance in zip(x, out.x0, out.variance, strict=True):
        torch.testing.assert_close(found[:, :3], 3 * level[:, :3])
        assert torch.equal(found[:, 3:], level[:, 3:])
        assert torch.equal(variance, level + 1)


def test_guidance_does_not_write_into_what_the_strong_function_gave():
    kept = state()
    before = tuple(level.clone() for level in kept)
    guided(lambda x, t, c: Denoised(kept), Answer(0.0), 3.0, channels=slice(0, 1))(kept, T, None)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))


def test_a_level_with_the_first_rows_only_is_guided_too():
    x = state(3, fine_rows=2)
    out = guided(Answer(1.0), Answer(0.0), 2.0)(x, T, None)
    torch.testing.assert_close(out.x0, tuple(2 * level for level in x))


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_guidance_is_the_same_in_every_prediction_space(kind):
    x, alpha, sigma = state(), T.alpha, T.sigma
    out = guided(Answer(0.9), Answer(0.1), 2.5)(x, T, None)
    for i, level in enumerate(x):
        a, s = alpha[:, i].reshape(3, 1, 1, 1), sigma[:, i].reshape(3, 1, 1, 1)

        def predicted(x0, level=level, a=a, s=s):
            return target(kind, x0, (level - a * x0) / s, a, s, 0.5)

        strong, weak = predicted(0.9 * level), predicted(0.1 * level)
        torch.testing.assert_close(predicted(out.x0[i]), weak + 2.5 * (strong - weak))


def test_static_threshold_clips_every_level():
    found = static_threshold()((torch.tensor([[-3.0, 0.5]]), torch.tensor([[2.0, -0.1]])))
    torch.testing.assert_close(found, (torch.tensor([[-1.0, 0.5]]), torch.tensor([[1.0, -0.1]])))


def test_dynamic_threshold_divides_by_the_quantile_of_each_example_and_level():
    ramp = torch.linspace(0, 1, 101, dtype=torch.float64).reshape(1, 1, 1, 101)
    x0 = (torch.cat([4 * ramp, -2 * ramp, 0.5 * ramp]), 3 * ramp.expand(3, -1, -1, -1))
    found = dynamic_threshold(0.9, cap=100)(x0)
    for row, s in enumerate((3.6, 1.8, 1.0)):
        wanted = x0[0][row].clamp(-s, s) / s
        torch.testing.assert_close(found[0][row], wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], x0[1].clamp(max=2.7) / 2.7, rtol=1e-6, atol=1e-6)


def test_dynamic_threshold_has_a_cap():
    x0 = (torch.full((1, 1, 2, 2), 9.0),)
    (found,) = dynamic_threshold(0.95, cap=1.5)(x0)
    torch.testing.assert_close(found, torch.ones_like(found))
    half = torch.tensor([9.0, 9.0, 9.0, 0.75]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(dynamic_threshold(0.95, 1.5)((half,))[0][0, 0, 1, 1].item(), 0.5)


@given(scale=st.floats(0.1, 30))
def test_thresholds_end_within_one(scale):
    x0 = tuple(scale * level for level in state())
    for threshold in (static_threshold(), dynamic_threshold(), dynamic_threshold(0.95, 1.5)):
        assert all(float(level.abs().max()) <= 1 + 1e-6 for level in threshold(x0))


def test_a_thresholded_function_keeps_carry_and_variance():
    x = state()
    out = thresholded(Answer(5.0, "s"), static_threshold())(x, T, "a")
    assert out.carry == "as" and all(float(level.abs().max()) <= 1 for level in out.x0)
    assert torch.equal(out.variance[0], 5 * x[0] + 1)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, [], [1.0, math.nan], "2", True])
def test_what_is_no_guidance_is_refused(scale):
    with pytest.raises(ValueError, match="guidance takes a number, or a list"):
        check_scale(scale)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *((static_threshold, {"limit": value}) for value in (0.0, -1.0, math.nan, math.inf)),
        *((dynamic_threshold, {"quantile": value}) for value in (-0.1, 1.5, math.nan)),
        *((dynamic_threshold, {"cap": value}) for value in (0.5, math.nan, math.inf)),
    ],
)
def test_thresholds_that_are_none_are_refused(make, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} takes a number"):
        check_node(make, {"name": "t", **options}, "threshold")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_threshold_does_not_hide_what_is_not_finite(value):
    x0 = (torch.tensor([[[[value, 0.5, 9.0]]]]),)
    for threshold in (static_threshold(), dynamic_threshold(0.5, 2.0)):
        (found,) = threshold(x0)
        assert found.isnan()[0, 0, 0, 0]
    assert static_threshold()(x0)[0][0, 0, 0, 1:].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("carry", [None, ("s", "w")])
def test_both_passes_in_one_call_are_the_two_calls(carry):
    x = state()

    def half(slope):
        def denoise(x, t, carry):
            kept = x[0].flatten(1).sum(1) if carry is None else carry + 1
            rows = t.alpha[:, -1].reshape(-1, 1, 1, 1)
            return Denoised(tuple(slope * rows * level for level in x), kept, x)

        return denoise

    def both(x, t, carry):
        n = len(x[0]) // 2
        slopes = torch.tensor([2.0] * n + [1.0] * n, dtype=torch.float64)
        return half(slopes.reshape(-1, 1, 1, 1))(x, t, carry)

    given = None if carry is None else (torch.arange(3.0), torch.arange(3.0) + 9)
    apart = guided(half(2.0), half(1.0), 3.0)(x, T, given)
    joint = guided(half(2.0), half(1.0), 3.0, both=both)(x, T, given)
    torch.testing.assert_close(tuple(joint), tuple(apart))


@pytest.mark.parametrize("options", [{}, {"interval": [0.2, 0.7]}, {"shared_carry": True}])
@pytest.mark.parametrize("name", ["unet", "rin"])
def test_samples_of_one_call_are_those_of_two(name, options):
    images = []
    for together in (True, False):
        sampling = {"steps": 4, "guidance": 2.0, "together": together, **options}
        torch.manual_seed(0)
        node = tiny.denoiser_node(name)
        method = tiny.randomised(tiny.method("end_to_end", denoiser=node, sampling=sampling))
        cond = Cond(labels=torch.tensor([0, 2]))
        images.append(method.sample(Request(2, cond, noise=tiny.noise())))
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-5)


def test_a_negative_caption_of_another_length_is_read_in_a_call_of_its_own():
    method = tiny.randomised(tiny.method("mdm", "text", sampling={"steps": 2, "guidance": 2.0}))
    short = Cond(tokens=torch.ones(2, 2, tiny.WIDTH), mask=torch.ones(2, 2, dtype=torch.bool))
    request = Request(2, tiny.cond("text", 2), negative=short, noise=tiny.noise())
    assert all(image.isfinite().all() for image in method.sample(request).values())
