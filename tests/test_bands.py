"""Bases of joint levels: exact, linear, with the images that their names promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from baselines.keyframes import Keyframes
from hierdiff.bands import BASES, Details, Haar, Laplacian
from hierdiff.batch import Batch
from hierdiff.denoisers import Denoiser
from hierdiff.guidance import static_threshold
from hierdiff.levels import clipped, down, up
from hierdiff.methods import Request, methods
from hierdiff.noise import from_generator, from_tensors
from hierdiff.schedules import Cosine, Interval
from tests import tiny

SIDES = (16, 8, 4)
each = pytest.mark.parametrize("name", BASES)


def images(n: int = 2, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, side, side, generator=generator, dtype=torch.float64) * 2 - 1


@each
def test_levels_give_the_images_of_every_resolution_back(name: str):
    codec, x = BASES[name](SIDES), images()
    levels = codec.encode(x)
    assert tuple(tuple(level.shape[1:]) for level in levels) == codec.shapes()
    decoded = codec.decode(levels)
    assert list(decoded) == list(SIDES)
    for side, image in decoded.items():
        torch.testing.assert_close(image, down(x, side), rtol=0, atol=1e-14)


@each
def test_a_tail_has_the_coarsest_levels_as_they_are(name: str):
    codec, x = BASES[name](SIDES), images()
    for n in (1, 2):
        part = codec.tail(n)
        assert part.resolutions == SIDES[-n:] and part.shapes() == codec.shapes()[-n:]
        decoded = part.decode(codec.encode(x)[-n:])
        for side, image in decoded.items():
            torch.testing.assert_close(image, down(x, side), rtol=0, atol=1e-14)


@each
def test_a_limit_holds_for_images_in_any_basis(name: str):
    codec, x = BASES[name](SIDES), 2 * images()
    limited = codec.limited(codec.encode(x), static_threshold())
    for side, image in codec.decode(limited).items():
        if name != "haar" or side == SIDES[-1]:  # Haar bands hold no two images that disagree
            torch.testing.assert_close(image, clipped(down(x, side)), rtol=0, atol=1e-14)
    inside = codec.encode(images())
    for level, same in zip(codec.limited(inside, static_threshold()), inside, strict=True):
        torch.testing.assert_close(level, same, rtol=0, atol=1e-14)


def test_residuals_say_what_block_means_do_not():
    x = images()
    residual, low = Laplacian((16, 4)).encode(x)
    torch.testing.assert_close(residual, x - up(down(x, 4), 16))
    assert float(down(residual, 4).abs().max()) < 1e-15 and torch.equal(low, down(x, 4))


def test_haar_bands_of_one_level_are_an_orthonormal_basis():
    x, codec = images(), Haar((16,))
    (bands,) = codec.encode(x)
    assert codec.shapes() == ((12, 8, 8),)
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    torch.testing.assert_close(bands[:, 9:], 2 * down(x, 8))
    flat = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    flat[0, 0] = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # an edge between columns
    (across,) = Haar((2,)).encode(flat)
    assert across[0, :, 0, 0].tolist() == [2.0, *[0.0] * 11]


class InPixels(Denoiser):
    """A network of images as one of Haar bands."""

    levels, rank = 1, 2

    def __init__(self, network: Denoiser, codec: Haar):
        super().__init__()
        self.network, self.codec = network, codec

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        out = self.network(self.codec.join(x_t), log_snr, cond, carry)
        return out._replace(levels=self.codec.split(out.levels))


def test_haar_of_one_level_is_end_to_end_in_that_basis():
    """The same network, seen in bands, has the same loss and the same samples."""
    common = {"resolutions": [16], "sampling": {"steps": 4}}
    small = {**tiny.denoiser_node("unet"), "multiples": (1,), "attention": 0}
    node = {"name": "end_to_end", **common, "denoiser": small}
    plain = tiny.randomised(methods.build(node, offered={"channels": 3})).double()
    node = {"name": "mdm", **common, "basis": "haar", "denoiser": {**small, "channels": 12}}
    bands = methods.build(node, offered={"channels": 3}).double()
    (stage,), (own,) = bands.stages, plain.stages
    codec = stage.codec
    stage.denoiser = InPixels(own.denoiser, codec)

    batch = Batch(images())
    eps = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    draws = own.draw(batch, from_generator(torch.Generator().manual_seed(2), dtype=torch.float64))
    draws = replace(draws, t=t, eps=(eps,))
    other = replace(draws, eps=codec.split((eps,)))
    torch.testing.assert_close(stage(batch, other).total, own(batch, draws).total)

    noise = from_tensors([eps])
    plain_images = plain.sample(Request(2, noise=noise))
    in_bands = bands.sample(Request(2, noise=from_tensors(codec.split((eps,)))))
    torch.testing.assert_close(in_bands[16], plain_images[16], rtol=0, atol=1e-10)


@pytest.mark.parametrize("sides", [(16, 4), (16, 8, 1), ((4, 16, 16), (2, 8, 8))])
def test_haar_bands_refuse_other_steps_than_halves(sides):
    with pytest.raises(ValueError, match="Haar bands of"):
        Haar(sides)


def test_levels_have_their_names_and_channels_in_a_network():
    node = tiny.denoiser_node("nested_unet", 2)
    node["inner"] = {**node["inner"], "channels": 12}
    about = {"name": "mdm", "resolutions": [32, 16], "basis": "haar", "denoiser": node}
    method = methods.build(about, offered={"channels": 3})
    batch = Batch(images(side=32).float())
    stage = method.stages[0]
    loss = stage(batch, stage.draw(batch, tiny.noise()))
    assert {"loss/32", "loss/16"} <= set(loss.logs)
    made = method.sample(Request(2, noise=tiny.noise(), steps=2))
    assert {side: tuple(image.shape) for side, image in made.items()} == {
        32: (2, 3, 32, 32),
        16: (2, 3, 16, 16),
    }
    with pytest.raises(ValueError, match="12"):
        methods.build({**about, "denoiser": tiny.denoiser_node("nested_unet", 2)},
                      offered={"channels": 3})  # fmt: skip


# -- staggered times -------------------------------------------------------------------------------


def test_a_schedule_runs_in_its_interval_and_stands_outside():
    base, schedule = Cosine(), Interval(Cosine(), 0.25, 0.75)
    t = torch.tensor([0.25, 0.3, 0.5, 0.75], dtype=torch.float64)
    torch.testing.assert_close(schedule(t), base((t - 0.25) * 2))
    ends = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([15.25, -15.25])
    with pytest.raises(ValueError, match=r"from 0.5 to 0.5: give the smaller first"):
        Interval(base, 0.5, 0.5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_coarse_levels_are_clean_before_the_finest_begins(count: int):
    sides = SIDES[:count]
    node = {"name": "mdm", "resolutions": list(sides), "times": "staggered", "reference": 16}
    denoiser = tiny.denoiser_node("nested_unet", count)
    stage = methods.build({**node, "denoiser": denoiser}, offered={"channels": 3}).stages[0]
    joint = methods.build({**node, "times": "joint", "denoiser": denoiser}, offered={"channels": 3})
    starts = [one / (count + 1) for one in range(count)]
    t = torch.tensor([1.0, *starts], dtype=torch.float64)
    log_snr = stage.process.log_snr(t)
    assert log_snr[0].argmax() == count - 1 or count == 1
    ends = joint.stages[0].process.log_snr(torch.zeros(1, dtype=torch.float64))[0]
    for level, row in enumerate(log_snr[1:]):
        if count > 1:
            assert row[level] >= ends[level] - 1e-9  # clean where its interval begins
    if count == 3:  # the finest stays noise until the coarsest is clean
        at = torch.tensor([0.5], dtype=torch.float64)
        finest, _, coarsest = stage.process.log_snr(at)[0].tolist()
        assert coarsest >= ends[2] - 1e-9 and finest < -14


@pytest.mark.parametrize(
    "option",
    [
        {"sampling": {"grid": {"name": "karras"}}},
        {"sampling": {"grid": {"name": "schedule"}}},
        {"objective": {"time": {"name": "edm"}}},
    ],
    ids=["karras", "schedule", "edm"],
)
def test_noise_levels_of_the_coarsest_level_name_no_times_of_staggered_ones(option: dict):
    node = {"name": "mdm", "resolutions": [16, 8], **option}
    node["denoiser"] = tiny.denoiser_node("nested_unet", 2)
    methods.build(node, offered={"channels": 3})
    with pytest.raises(ValueError, match="the times from 0.333 to 1 alone: take the grid"):
        methods.build({**node, "times": "staggered"}, offered={"channels": 3})


@pytest.mark.parametrize("times", ["joint", "staggered"])
def test_posterior_means_lead_from_noise_to_the_image_in_any_times(times: str):
    node = {"name": "mdm", "resolutions": [16, 8], "basis": "laplacian", "times": times}
    denoiser = tiny.denoiser_node("nested_unet", 2)
    stage = methods.build({**node, "denoiser": denoiser}, offered={"channels": 3}).stages[0]
    clean = stage.encode(images(1))
    state = tuple(torch.randn(level.shape, dtype=level.dtype) for level in clean)
    moments = stage.process.trajectory([1.0, 0.6, 0.3, 0.0], state)
    for before, after in pairwise(moments):
        state, variance = stage.process.posterior(clean, state, before, after)
        assert bool((variance >= 0).all())
    for level, wanted in zip(state, clean, strict=True):
        torch.testing.assert_close(level, wanted, rtol=0, atol=2e-3)


def test_details_beside_their_low_band_are_the_image_and_those_of_joint_bands():
    x, codec = images(), Details(16, gain=4.0)
    (details,) = codec.encode(x)
    assert codec.shapes() == (tuple(details.shape[1:]),) and codec.names() == ("16",)
    torch.testing.assert_close(details, 4 * Haar((16, 8)).encode(x)[0])
    torch.testing.assert_close(codec.decode((details, down(x, 8)))[16], x)


def test_details_that_lead_out_of_range_are_shortened_and_keep_their_mean():
    x, codec = images(), Details(16)
    low = down(x, 8)
    (details,) = codec.encode(x)
    image = codec.decode((3 * details, low))[16]
    assert float(image.abs().max()) == pytest.approx(1)
    torch.testing.assert_close(down(image, 8), low)
    inner = codec.decode((0.2 * details, 0.5 * low))[16]  # blocks that fit stay as they are
    torch.testing.assert_close(inner - up(down(inner, 8), 16), 0.2 * (x - up(low, 16)))


def test_a_limit_of_details_is_one_of_the_image():
    x, codec = 2 * images(), Details(16, gain=2.0)
    (details,), low = codec.encode(x), down(x, 8)
    limited, same = codec.limited((details, low), static_threshold())
    torch.testing.assert_close(limited, codec.encode(clipped(x))[0])
    assert same is low


def test_details_of_odd_sides_are_refused():
    with pytest.raises(ValueError, match=r"Haar details of \(9, 9\): they are for images of even"):
        Details(9)


@pytest.mark.parametrize("codec", [*BASES.values(), Keyframes], ids=lambda one: one.__name__)
def test_at_other_sides_and_in_its_tail_a_codec_keeps_its_basis(codec):
    """Residuals that were taken for images would be wrong without a word."""
    square = codec((16, 8))
    wide = square.resized((16, 32))
    assert (type(wide), wide.resolutions) == (codec, ((16, 32), (8, 16)))
    assert (type(square.tail(1)), square.tail(1).resolutions) == (codec, (8,))
    assert square.resolutions == (16, 8)
    x = torch.rand(2, 3, 16, 32) * 2 - 1
    for found, wanted in zip(wide.encode(x), codec(((16, 32), (8, 16))).encode(x), strict=True):
        assert torch.equal(found, wanted)
    torch.testing.assert_close(wide.decode(wide.encode(x))[16, 32], x)


def test_sides_that_a_basis_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="Haar bands of"):
        Haar((16, 8)).resized((10, 36))
    with pytest.raises(ValueError, match="choose sides that divide as these do"):
        Laplacian((16, 8)).resized((12, 35))
