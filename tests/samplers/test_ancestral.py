"""Ancestral sampling of scaled images, step by step as in the released code (arXiv 2301.10972)."""

import math

import pytest
import torch

from hierdiff.guidance import Denoised
from hierdiff.process import GaussianProcess, VariancePreserving
from hierdiff.samplers.ancestral import Ancestral
from hierdiff.samplers.integrate import State, Step
from hierdiff.schedules import Cosine, GammaLinear, InputScaled

T, S, B = 0.7, 0.4, 0.3  # a step, and the scale of the images


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def moments(process):
    t, s = (process.moment(number([time]), time) for time in (T, S))
    return Step(t, s, last=False)


def test_a_step_is_that_of_the_released_code_in_units_of_scaled_images():
    """y = sqrt(gamma) b x0 + sqrt(1 - gamma) eps; a = gamma_t / gamma_s; variance 1 - a.

    y_s = (y_t - (1 - a) / sqrt(1 - gamma_t) eps) / sqrt(a) + sqrt(1 - a) noise.
    """
    generator = torch.Generator().manual_seed(0)
    x0, eps, noise = torch.randn(3, 1, 2, 4, 4, dtype=torch.float64, generator=generator)
    gamma_t, gamma_s = 1 - T, 1 - S
    a = gamma_t / gamma_s
    y_t = math.sqrt(gamma_t) * B * x0 + math.sqrt(1 - gamma_t) * eps
    mean = (y_t - (1 - a) / math.sqrt(1 - gamma_t) * eps) / math.sqrt(a)
    y_s = mean + math.sqrt(1 - a) * noise

    process = VariancePreserving([InputScaled(GammaLinear(), B)])
    step = moments(process)
    (x_t,) = process.corrupt((x0,), (eps,), number([T]))
    rule = Ancestral(variance="large", image_scale=B)
    (x_s,), _ = rule(lambda *_: Denoised((x0,)), (x_t,), step, State(), lambda shape: noise)
    for x, y, moment, gamma in ((x_t, y_t, step.t, gamma_t), (x_s, y_s, step.s, gamma_s)):
        torch.testing.assert_close(x / float(moment.sigma), y / math.sqrt(1 - gamma))


@pytest.mark.parametrize("schedule", [Cosine(), GammaLinear()])
def test_with_a_scale_of_1_the_large_variance_is_that_of_the_step_to_t(schedule):
    process = VariancePreserving([schedule])
    step = moments(process)
    for scale, equal in ((1.0, True), (0.5, False)):
        large, small = Ancestral(variance="large", image_scale=scale)._variances(step.t, step.s)
        wanted = GaussianProcess.step_variance(step.t, step.s)
        assert torch.equal(large, wanted[0]) == equal and torch.equal(small, wanted[1])
    near = Ancestral(variance="large", image_scale=1 + 1e-9)._variances(step.t, step.s)
    torch.testing.assert_close(near[0], GaussianProcess.step_variance(step.t, step.s)[0])
