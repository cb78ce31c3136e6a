"""Cascades: the bridge's known answers and limits, the chain, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from baselines import degradation
from baselines.cascaded import Augmented, Upsampler, blurred, cropped, merged
from hierdiff.batch import Batch, Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser, OneLevelDenoiser, Prediction, denoisers
from hierdiff.levels import down, up
from hierdiff.methods import Diffusion, Request, Sampling, methods
from hierdiff.methods.bridge import CLEAN
from hierdiff.noise import from_tensors
from hierdiff.objective import ScoreMatching
from hierdiff.parameterization import Parameterization
from hierdiff.process import processes
from hierdiff.samplers.heun import Heun
from hierdiff.schedules import SquaredCosine
from tests import tiny

VP = processes.build({"name": "variance_preserving", "schedules": [{"name": "cosine"}]})
INNER = {"multiples": [1, 2], "blocks": 1, "attention": 0, "groups": 4, "heads": 2}
NET = {"name": "unet", "width": 8, **INNER}


def bridge(**options):
    return Augmented(**{"low": 4, "high": 8, "process": VP, **options})


def crossing(one, level, b=2, seed=0):
    return one.draw_at([(b, 3, one.low, one.low)], tiny.noise(seed), level)


def low_of(one, x, *args):
    """The condition on one level x."""
    return one((x,), *args).cond.low


def images(b=2, side=4, seed=1):
    return torch.randn(b, 3, side, side, generator=torch.Generator().manual_seed(seed))


def cascade(resolutions=(16, 8), seed=0, **options):
    torch.manual_seed(seed)
    node = {"name": "cascaded", "resolutions": list(resolutions), "denoiser": NET, **options}
    node.setdefault("sampling", {"steps": 3})
    return methods.build(node, offered=tiny.facts("class"))


# -- known answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "alpha", "sigma", "log_snr"),
    [
        (101, 0.998736, 0.050272, 5.978),
        (251, 0.994006, 0.109329, 4.415),
        (501, 0.978595, 0.205797, 3.118),
        (751, 0.953908, 0.300099, 2.313),
        (1001, 0.920180, 0.391495, 1.709),
        (1251, 0.877730, 0.479155, 1.211),
    ],
)
def test_steps_of_cdm_are_these_levels(step, alpha, sigma, log_snr):
    """Of its 4000-step cosine."""
    t = torch.tensor([step / 4000], dtype=torch.float64)
    found = SquaredCosine(steps=4000)(t)
    assert float(found) == pytest.approx(log_snr, abs=6e-4)
    a, s = VP.coefficients(found)
    assert (float(a), float(s)) == pytest.approx((alpha, sigma), abs=1e-6)


@pytest.mark.parametrize(
    ("level", "sigma"),
    [
        (math.log(3), 0.5),  # Imagen Video, SNR 3 and 5
        (math.log(5), 0.408248),
        (-math.log(math.expm1(1e-4 + 10 * 0.1**2)), 0.308631),  # imagen-pytorch, level 0.1 ...
        (-math.log(math.expm1(1e-4 + 10 * 0.2**2)), 0.574236),
        (-math.log(math.expm1(1e-4 + 10 * 0.3**2)), 0.770371),
        (float(SquaredCosine()(torch.tensor([0.251], dtype=torch.float64))), 0.392571),  # IF
    ],
)
def test_augmentation_levels_of_published_code_have_this_noise(level, sigma):
    one = bridge(resize="nearest")
    found = low_of(one, torch.zeros(2, 3, 4, 4), CLEAN, crossing(one, level), Cond())
    eps = up(crossing(one, level).eps, 8)
    torch.testing.assert_close(found, sigma * eps, rtol=2e-5, atol=2e-6)


def test_noising_again_from_log_snr_2_to_0_adds_this_much():
    one = bridge(resize="nearest")
    drawn = crossing(one, 0.0)
    low = low_of(one, torch.zeros(2, 3, 4, 4), 2.0, drawn, Cond())
    torch.testing.assert_close(low, 0.657519854 * up(drawn.eps, 8))


# -- limits of the bridge ------------------------------------------------------------------------


@pytest.mark.parametrize("noise_at", ["low", "high"])
def test_without_noise_the_bridge_is_a_resize(noise_at):
    x = images()
    wanted = torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)
    for one in (bridge(noise_at=noise_at, log_snr_range=None), bridge(noise_at=noise_at)):
        level = CLEAN if one.log_snr_range is None else 15.0
        told = one((x,), level if one.log_snr_range else CLEAN, crossing(one, level), Cond()).cond
        assert torch.equal(told.low, wanted)
        assert told.scalars["augmentation"].tolist() == [level, level]


@pytest.mark.parametrize("noise_at", ["low", "high"])
def test_with_endless_noise_nothing_of_the_image_is_left(noise_at):
    one = bridge(noise_at=noise_at, log_snr_range=(-math.inf, 15.0))
    x = images().requires_grad_()
    told = one((x,), CLEAN, crossing(one, -math.inf), Cond()).cond
    network = tiny.randomised(
        methods.build(
            {"name": "cascaded", "resolutions": [8, 4], "denoiser": NET}, offered=tiny.facts("")
        ).stages[1]
    ).denoiser
    state = torch.randn(2, 3, 8, 8)
    network((state,), torch.zeros(2, 1), told).levels[0].square().sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    told = one((x,), CLEAN, crossing(one, 3.0), Cond()).cond
    network((state,), torch.zeros(2, 1), told).levels[0].square().sum().backward()
    assert x.grad.abs().max() > 0


def test_noise_at_the_low_resolution_comes_in_blocks_and_at_the_high_one_white():
    shape = torch.zeros(2, 3, 4, 4)
    one = bridge(noise_at="low", resize="nearest")
    blocks = low_of(one, shape, CLEAN, crossing(one, 0.0), Cond())
    assert torch.equal(up(down(blocks, 4), 8), blocks)
    one = bridge(noise_at="high", resize="nearest")
    white = low_of(one, shape, CLEAN, crossing(one, 0.0), Cond())
    assert white.std() == pytest.approx(math.sqrt(0.5), rel=0.1)
    assert down(white, 4).std() == pytest.approx(math.sqrt(0.5) / 2, rel=0.2)


def test_a_truncated_state_is_handed_over_as_it_stands():
    one = bridge(truncated=True, resize="nearest")
    stop = one.stop(2.0)
    log_snr = VP.log_snr(torch.tensor([stop], dtype=torch.float64))
    assert float(log_snr) == pytest.approx(2.0)
    x = images()
    assert torch.equal(low_of(one, x, 2.0, crossing(one, 2.0), Cond()), up(x, 8))


def test_levels_are_drawn_for_each_example_as_uniform_steps_of_the_low_process():
    one = bridge(log_snr_range=(-5.0, 5.0))
    drawn = one.draw([(4000, 1, 4, 4)], tiny.noise()).log_snr
    assert len(drawn.unique()) > 3900
    assert -5 <= float(drawn.min()) < -4.9 and 4.9 < float(drawn.max()) <= 5
    times = VP.schedules[0].inverse(drawn)
    assert times.sort().values.diff().max() < 2e-3


def test_half_of_the_training_examples_are_blurred_and_no_sample():
    one = bridge(blur=(0.4, 0.6))
    drawn = one.draw([(1000, 1, 4, 4)], tiny.noise()).blur
    assert float((drawn > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(drawn[drawn > 0].min()) >= 0.4 and float(drawn.max()) <= 0.6
    assert not crossing(one, 3.0).blur.any()


def test_the_blur_is_a_3x3_gaussian_that_keeps_the_mean():
    x = torch.zeros(2, 1, 5, 5)
    x[:, :, 2, 2] = 1
    out = blurred(x, torch.tensor([0.6, 0.0]))
    side = math.exp(-0.5 / 0.6**2)
    row = torch.tensor([0, side, 1, side, 0]) / (1 + 2 * side)
    torch.testing.assert_close(out[0, 0], row[:, None] * row)
    assert torch.equal(out[1], x[1])


# -- exposure bias of a linear Gaussian cascade --------------------------------------------------

PRIOR, DETAIL, GAIN = (
    0.8,
    0.3,
    0.9,
)  # std of the low pixel and of the detail, high = gain low + detail


class Exact(Denoiser):
    """E[x0 | x_t, augmented low] for one low pixel that explains four high ones."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # a stage looks up its device

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        x = x_t[0].flatten(1)
        z, level = cond.low[:, 0, :1, 0], cond.scalars["augmentation"][:, None]
        a, s = (part.to(x) for part in VP.coefficients(level))
        denominator = (a * PRIOR) ** 2 + s**2
        mean = GAIN * (a * PRIOR**2 / denominator * z).expand_as(x)
        shared = (GAIN * PRIOR * s) ** 2 / denominator  # of all four pixels together
        at, st = (part.to(x) for part in VP.coefficients(log_snr))
        left = x - at * mean
        common = left.mean(1, keepdim=True)

        def shrunk(part, variance):
            return at * variance / (at**2 * variance + st**2) * part

        x0 = mean + shrunk(common, 4 * shared + DETAIL**2) + shrunk(left - common, DETAIL**2)
        return Prediction((x0.reshape(x_t[0].shape),))


