"""The published cascades: sizes of their networks, and recipes as their papers state them."""

import pytest
import torch

from hierdiff.batch import Batch, Cond
from hierdiff.denoisers import denoisers
from hierdiff.methods import Request, methods
from hierdiff.prepared import method_node
from hierdiff.training.run import stage_steps
from tests import tiny
from tests.test_configs import composed

TEXT = {"channels": 3, "text_width": 4096}
IMAGES = {"channels": 3, "classes": 1000}
LOW = {"low_channels": 3}

# our parameters, and those that the paper states, in millions and with its precision
SIZES = {
    "imagen_64": (2_437_582_851, TEXT, 2000),
    "imagen_64_256": (540_249_347, TEXT | LOW, 600),
    "imagen_256_1024": (536_050_947, TEXT | LOW, 400),
    "unclip_64_256": (729_702_083, {"channels": 3} | LOW, 700),
    "unclip_256_1024": (282_059_139, {"channels": 3} | LOW, 300),
    "cdm_32": (792_252_934, IMAGES, None),  # no counts stand in what was read of its paper
    "cdm_32_64": (718_438_150, IMAGES | LOW, None),
    "cdm_64_128": (536_043_651, IMAGES | LOW, None),
    "cdm_64_256": (589_032_579, IMAGES | LOW, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    count, facts, stated = SIZES[name]
    with torch.device("meta"):
        network = denoisers.build(composed(f"denoiser={name}")["denoiser"], offered=facts)
    assert sum(p.numel() for p in network.parameters()) == count
    assert stated is None or abs(count / 1e6 / stated - 1) < 0.35


def method_of(experiment, *overrides, facts=IMAGES):
    node = method_node(composed(f"experiment={experiment}", *overrides))
    with torch.device("meta"):
        return methods.build(node, offered=facts)


RECIPES = {  # steps and images a step of each stage
    "cdm_64": ([700_000, 400_000], [2048, 2048]),
    "cdm_256": ([700_000, 400_000, 500_000], [2048, 2048, 1024]),
    "imagen": ([2_500_000] * 3, [2048] * 3),
    "unclip_1024": ([800_000, 1_000_000, 1_000_000], [2048, 1024, 512]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_steps_and_batches_of_a_recipe(name):
    steps, batches = RECIPES[name]
    facts = {**TEXT, "text_length": 128} if name == "imagen" else IMAGES
    method, trainer = method_of(name, facts=facts), composed(f"experiment={name}")["trainer"]
    assert stage_steps(method, trainer["steps"]) == pytest.approx(steps, abs=1)
    assert [stage.batch_size or trainer["batch_size"] for stage in method.stages] == batches
    assert (trainer["lr"], trainer["betas"], trainer["weight_decay"]) == (1e-4, [0.9, 0.999], 0)


def test_cdm_learns_the_variance_where_its_paper_does_and_blurs_behind():
    base, middle, last = method_of("cdm_256").stages
    for stage in (base, middle):
        assert stage.denoiser.learns_variance and stage.sampling.rule.uses_variance
        # L_simple + 0.001 times the sum over the chain, of which vlb weighs the mean
        assert stage.objective.vlb == 0.001 * stage.objective.vlb_steps == 4
        assert stage.process.schedules[0].base.steps == stage.sampling.steps == 4000
    assert not last.denoiser.learns_variance and last.sampling.steps == 100
    assert middle.bridge.blur is None and middle.bridge.log_snr_range[0] == -torch.inf
    assert last.bridge.log_snr_range is None and list(last.bridge.blur) == [0.4, 0.6]


def test_unclip_degrades_its_last_stage_and_reads_nothing_but_the_image():
    _, first, last = method_of("unclip_1024").stages
    assert first.bridge.degradation is None and last.bridge.degradation is not None
    for stage in (first, last):
        assert stage.denoiser.reads.names == {"low"}
        assert stage.crop * 4 == stage.resolutions[0]


def test_cdm_s_recipe_trains_and_samples_in_small():
    small = [
        f"{at}.{o}" for at in ("denoiser", "method.denoisers.32") for o in ("width=32", "blocks=1")
    ]
    cfg = composed("experiment=cdm_64", *small, "sampler.steps=2")
    made = tiny.randomised(methods.build(method_node(cfg), offered=tiny.facts("class")))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    batch = Batch(images=images, cond=Cond(labels=torch.tensor([0, 1])))
    for stage in made.stages:
        loss = stage(batch, stage.draw(batch, tiny.noise(0)))
        simple, bound = (loss.logs[f"{key}/{stage.resolutions[0]}"] for key in ("loss", "vlb"))
        torch.testing.assert_close(loss.total, simple + 4 * bound)
    sampled = made.eval().sample(Request(1, noise=tiny.noise(0)))
    assert {side: image.shape[-1] for side, image in sampled.items()} == {64: 64, 32: 32}
