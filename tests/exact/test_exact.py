"""The exact denoisers against published numbers, each other, and numerical integration."""

import pytest
import torch

from hierdiff.bands import Details
from hierdiff.exact import Conditional, Joint, Mixture, Pixel, exponential
from hierdiff.levels import down
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


def test_the_density_of_an_image_is_that_of_its_low_band_times_that_of_its_details_given_it():
    covariance = exponential(4)
    exact, zeros = Conditional(covariance), torch.zeros(16, dtype=torch.float64)
    image = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image.requires_grad_()
    (details,), low = Details(4, 1).encode(image), down(image, 2).flatten()
    normal = torch.distributions.MultivariateNormal
    whole = normal(zeros, covariance).log_prob(image.flatten())
    coarse = normal(zeros[:4], exact.low).log_prob(low)
    given = normal(exact.mean @ low, exact.covariance).log_prob(details.flatten())
    volume = -low.numel() * torch.log(at(2.0))  # a block mean is half its orthonormal coefficient
    torch.testing.assert_close(whole, coarse + given + volume[0])
    scores = [torch.autograd.grad(part, image, retain_graph=True)[0] for part in (coarse, given)]
    torch.testing.assert_close(torch.autograd.grad(whole, image)[0], scores[0] + scores[1])


def test_details_given_the_low_band_are_the_posterior_mean_of_both():
    exact = Conditional(exponential(8), gain=2.0)
    alpha, sigma = 0.6, 0.8
    generator = torch.Generator().manual_seed(1)
    x, low = (torch.randn(2, n, 4, 4, dtype=torch.float64, generator=generator) for n in (3, 1))
    n = len(exact.details)
    observed = torch.cat(
        [
            torch.cat([alpha**2 * exact.details, alpha * exact.across], 1),
            torch.cat([alpha * exact.across.T, exact.low], 1),
        ]
    )
    observed[:n, :n] += sigma**2 * torch.eye(n, dtype=x.dtype)
    towards = torch.cat([alpha * exact.details, exact.across], 1)
    seen = torch.cat([x.flatten(1), low.flatten(1)], 1)
    wanted = seen @ torch.linalg.solve(observed, towards.T)
    torch.testing.assert_close(exact(x, low, alpha, sigma).flatten(1), wanted)


def test_a_field_as_large_as_the_image_is_no_bound_and_a_smaller_one_costs():
    exact = Conditional(exponential(8))
    middle = [16 * i + 10 for i in range(3)]
    for alpha, sigma in ((0.3, 0.95), (0.9, 0.4)):
        noise = sigma**2 * torch.eye(48, dtype=torch.float64)
        inverse = torch.linalg.inv(alpha**2 * exact.covariance + noise)
        posterior = sigma**2 * (exact.covariance @ inverse)
        errors = [exact.error(field, alpha, sigma) for field in (1, 3, 5, 7)]
        assert errors[-1] == pytest.approx(float(posterior.diagonal()[middle].mean()))
        assert sorted(errors, reverse=True) == errors and errors[0] > 1.01 * errors[-1]


def test_details_need_a_smaller_field_than_pixels_where_correlations_are_long():
    """The claim of arXiv 2303.02984, for Gaussian images that are correlated over 6 pixels."""
    side, alpha, sigma = 16, 0.35, 0.94
    covariance = exponential(side, 6.0)
    place = torch.cartesian_prod(*[torch.arange(side)] * 2)
    away = (place - side // 2).abs().amax(1)

    def pixel(field):
        seen = covariance[away <= field // 2][:, away <= field // 2]
        towards = alpha * covariance[side // 2 * (side + 1)][away <= field // 2]
        noisy = alpha**2 * seen + sigma**2 * torch.eye(len(seen), dtype=seen.dtype)
        return float(1 - towards @ torch.linalg.solve(noisy, towards))

    exact = Conditional(covariance)
    details = [exact.error(field, alpha, sigma) for field in (3, 5, 2 * side)]
    pixels = [
        pixel(field) for field in (5, 9, 2 * side)
    ]  # 3 and 5 of the bands are 6 and 10 pixels
    assert details[0] < 1.03 * details[-1] and pixels[0] > 1.1 * pixels[-1]
    assert details[1] < 1.003 * details[-1] and pixels[1] > 1.005 * pixels[-1]