@pytest.mark.parametrize("level", [4.0, 0.5, -3.0])
@pytest.mark.parametrize("std", [PRIOR, 0.5, 1.2])
def test_the_spread_of_a_gaussian_cascade_has_its_closed_form(level, std):
    """std: of the generated low pixels; where it is that of the real ones there is no bias."""
    parts = {
        "process": VP,
        "objective": ScoreMatching(Parameterization("x0")),
        "denoiser": Exact(),
        "facts": {"channels": 1},
        "sampling": Sampling(rule=Heun(), steps=400, threshold={"name": "none"}),
    }
    stage = Upsampler(
        codec=Pyramid([2], 1),
        bridge=Augmented(low=1, high=2, process=VP, resize="nearest"),
        previous=Diffusion(codec=Pyramid([1], 1), **parts),
        **parts,
    )
    unit = torch.eye(
        6, dtype=torch.float64
    )  # the chain is linear: a low pixel, its noise, 4 noises
    low = (unit[:, 0].reshape(6, 1, 1, 1),)
    noise = from_tensors([unit[:, 1].reshape(6, 1, 1, 1), unit[:, 2:].reshape(6, 1, 2, 2)])
    columns = stage.follow(Request(6, noise=noise), low, level)[2].flatten(1)
    spread = torch.tensor([std**2, 1, 1, 1, 1, 1], dtype=torch.float64)
    found = columns.T @ (spread[:, None] * columns)
    alpha, sigma = (float(part) for part in VP.coefficients(torch.tensor(level).double()))
    denominator = (alpha * PRIOR) ** 2 + sigma**2
    gain = GAIN * alpha * PRIOR**2 / denominator
    common = gain**2 * ((alpha * std) ** 2 + sigma**2) + (GAIN * PRIOR * sigma) ** 2 / denominator
    wanted = common * torch.ones(4, 4) + DETAIL**2 * torch.eye(4)
    torch.testing.assert_close(found, wanted.double(), rtol=2e-3, atol=2e-3)
    if std == PRIOR:
        assert common == pytest.approx((GAIN * PRIOR) ** 2)


