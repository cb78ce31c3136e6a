"""RIN's sampler written out a second time, step by step, with guidance and carried latents."""

from itertools import pairwise

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers import denoisers
from hierdiff.methods import Diffusion, Sampling
from hierdiff.methods.generator import Request
from hierdiff.objective import ScoreMatching
from hierdiff.parameterization import Parameterization
from hierdiff.process import VariancePreserving
from hierdiff.samplers.ancestral import Ancestral
from hierdiff.samplers.grids import ScheduleGrid
from hierdiff.schedules import GammaLinear, Limited
from tests import tiny

SIDE, STEPS, SCALE = 8, 6, 2.5
LABELS = Cond(labels=torch.tensor([0, 2]))
NONE = Cond(labels=torch.tensor([-1, -1]))


def stage(shared_carry: bool) -> Diffusion:
    """As `experiment=rin_64` has it, in float64: eps, linear gamma, DDPM of the large variance."""
    torch.manual_seed(0)
    node = tiny.denoiser_node("rin") | {"latents": 6, "latent_width": 24, "resolution": SIDE}
    network = tiny.randomised(denoisers.build(node, offered=tiny.facts("class"))).double()
    return Diffusion(
        codec=Pyramid([SIDE], 3),
        process=VariancePreserving([Limited(GammaLinear(), log_snr_min=-20.7)]),
        objective=ScoreMatching(Parameterization("eps")),
        denoiser=network,
        sampling=Sampling(
            rule=Ancestral("large"),
            grid=ScheduleGrid(),
            steps=STEPS,
            guidance=SCALE,
            shared_carry=shared_carry,
        ),
        facts=tiny.facts("class"),
    ).eval()


def noises() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (2, 3, SIDE, SIDE)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS + 1)]


@torch.no_grad()
def written_out(shared: bool) -> torch.Tensor:
    """The last x0: eps of both passes mixed with weight w = scale - 1, x0 clipped, eps from it."""
    one = stage(shared)
    x, *rest = noises()
    times = one.sampling.grid(STEPS, one.process)
    latents = weak_latents = torch.zeros(2, 6, 24, dtype=torch.float64)
    w = SCALE - 1
    for i, (t, s) in enumerate(pairwise(times.tolist())):
        log_snr = one.process.log_snr(torch.tensor([t, s], dtype=torch.float64))[:, 0]
        gamma, after = torch.sigmoid(log_snr).tolist()
        column = log_snr[:1].expand(2)[:, None]
        parts = []
        for cond, carry in ((NONE, latents if shared else weak_latents), (LABELS, latents)):
            prepared = one.denoiser.prepare(cond)
            parts.append(one.denoiser((x,), column, prepared, (carry,)))
        weak, strong = parts
        weak_latents, latents = weak.carry[0], strong.carry[0]
        eps = (1 + w) * strong.levels[0] - w * weak.levels[0]
        x0 = ((x - (1 - gamma) ** 0.5 * eps) / gamma**0.5).clamp(-1, 1)
        eps = (x - gamma**0.5 * x0) / (1 - gamma) ** 0.5
        alpha = gamma / after
        mean = (x - (1 - alpha) / (1 - gamma) ** 0.5 * eps) / alpha**0.5
        x = mean + (1 - alpha) ** 0.5 * rest[i]
    return x0


def sampled(shared: bool) -> torch.Tensor:
    queue = iter(noises())
    images = stage(shared).sample(Request(2, LABELS, noise=lambda shape: next(queue)))
    return images[SIDE]


@pytest.mark.parametrize("shared", [False, True])
def test_guided_samples_are_those_of_the_loop_written_out(shared):
    torch.testing.assert_close(sampled(shared), written_out(shared), rtol=0, atol=1e-6)


def test_whose_latents_the_pass_without_a_class_reads_matters():
    assert (sampled(True) - sampled(False)).square().mean().sqrt() > 1e-3
