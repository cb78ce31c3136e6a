"""Published or recomputed numbers of the samplers under the exact denoiser of N(0, s^2)."""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch

from hierdiff.exact import Mixture, Pixel
from hierdiff.noise import from_tensors
from hierdiff.process import VarianceExploding, VariancePreserving
from hierdiff.samplers import grids, integrate, samplers
from hierdiff.samplers.integrate import State, Step
from hierdiff.schedules import Cosine, LinearBeta, Power


def at(*values):
    return torch.tensor(values, dtype=torch.float64)


def run(name, process, denoise, x, times):
    (end,) = integrate(
        samplers.build({"name": name}), denoise, process, (x,), times, from_tensors([])
    )
    return end


KARRAS_18 = """80 57.585984721 40.785573797 28.374584604 19.352452980 12.910082381 8.4009353091
5.3151945218 3.2568215198 1.9233398370 1.0881706365 0.58534812319 0.29644228448 0.13951646873
0.059947311235 0.022934518372 0.0075280199628 0.002"""


def test_the_karras_grid_of_18_steps():
    process = VarianceExploding([Power()])
    times = grids.build({"name": "karras"})(18, process)
    _, sigma = process.alpha_sigma(times[:-1])
    wanted = at(*map(float, KARRAS_18.split()))
    assert float(times[-1]) == 0
    torch.testing.assert_close(sigma[:, 0], wanted, rtol=1e-9, atol=0)


COSINES = {
    1: 0,
    2: 0.5,
    4: 0.728553391,
    8: 0.856232118,
    10: 0.883485184,
    20: 0.940119251,
    50: 0.975623943,
    100: 0.987738282,
    250: 0.995077322,
    1000: 0.998767060,
}


@pytest.mark.parametrize(
    "steps", [pytest.param(n, marks=[pytest.mark.slow] if n > 250 else []) for n in COSINES]
)
def test_ddim_on_unit_data_shrinks_by_the_cosine_of_each_angle(steps):
    """std cos(pi / 2N)^N after N equal steps of the angle atan(sigma / alpha) from pure noise."""
    process = VariancePreserving([Cosine(log_snr_min=-100, log_snr_max=100)])
    times = grids.build({"name": "uniform"})(steps, process)
    end = run("ddim", process, Pixel(process, 1.0), torch.ones(1, 1, dtype=torch.float64), times)
    assert float(end) == pytest.approx(math.cos(math.pi / 2 / steps) ** steps, rel=1e-9, abs=1e-9)
    assert float(end) == pytest.approx(COSINES[steps], rel=2e-9, abs=1e-9)


STEPS = (5, 10, 18, 32, 64, 256)
ENDS = {
    ("euler", 0.5): (0.23362893, 0.36521307, 0.42303144, 0.45619245, 0.47793425, 0.49444516),
    ("heun", 0.5): (1.25788631, 0.60979800, 0.52762464, 0.50783801, 0.50182143, 0.50009542),
    ("dpmpp_2m", 0.5): (0.43265207, 0.57938666, 0.53114007, 0.50849143, 0.50189154, 0.50009637),
    ("euler", 1): (0.48582775, 0.75079986, 0.85945542, 0.92025718, 0.95989275, 0.98987810),
    ("heun", 1): (1.90725540, 1.17543255, 1.04472884, 1.01271625, 1.00292080, 1.00009887),
    ("dpmpp_2m", 1): (0.94040096, 1.15810534, 1.05108954, 1.01368516, 1.00302494, 1.00010031),
}
ROWS = [
    (name, std, steps, end)
    for (name, std), ends in ENDS.items()
    for steps, end in zip(STEPS, ends, strict=True)
]


@pytest.mark.parametrize(("name", "std", "steps", "wanted"), ROWS)
def test_variance_exploding_from_80_on_the_karras_grid(name, std, steps, wanted):
    process = VarianceExploding([Power()])
    times = grids.build({"name": "karras"})(steps, process)
    start = 80 * torch.ones(1, 1, dtype=torch.float64)
    end = run(name, process, Pixel(process, std**2), start, times)
    assert float(end) == pytest.approx(wanted, rel=0, abs=2e-8)


FINAL_VARIANCES = {
    ("large", 1): (0.9999, 0.9999, 0.9999, 0.9999),
    ("small", 1): (0.52078514, 0.85505744, 0.96609237, 0.99106738),
    ("large", 0.25): (0.35852122, 0.26788287, 0.25334560, 0.25075208),
    ("small", 0.25): (0.10422249, 0.19642024, 0.23601551, 0.24612521),
}
COUNTS = (10, 50, 250, 1000)


@cache
def final_variance(rule, data, steps, **options):
    """Of the law that the sampler ends in, from N(0, 1), by superposition and without chance.

    A linear rule takes x to a x + c noise; the first example has x = 1 and no noise, the second the
    reverse.
    """
    process = VariancePreserving([LinearBeta()])
    denoise = Pixel(process, data)
    index = torch.linspace(0, 999, steps, dtype=torch.float64).round().flip(0)
    times = torch.cat([(index + 1) / 1000, at(0)])
    step = samplers.build({"name": rule, **dict(options)})
    variance = 1.0
    x = (at(1, 0)[:, None],)
    for t, s in pairwise(process.trajectory(times.tolist(), x)):
        now = Step(t, s, last=s.time == 0)
        (moved,), _ = step(denoise, x, now, State(), lambda shape: at(0, 1)[:, None])
        variance = float(moved[0]) ** 2 * variance + float(moved[1]) ** 2
    return variance


@pytest.mark.parametrize(
    ("variance", "data", "steps", "wanted"),
    [
        pytest.param(*key, steps, wanted, marks=[pytest.mark.slow] if steps > 50 else [])
        for key, row in FINAL_VARIANCES.items()
        for steps, wanted in zip(COUNTS, row, strict=True)
    ],
)
def test_ancestral_sampling_ends_in_the_published_variance(variance, data, steps, wanted):
    found = final_variance("ancestral", data, steps, variance=variance)
    assert found == pytest.approx(wanted, rel=0, abs=1e-8)


@pytest.mark.parametrize("data", [1, 0.25])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_with_eta_one_ends_in_the_variance_of_small_ancestral(data, steps):
    found = final_variance("ddim", data, steps, eta=1.0)
    wanted = FINAL_VARIANCES["small", data][COUNTS.index(steps)]
    assert found == pytest.approx(wanted, rel=0, abs=1e-8)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_samplers_find_both_modes_of_a_mixture_and_their_spread(name):
    """Quantiles of the noise are carried monotonically onto quantiles of the data."""
    process = VarianceExploding([Power()])
    u = torch.linspace(0.0005, 0.9995, 300, dtype=torch.float64)
    start = 80 * torch.special.ndtri(u)[:, None]
    times = grids.build({"name": "karras"})(64, process)
    end = run(name, process, Mixture(), start, times)[:, 0]
    assert (end.diff() > 0).all()
    right = end[end > 0]
    assert len(right) == 150
    assert float(right.mean()) == pytest.approx(1, abs=0.03)
    assert float(right.std()) == pytest.approx(0.25, abs=0.03)