# -- the chain -----------------------------------------------------------------------------------


def test_a_cascade_of_one_stage_is_that_stage():
    options = {"resolutions": [16], "denoiser": NET, "sampling": {"steps": 3}}
    made = []
    for name in ("cascaded", "end_to_end"):
        torch.manual_seed(0)
        method = methods.build({"name": name, **options}, offered=tiny.facts("class"))
        tiny.randomised(method)
        batch = tiny.batch("class")
        (stage,) = method.stages
        loss = stage(batch, stage.draw(batch, tiny.noise())).total
        made.append((loss, method.sample(Request(2, noise=tiny.noise()))[16]))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])


def test_three_stages_hand_their_images_on():
    method = cascade((32, 16, 8))
    tiny.randomised(method)
    assert [stage.name for stage in method.stages] == ["8", "8to16", "16to32"]
    made = method.sample(Request(2, noise=tiny.noise()))
    assert list(made) == [32, 16, 8]
    seen = []
    method.stages[2].denoiser.register_forward_hook(lambda _, args, out: seen.append(args[2].low))
    again = method.stages[2].follow(Request(2, noise=tiny.noise(5)), (made[16],))
    assert list(again) == [32]
    shown = torch.nn.functional.interpolate(made[16], 32, mode="bilinear", align_corners=False)
    assert torch.corrcoef(torch.stack([seen[0].flatten(), shown.flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("truncated", [False, True])
def test_the_condition_is_drawn_once_a_sample_and_comes_from_the_low_image(truncated):
    node = {"name": "augmented", "truncated": truncated, "log_snr": 2.0, "resize": "nearest"}
    method = cascade(bridge=node)
    tiny.randomised(method)
    seen = []
    method.stages[1].denoiser.register_forward_hook(lambda _, args, out: seen.append(args[2].low))
    made = method.sample(Request(2, noise=tiny.noise()))
    assert len(seen) == 3 and all(torch.equal(seen[0], one) for one in seen)
    alpha, sigma = (float(part) for part in VP.coefficients(torch.tensor(2.0)))
    left = (down(seen[0], 8) - alpha * made[8]) / sigma  # noise, apart from what the stop leaves
    assert float(left.std()) == pytest.approx(1, abs=0.35 if truncated else 0.15)


def test_truncated_sampling_stops_on_the_same_trajectory():
    """The low image is that of the whole trajectory with one more time in it."""
    stage = cascade((8,)).stages[0]
    tiny.randomised(stage)
    state, images = stage.hand_over(Request(2, noise=tiny.noise()), stop=0.4)
    seen = {}
    watch = lambda i, s, x: seen.update({s: x})  # noqa: E731
    stage.hand_over(Request(2, noise=tiny.noise(), watch=watch), stop=0.4)
    assert list(seen) == pytest.approx([2 / 3, 0.4, 1 / 3, 0.0])
    assert torch.equal(seen[0.4][0], state[0]) and torch.equal(seen[0.0][0], images[8])


def test_what_nobody_asks_for_is_not_computed():
    """The base ends at the hand-over where its images are not wanted; those above are the same."""
    node = {"name": "augmented", "truncated": True, "log_snr": 2.0}
    method = cascade(bridge=node, sampling={"steps": 10, "rule": {"name": "ddim"}, "guidance": 2.0})
    tiny.randomised(method)
    calls = [], []
    for stage, own in zip(method.stages, calls, strict=True):
        tiny.count_evaluations(stage.denoiser, own)

    def counted() -> list[int]:
        numbers = [len(own) for own in calls]
        for own in calls:
            own.clear()
        return numbers

    whole = method.sample(Request(2, noise=tiny.noise()))
    assert list(whole) == [16, 8] and counted() == [22, 20]
    alone = method.sample(Request(2, noise=tiny.noise(), resolutions=[16]))
    assert list(alone) == [16] and torch.equal(alone[16], whole[16])
    stop = method.stages[1].bridge.stop(2.0)
    above = 2 * (1 + sum(t > stop for t in torch.linspace(0.1, 0.9, 9)))
    assert counted() == [above, 20] and above < 20
    assert method.stages[1].evaluations == above + 20
    low = method.sample(Request(2, noise=tiny.noise(), resolutions=[8]))
    assert list(low) == [8] and counted() == [20, 0]


def test_training_sees_the_real_low_image_through_the_same_bridge():
    method = cascade(bridge={"name": "augmented", "log_snr_range": None})
    stage, batch = method.stages[1], tiny.batch("class")
    seen = []
    stage.denoiser.register_forward_hook(lambda _, args, out: seen.append(args[2].low))
    stage(batch, stage.draw(batch, tiny.noise()))
    drawn = crossing(stage.bridge, CLEAN, 4)
    wanted = low_of(stage.bridge, down(batch.images, 8), CLEAN, drawn, Cond())
    assert torch.equal(seen[0], wanted)


def test_stages_differ_where_they_say_so():
    method = cascade(
        stages=[
            {"sampling": {"steps": 7}, "batch_size": 8, "share": 0.25},
            {"denoiser": {"width": 16}, "process": "flow", "objective": {"loss_space": "v"}},
        ],
        sampling={"steps": 3, "guidance": 2.0},
    )
    base, high = method.stages
    assert (base.sampling.steps, high.sampling.steps) == (7, 3)
    assert (base.sampling.guidance, high.sampling.guidance) == (2.0, 2.0)
    assert (base.batch_size, high.batch_size) == (8, None)
    assert (base.share, high.share) == (0.25, 1.0)
    assert (base.denoiser.nest_width, high.denoiser.nest_width) == (8, 16)
    assert (base.objective.loss_space, high.objective.loss_space) == ("eps", "v")
    assert type(high.process).__name__ == "Flow"
    assert method.at(8) is base and method.at(16) is high


def test_options_of_a_stage_are_merged_and_another_part_replaces():
    common = {"denoiser": {"name": "unet", "width": 8}, "steps": 3}
    assert merged(common, {"denoiser": {"width": 4}})["denoiser"] == {"name": "unet", "width": 4}
    assert merged(common, {"denoiser": {"name": "rin"}})["denoiser"] == {"name": "rin"}
    assert merged(common, {})["steps"] == 3


def test_crops_are_the_same_square_of_image_and_condition():
    bridge_node = {"name": "augmented", "log_snr_range": None, "resize": "nearest"}
    method = cascade(bridge=bridge_node, stages=[{}, {"crop": 8}])
    stage = method.stages[1]
    smooth = up(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 16)
    batch = Batch(smooth, tiny.batch("class").cond)
    draws = stage.draw(batch, tiny.noise())
    assert draws.draws.draws.eps[0].shape == (4, 3, 8, 8)
    assert (draws.corners % 2 == 0).all() and len(draws.corners.unique(dim=0)) > 1
    assert draws.corners.min() >= 0 and draws.corners.max() <= 8
    seen = []
    stage.denoiser.register_forward_hook(lambda _, args, out: seen.append(args))
    stage(batch, draws)
    assert torch.equal(seen[0][2].low, cropped(smooth, draws.corners, 8))
    assert method.sample(Request(1, noise=tiny.noise()))[16].shape[-1] == 16


def test_a_crop_starts_at_its_corner():
    x = torch.arange(32.0).reshape(1, 1, 4, 8).expand(2, 1, 4, 8)
    found = cropped(x, torch.tensor([[0, 0], [2, 4]]), 2)
    assert found[:, 0].tolist() == [[[0, 1], [8, 9]], [[20, 21], [28, 29]]]


class Plain(OneLevelDenoiser):
    """A drop-in that has never heard of low-resolution images."""

    def __init__(self, *, channels: int = 3):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def denoise(self, x, log_snr, cond):
        return self.conv(x)


def test_a_denoiser_without_low_channels_becomes_an_upsampler():
    method = cascade(denoiser={"name": f"{__name__}:Plain"})
    tiny.randomised(method)
    request = Request(1, noise=tiny.noise())
    made = [
        method.stages[1].follow(replace(request, noise=tiny.noise()), (images(1, 8, seed),), 9.0)
        for seed in (1, 2)
    ]
    assert (made[0][16] - made[1][16]).abs().max() > 1e-4
    batch = tiny.batch("class")
    stage = method.stages[1]
    stage(batch, stage.draw(batch, tiny.noise())).total.backward()
    assert all(p.grad.abs().max() > 0 for p in stage.parameters())


@pytest.mark.parametrize("name", denoisers.names())
def test_every_denoiser_of_one_level_can_be_an_upsampler(name):
    method = cascade(denoiser=tiny.denoiser_node(name))
    tiny.randomised(method)
    made = method.sample(Request(1, noise=tiny.noise()))
    assert torch.isfinite(made[16]).all()


# -- refused before compute ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolutions": (16, 6)}, "6 does not divide 16"),
        ({"stages": [{}]}, r"1 stages for the resolutions \[8, 16\]"),
        ({"stages": [{}, {"shar": 1}]}, "no option 'shar', did you mean 'share'"),
        ({"stages": [{}, {"share": "x"}]}, r"method.stages.1.share='x': share takes a number, 0"),
        ({"stages": [{}, {"sampling": {"steps": 0}}]}, r"method.stages.1.sampling.steps=0: "),
        (
            {"stages": [{"denoiser": {"name": "unet", "width": 2.5}}, {}]},
            r"stages.0.denoiser.width",
        ),
        ({"stages": [{"crop": 4}, {}]}, "first stage of a cascade stands on nothing.*'crop'"),
        ({"stages": [{}, {"crop": 5}]}, "crop 5 of 16 px.*a multiple of 2 up to 16"),
        ({"stages": [{}, {"crop": 32}]}, "crop 32 of 16 px"),
        ({"bridge": {"name": "augmented", "log_snr_range": [3, 1]}}, "lowest, highest"),
        (
            {"bridge": {"name": "augmented", "log_snr_range": [0, 2]}},
            "log_snr 3.0.*outside.*0 to 2",
        ),
        ({"bridge": {"name": "augmented", "noise_at": "hi"}}, "unknown noise_at 'hi'"),
        ({"bridge": {"name": "augmented", "resize": "bicubc"}}, "did you mean 'bicubic'"),
        ({"bridge": {"name": "augmented", "blur": [1, 0]}}, "blur"),
        (
            {"bridge": {"name": "augmented", "noise_at": "high", "truncated": True}},
            "truncated with noise_at=high is undefined",
        ),
        (
            {"bridge": {"name": "augmented", "log_snr_range": None, "truncated": True}},
            "without noise",
        ),
        ({"bridge": {"name": "augmnted"}}, "unknown bridge 'augmnted', did you mean 'augmented'"),
        ({"denoiser": None}, "stage 8 of the cascade has no denoiser"),
        ({"denoiser": tiny.denoiser_node("nested_unet", 2)}, "2 level"),
    ],
)
def test_a_chain_that_cannot_work_is_refused_at_build(options, message):
    with pytest.raises(ValueError, match=message):
        cascade(**options)


def test_a_level_outside_of_the_trained_range_is_refused():
    method = cascade()
    with pytest.raises(ValueError, match=r"log_snr -9 .*outside of the range.*-5 to 15"):
        method.stages[1].follow(Request(1, noise=tiny.noise()), (images(1, 8),), -9)


def test_a_stage_is_not_sampled_before_it_is_trained():
    method = cascade(stages=[{"share": 0}, {}])
    with pytest.raises(ValueError, match="stage 8 is sampled before it is trained.*weights"):
        method.sample(Request(1, noise=tiny.noise()))
    assert method.stages[1].preview(Cond(), tiny.batch("class"), tiny.noise())[16].shape[0] == 4


def test_a_denoiser_for_all_says_which_stage_has_one_of_its_own(caplog):
    own = tiny.denoiser_node("unet")
    cascade(denoiser=tiny.denoiser_node("dit"), stages=[{"denoiser": own}, {}])
    assert "denoiser dit is not that of stage 8, which has one of its own, unet" in caplog.text
    assert "method.stages.0.denoiser=null" in caplog.text
    caplog.clear()
    changed = {"denoiser": {**own, "width": 32}}
    cascade(denoiser=own, stages=[changed, {"denoiser": {"width": 32}}])
    assert not caplog.text


def test_a_denoiser_of_null_is_the_one_for_all():
    node = tiny.denoiser_node("dit")
    stages = cascade(denoiser=node, stages=[{"denoiser": None, "share": 0.5}, {}]).stages
    assert [type(stage.denoiser).__name__ for stage in stages] == ["DiT", "DiT"]


# -- degradation, split, networks by resolution --------------------------------------------------

PLAIN = {"name": "augmented", "log_snr_range": None}
BSR = {**PLAIN, "degradation": {"name": "bsr"}}


def batch(b=4, side=16):
    return Batch(images=images(b, side).clamp(-1, 1), cond=Cond(labels=torch.zeros(b).long()))


def test_a_degradation_makes_the_low_image_in_training_alone():
    usual, worse = (cascade(bridge=options) for options in (PLAIN, BSR))
    worse.load_state_dict(usual.state_dict())
    lows = [
        stage.inputs(batch(), stage.draw(batch(), tiny.noise(0)))[1].low
        for stage in (usual.stages[1], worse.stages[1])
    ]
    assert lows[0].shape == lows[1].shape and (lows[0] - lows[1]).abs().max() > 0.02
    request = Request(2, noise=tiny.noise(3))
    a, b = (one.sample(replace(request, noise=tiny.noise(3)))[16] for one in (usual, worse))
    assert torch.equal(a, b)


def test_a_degradation_draws_behind_all_other_numbers():
    """So that it changes neither times nor noise of a run."""
    usual, worse = (cascade(bridge=options) for options in (PLAIN, BSR))
    drawn, other = (one.stages[1].draw(batch(), tiny.noise(0)) for one in (usual, worse))
    assert drawn.degraded is None and other.degraded[0].shape == (4, 3, 8, 8)
    assert torch.equal(drawn.draws.t, other.draws.t)
    assert torch.equal(drawn.draws.eps[0], other.draws.eps[0])


def test_a_degraded_image_is_cropped_with_its_target():
    made = cascade(stages=[{}, {"crop": 8}], bridge=BSR).stages[1]
    draws = made.draw(batch(), tiny.noise(0))
    x0, cond, _ = made.inputs(batch(), draws)
    assert x0[0].shape[-1] == cond.low.shape[-1] == 8


def test_a_degradation_of_clips_is_refused():
    with pytest.raises(ValueError, match="a degradation of 2x8x8: it is for images alone"):
        bridge(low=(2, 4, 4), high=(2, 8, 8), degradation=degradation.BSR())


def test_a_split_replaces_the_shares_and_is_a_note_of_the_row():
    stages = [{"share": 1}, {"share": 0.75}]
    usual, split = cascade(stages=stages), cascade(stages=stages, split=[0.3, 0.7])
    assert [stage.share for stage in usual.stages] == [1, 0.75]
    assert [stage.share for stage in split.stages] == [0.3, 0.7]
    assert not any(stage.notes for stage in usual.stages)
    assert split.stages[0].notes == ("split of the budget's steps: 8 0.3, 8to16 0.7",)


def test_a_split_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"split \[1\] for 2 stages: give a share for each"):
        cascade(split=[1])


def test_a_network_of_a_resolution_replaces_that_for_all():
    small = {"name": "unet", "width": 4, **INNER}
    made = cascade(denoisers={8: small}, stages=[{"denoiser": {"groups": 2}}, {}])
    base, upsampler = (stage.denoiser for stage in made.stages)
    assert (base.nest_width, upsampler.nest_width) == (4, 8)
    assert base.head[0].num_groups == 2  # what a stage says itself is merged over it
    with pytest.raises(ValueError, match="a denoiser of 32 px in a cascade of 8, 16"):
        cascade(denoisers={"32": small})


def test_the_whole_process_is_drawn_evenly_in_its_time():
    """CDM's steps are uniform over the whole process of the low model."""
    one = bridge(log_snr_range=(-math.inf, math.inf))
    log_snr = one.draw([(64, 3, 4, 4)], tiny.noise(0)).log_snr
    t = VP.schedules[0].inverse(log_snr.double()).sort().values
    cells = torch.arange(64, dtype=torch.float64) / 64
    assert ((t > cells - 1e-4) & (t < cells + 1 / 64 + 1e-4)).all()
