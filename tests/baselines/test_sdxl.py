"""SDXL: where the refiner takes over, what it is trained on, and what both networks are told."""

import pytest
import torch

from baselines.latent.stage import LatentDiffusion
from baselines.sdxl import LatentRefiner, Takeover
from hierdiff.batch import Batch, Cond
from hierdiff.methods import Request, methods
from hierdiff.methods.bridge import CLEAN
from hierdiff.process import processes
from tests import tiny

LDM = {**tiny.denoiser_node("ldm_unet"), "fourier": 4}
CODEC = {
    "name": "autoencoder",
    "autoencoder": {"width": 8, "multiples": [1, 2], "groups": 4, "latent_channels": 2},
    "perceptual": {"name": "none"},
}
TOLD = {"scalars": ("crop_top", "original_height"), "vectors": {"pooled_text": 5}}
NOTHING = Cond()
GIVEN = {"assumed": {"original_height": 16.0, "crop_top": 0.0, "aesthetic_score": 6.0}}


def built(name="sdxl", facts=(), **options):
    torch.manual_seed(0)
    node = {"name": name, "resolutions": [16], "denoiser": LDM, "sampling": {"steps": 5}}
    offered = {**tiny.facts("class"), **dict(facts)}
    return tiny.randomised(methods.build({**node, **options}, offered=offered))


def cond(n=3, crop=2.0):
    scalars = {"crop_top": torch.full((n,), crop), "original_height": torch.full((n,), 9.0)}
    vectors = {"pooled_text": torch.ones(n, 5)}
    return Cond(labels=torch.arange(n) % 3, scalars=scalars, vectors=vectors)


def sampled(method, given=NOTHING, seed=0):
    return method.sample(Request(3, given, noise=tiny.noise(seed)))[16]


def test_a_refiner_from_the_start_is_its_own_stage_alone():
    method = built(refine=1)
    alone = built("latent")
    alone.stages[-1].denoiser.load_state_dict(method.stages[-1].denoiser.state_dict())
    assert torch.equal(sampled(method), sampled(alone))
    assert not torch.equal(sampled(method), sampled(built(refine=0.4)))


def test_without_a_refiner_it_is_latent_diffusion():
    assert torch.equal(sampled(built(refine=0)), sampled(built("latent")))


def test_both_share_the_steps_of_one_trajectory():
    for refine, calls in ((0, [5]), (0.2, [4, 1]), (0.6, [2, 3]), (1, [0, 5])):
        method, seen = built(refine=refine), []
        for stage in method.stages:
            seen.append([])
            tiny.count_evaluations(stage.denoiser, seen[-1], rows=3)
        sampled(method)
        assert [len(own) for own in seen] == calls
        assert method.at(16).evaluations == 5


def test_the_refiner_is_trained_on_the_last_fifth_of_the_times_and_the_base_on_all():
    base, refiner = built().stages
    batch = tiny.batch("class", 64)
    assert float(refiner.draw(batch, tiny.noise()).draws.t.max()) <= 0.2
    assert float(base.draw(batch, tiny.noise()).t.max()) > 0.9


def test_a_clean_state_is_noised_to_where_the_refiner_starts_and_a_noisy_one_is_left():
    process = processes.build({"name": "variance_preserving", "schedules": [{"name": "cosine"}]})
    bridge = Takeover(process, 0.4)
    x = (torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)),)
    crossing = bridge.draw_at([(3, 2, 4, 4)], tiny.noise(1), CLEAN)
    noised = bridge(x, CLEAN, crossing, Cond())
    wanted = process.corrupt(x, (tiny.noise(1)((3, 2, 4, 4)),), torch.full((3,), 0.4))
    torch.testing.assert_close(noised.start, wanted)
    assert bridge(x, bridge.output_log_snr, crossing, Cond()).start is x
    assert noised.start_t == bridge.stop(0.0) == 0.4


def test_latents_are_shared_and_their_statistics_are_kept_once():
    method = built(codec=CODEC, sampling={"steps": 3, "threshold": {"name": "none"}})
    autoencoder, base, refiner = method.stages
    assert isinstance(refiner, LatentRefiner) and type(base) is LatentDiffusion
    assert refiner.codec is base.codec and refiner.previous is base
    names = [name for name in method.state_dict() if "statistics" in name]
    assert names and all(name.startswith("stages.1.") for name in names)
    base.codec.statistics.set(1.0, base.codec.network)
    assert sampled(method).shape == (3, 3, 16, 16)
    batch = Batch(base.codec.moments(tiny.batch("class").images), tiny.cond("class", 4))
    assert torch.isfinite(refiner(batch, refiner.draw(batch, tiny.noise())).total)


def test_both_networks_read_what_the_data_tell():
    method = built(facts=TOLD)
    for stage in method.stages:
        assert stage.denoiser.reads.scalars == frozenset(TOLD["scalars"])
        assert stage.denoiser.reads.vectors == TOLD["vectors"]
    method.check_facts({**tiny.facts("class"), **TOLD})
    assert not torch.equal(sampled(method, cond()), sampled(method, cond(crop=3.0)))
    assert built().reads.scalars == frozenset()


def test_a_scalar_that_a_request_leaves_open_is_assumed():
    method = built(facts=TOLD, **GIVEN)
    assert method.assumed == {"original_height": 16.0, "crop_top": 0.0}
    values = {"original_height": torch.full((3,), 16.0), "crop_top": torch.zeros(3)}
    assert torch.equal(sampled(method), sampled(method, Cond(scalars=values)))
    assert not torch.equal(sampled(method), sampled(method, cond()))


def test_scalars_of_the_data_that_are_left_out_are_not_read():
    """So that rows with and without them are of the same data."""
    facts = {**tiny.facts("class"), **TOLD}
    method = built(facts=TOLD, scalars=[])
    method.check_facts(facts)
    assert not method.reads.scalars
    assert torch.equal(sampled(method, cond()), sampled(method, cond(crop=3.0)))
    with pytest.raises(ValueError, match="reads the scalar 'crop_top', which the data does not"):
        built(facts=TOLD).check_facts({**facts, "scalars": ()})


def test_an_objective_without_times_has_no_refiner():
    with pytest.raises(ValueError, match="draws none: set method.refine=0"):
        built(objective={"name": "progressive_distillation", "steps": 4})


def test_at_other_sides_it_is_asked_for_as_of_that_target():
    sides = {"target_height": 16, "target_width": 16, "original_width": 64, "crop_top": 1}
    method = built(facts={"scalars": tuple(sides), "vectors": {}}, assumed=sides)
    wide = method.resized((8, 32))
    assert wide.assumed == {
        "target_height": 8,
        "target_width": 32,
        "original_width": 128,
        "crop_top": 1,
    }
    assert wide.stages[1].previous is wide.stages[0] and method.assumed["target_width"] == 16
    made = wide.sample(Request(2, noise=tiny.noise(0)))
    assert made[8, 32].shape == (2, 3, 8, 32)
