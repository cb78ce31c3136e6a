"""Trajectories of the published networks (tests/reference_data) under the published samplers.

Ours, from the shipped configurations, step by step beside NumPy's (tests/reference), with the same
network and the same noise.
"""

import numpy as np
import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers.layers import FlowClock
from hierdiff.interop import load
from hierdiff.methods import Diffusion, Request, Sampling
from hierdiff.noise import from_tensors
from hierdiff.objective import ScoreMatching
from hierdiff.parameterization import Parameterization
from hierdiff.process import Flow, VariancePreserving
from hierdiff.registry import build
from hierdiff.schedules import LinearBeta, LinearFlow
from tests.interop import test_dit as dit
from tests.interop import test_ldm as ldm
from tests.reference import published_samplers_numpy as theirs
from tests.test_configs import composed

ALPHA_SQUARED = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
FIVE_THREE_TWO = [0, 83, 166, 250, 333, 334, 500, 666, 667, 999]
EIGHT = [0, 143, 285, 428, 571, 714, 856, 999]
SECTIONS = ["+sampler.grid.respacing='5,3,2'", "sampler.steps=10"]


def sampling(*overrides: str) -> Sampling:
    return build(Sampling, composed(*overrides)["sampler"])


def stage(network, side: int, plan: Sampling, prediction="eps", process=None) -> Diffusion:
    channels = network.channels
    return Diffusion(
        codec=Pyramid([side], channels),
        process=process or VariancePreserving([LinearBeta()]),
        objective=ScoreMatching(Parameterization(prediction), vlb=float(network.learns_variance)),
        denoiser=network,
        sampling=plan,
        facts=facts_of(network),
    ).eval()


def facts_of(network) -> dict[str, int]:
    reads = network.reads
    text = {"text_width": reads.text_width, "text_length": 3} if reads.text_width else {}
    return {"channels": network.channels, "classes": reads.classes, **text}


def adm():
    weights, _, config, _ = ldm.read("adm_tiny")
    network = ldm.build(config, low=False)
    load(network, ldm.renamed(weights, config))
    return network, 16, Cond(labels=torch.tensor([3, 8]))


def unet():
    weights, tensors, config, _ = ldm.read("ldm_unet_tiny")
    network = ldm.build(config, low=False)
    load(network, ldm.renamed(weights, config))
    text = tensors["context"]
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    return network, 8, Cond(tokens=text, mask=mask)


def transformer(clock=None):
    network = dit.stage().denoiser
    network = type(network)(
        width=network.width, depth=2, heads=4, learned_variance=True, channels=4, classes=10,
        clock=clock or network.clock,
    )  # fmt: skip
    load(network, dit.rename(dit.official()))
    return network, 8, Cond(labels=torch.tensor([3, 8]))


class Guided:
    """The network as a function of NumPy states, guided as the released codes do: in eps."""

    def __init__(self, parts, scale, channels):
        network, _, self.cond = parts
        self.none = self.cond.dropped(torch.ones(2, dtype=torch.bool))
        self.network, self.scale, self.channels = network.double(), scale, channels

    def output(self, x, log_snr, cond):
        cond = cond.map(lambda part: part.double() if part.is_floating_point() else part)
        with torch.no_grad():
            rows = torch.full((len(x), 1), log_snr, dtype=torch.float64)
            out = self.network((torch.from_numpy(x),), rows, self.network.prepare(cond))
        share = out.variance[0].numpy() if out.variance is not None else None
        return out.levels[0].numpy(), share

    def at(self, x, log_snr):
        out, share = self.output(x, log_snr, self.cond)
        if self.scale != 1:
            weak, _ = self.output(x, log_snr, self.none)
            part = slice(self.channels)
            out[:, part] = (weak + self.scale * (out - weak))[:, part]
        return out, share

    def __call__(self, x, step):
        kept = ALPHA_SQUARED[step]
        return self.at(x, float(np.log(kept) - np.log1p(-kept)))


def noises(shape, count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count)]
    return [draw.to(dtype) for draw in draws]


def ours(parts, plan, dtype, **options):
    """The state after each step, from noise number 0."""
    network, side, cond = parts
    cond = cond.map(lambda part: part.to(dtype) if part.is_floating_point() else part)
    shape = (2, network.channels, side, side)
    states = []
    stage(network.to(dtype), side, plan, **options).run(
        Request(
            2,
            cond,
            noise=from_tensors(noises(shape, plan.steps + 1, dtype)),
            watch=lambda i, s, x: states.append(x[0].double().numpy()),
        )
    )
    return states


