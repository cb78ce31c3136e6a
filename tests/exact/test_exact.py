"""The exact denoisers against published numbers, each other, and numerical integration."""

import pytest
import torch

from hierdiff.exact import Joint, Mixture, Pixel
from hierdiff.process import Flow, VarianceExploding, VariancePreserving
from hierdiff.schedules import Cosine, LinearFlow, Power

PROCESSES = {
    "vp": VariancePreserving([Cosine()]),
    "flow": Flow([LinearFlow()]),
    "ve": VarianceExploding([Power()]),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def at(*values):
    return torch.tensor(values, dtype=torch.float64)


def integrated(log_density, process, t, x):
    """E[x0 | x_t = x] by sums over a fine grid of x0."""
    alpha, sigma = (float(part) for part in process.alpha_sigma(at(t)))
    x0 = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    weight = torch.softmax(log_density(x0) - ((x - alpha * x0) / sigma) ** 2 / 2, dim=0)
    return float((weight * x0).sum())


@each_process
@pytest.mark.parametrize(("t", "x"), [(0.2, 0.7), (0.5, -1.3), (0.7, 0.1)])
def test_a_pixel_is_the_mean_of_the_posterior(process, t, x):
    (found,) = Pixel(process, 0.3)((at(x)[:, None],), process.moment(at(t))).x0
    wanted = integrated(lambda x0: -(x0**2) / 0.6, process, t, x)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


@each_process
@pytest.mark.parametrize(("t", "x"), [(0.2, 0.7), (0.5, -1.3), (0.7, 0.1)])
def test_a_mixture_is_the_mean_of_the_posterior(process, t, x):
    def log_density(x0):
        return torch.logaddexp(-((x0 - 1) ** 2) / 0.2, -((x0 + 1) ** 2) / 0.2)

    (found,) = Mixture(0.1)((at(x)[:, None],), process.moment(at(t))).x0
    assert float(found) == pytest.approx(integrated(log_density, process, t, x), rel=1e-6)


@pytest.mark.parametrize(
    ("x", "sigma", "wanted"),
    [
        (0.3, 0.5, 0.6554214939),
        (0.3, 1, 0.2765471810),
        (1.5, 0.5, 1.0998916414),
        (-0.7, 0.25, -0.8499863260),
    ],
)
def test_the_exact_denoiser_of_two_gaussians(x, sigma, wanted):
    process = VarianceExploding([Power()])
    t = Power().inverse(-2 * at(float(sigma)).log())
    (found,) = Mixture()((at(float(x))[:, None],), process.moment(t)).x0
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@each_process
def test_one_level_of_one_pixel_is_the_pixel(process):
    joint = Joint(process, (1,), std=0.8)
    x = (torch.randn(3, 1, 1, 1, dtype=torch.float64),)
    (t,) = process.trajectory([0.4], x)
    torch.testing.assert_close(joint(x, t).x0, Pixel(process, 0.8**2)(x, t).x0)


def test_levels_of_joint_data_are_pooled_from_its_finest():
    process = VariancePreserving([Cosine(), Cosine()])
    joint = Joint(process, (4, 2))
    x = joint.split(torch.randn(3, 20, dtype=torch.float64))
    (t,) = process.trajectory([0.4], x)
    fine, coarse = joint(x, t).x0
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine, 2), coarse)
    assert torch.equal(joint.stacked(joint.split(joint.stacked(x))), joint.stacked(x))