def agree(parts, plan, wanted, **options):
    """In double precision to rounding, in single to 4e-4 of the largest number, at each step."""
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 4e-4)):
        found = ours(parts, plan, dtype, **options)
        assert len(found) == len(wanted)
        for step, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), (dtype, step)


def start(parts, plan):
    network, side, _ = parts
    first, *rest = noises((2, network.channels, side, side), plan.steps + 1)
    return first.numpy(), iter([draw.numpy() for draw in rest])


@pytest.mark.parametrize(
    ("overrides", "steps"), [(SECTIONS, FIVE_THREE_TWO), (["sampler.steps=8"], EIGHT)]
)
def test_adm_with_its_learned_variance_on_respaced_steps(overrides, steps):
    """The variance lies between those of the respaced chain, whose betas are larger."""
    parts, plan = adm(), sampling("sampler=adm", *overrides)
    x, rest = start(parts, plan)
    model = Guided(parts, plan.guidance, plan.channels)
    agree(parts, plan, theirs.ancestral(model, x, ALPHA_SQUARED, steps, rest, clip=True))


def test_adm_by_ddim_on_every_hundredth_step():
    overrides = ["sampler.grid.respacing=ddim10", "sampler.steps=10"]
    parts, plan = adm(), sampling("sampler=adm_ddim", *overrides)
    steps = list(range(0, 1000, 100))
    x, rest = start(parts, plan)
    _, kept, earlier = theirs.respaced(ALPHA_SQUARED, steps)
    model = Guided(parts, plan.guidance, plan.channels)
    agree(parts, plan, theirs.ddim(model, x, kept, earlier, steps, rest, eta=0, clip=True))


def test_dit_with_guidance_of_three_channels():
    parts, plan = transformer(), sampling("sampler=dit", "sampler.steps=8")
    assert (plan.guidance, plan.channels) == (1.5, 3)
    x, rest = start(parts, plan)
    model = Guided(parts, plan.guidance, plan.channels)
    agree(parts, plan, theirs.ancestral(model, x, ALPHA_SQUARED, EIGHT, rest))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_latent_diffusion_ends_at_the_first_entry_of_its_table(eta):
    """10 steps visit entries 1, 101 ... 901, counted from 0, and go to entry 0."""
    parts = unet()
    plan = sampling("sampler=ldm", "sampler.steps=10", f"sampler.rule.eta={eta}")
    steps = list(range(1, 1000, 100))
    kept = ALPHA_SQUARED[steps]
    x, rest = start(parts, plan)
    model = Guided(parts, plan.guidance, plan.channels)
    earlier = np.append(ALPHA_SQUARED[0], kept[:-1])
    agree(parts, plan, theirs.ddim(model, x, kept, earlier, steps, rest, eta))


@pytest.mark.parametrize(
    ("coefficient", "norm", "last"),
    [
        ("sigma", 1.0, "mean"),
        ("sigma", 0.5, "euler"),
        ("sbdm", 1.0, "mean"),
        ("constant", 0.3, "mean"),
        ("decreasing", 0.7, "mean"),
        ("increasing_decreasing", 1.0, "mean"),
    ],
)
def test_sit_by_its_sde_with_each_diffusion_coefficient(coefficient, norm, last):
    """Its time is 1 - t, its network gives image minus noise: minus u."""
    parts = transformer(FlowClock())
    first = 0.001 if coefficient == "sbdm" else 0.0
    plan = sampling(
        *("sampler=sit", "sampler.steps=8", f"sampler.rule.coefficient={coefficient}"),
        *(f"+sampler.rule.norm={norm}", f"sampler.rule.last={last}"),
        f"+sampler.grid.start={1 - first}",
    )
    model = Guided(parts, plan.guidance, plan.channels)

    def velocity(x, time):
        log_snr = 2 * (np.log(time) - np.log1p(-time)) if time > 0 else -np.inf
        return -model.at(x, float(np.clip(log_snr, -30, 30)))[0]

    x, rest = start(parts, plan)
    wanted = theirs.euler_maruyama(velocity, x, 8, rest, coefficient, norm, last, start=first)
    agree(parts, plan, wanted, prediction="u", process=Flow([LinearFlow()]))
