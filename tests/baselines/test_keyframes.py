"""Frames between given ones: what is given, what the stages draw, and what is refused."""

import pytest
import torch

from baselines.keyframes import Keyframes, MaskedFrames
from hierdiff.batch import Batch, Cond
from hierdiff.codec import Pyramid
from hierdiff.levels import down
from hierdiff.methods import Request, methods
from hierdiff.methods.bridge import CLEAN
from tests import tiny

NET = {
    **{"name": "space_time_unet", "width": 8, "multiples": [1, 2], "blocks": 1},
    **{"attention": 0, "groups": 4, "scalars": {"fps": 8}},
}


def clips(frames=4, side=4, b=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(b, 3, frames, side, side, generator=generator)


def cascade(resolutions=((4, 8, 8), (4, 4, 4), (2, 4, 4)), **options):
    torch.manual_seed(0)
    stages = [{}, {"bridge": {"name": "masked_frames"}}, {}][: len(resolutions)]
    node = {
        **{"name": "cascaded", "resolutions": [list(one) for one in resolutions]},
        **{"denoiser": NET, "sampling": {"steps": 2}, "stages": stages, "frames": "every"},
    }
    return methods.build({**node, **options}, offered={"channels": 3})


def test_given_frames_stand_at_their_places_among_zeros_with_a_mask_behind():
    bridge, given = MaskedFrames(low=(2, 4, 4), high=(4, 4, 4)), clips(2)
    low = bridge((given,), CLEAN, None, Cond()).cond.low
    assert low.shape == (2, 4, 4, 4, 4)
    assert torch.equal(low[:, :3, ::2], given) and not low[:, :, 1::2].any()
    assert (low[:, 3, ::2] == 1).all()


def test_where_all_frames_are_given_none_is_zero():
    bridge, given = MaskedFrames(low=(2, 4, 4), high=(2, 4, 4)), clips(2)
    low = bridge((given,), CLEAN, None, Cond()).cond.low
    assert torch.equal(low[:, :3], given) and (low[:, 3] == 1).all()


def test_keyframes_are_frames_as_they_are_reduced_in_space_alone():
    images = clips(4)
    assert torch.equal(Keyframes([(2, 4, 4)]).encode(images)[0], images[:, :, ::2])
    small = Keyframes([(2, 2, 2)]).encode(images)[0]
    torch.testing.assert_close(small, down(images[:, :, ::2], (2, 2, 2)))
    for same in ([(4, 2, 2)], [(4, 4, 4)]):
        assert torch.equal(Keyframes(same).encode(images)[0], Pyramid(same).encode(images)[0])
    assert torch.equal(Keyframes([2]).encode(images[:, :, 0])[0], down(images[:, :, 0], 2))


def test_a_stage_is_trained_on_the_frames_that_the_one_before_draws():
    between = cascade().stages[1]
    batch = Batch(clips(4, 8), Cond(scalars={"fps": torch.tensor([8.0, 4.0])}))
    (x0,), cond, _ = between.inputs(batch, between.draw(batch, tiny.noise(0)))
    assert torch.equal(cond.low[:, :3, ::2], x0[:, :, ::2]) and x0.shape == (2, 3, 4, 4, 4)
    assert between.denoiser.reads.low_channels == 4


def test_it_samples_clips_of_every_stage_at_the_rate_that_is_asked_for():
    method = cascade()
    tiny.randomised(method)
    rates = [
        method.sample(Request(2, Cond(scalars={"fps": torch.full((2,), fps)}), noise=tiny.noise(0)))
        for fps in (8.0, 4.0, 8.0)
    ]
    assert set(rates[0]) == {(4, 8, 8), (4, 4, 4), (2, 4, 4)}
    assert rates[0][4, 8, 8].shape == (2, 3, 4, 8, 8)
    for name, images in rates[0].items():
        assert torch.equal(images, rates[2][name]) and not torch.equal(images, rates[1][name])


@pytest.mark.parametrize(("low", "high"), [(4, 8), ((2, 4, 4), (4, 8, 8)), ((3, 4, 4), (4, 4, 4))])
def test_images_and_other_sides_are_refused(low, high):
    with pytest.raises(ValueError, match="it fills in frames between those of clips of the same"):
        MaskedFrames(low=low, high=high)


def test_means_of_frames_are_none_to_fill_in_between():
    with pytest.raises(ValueError, match=r"4x4x4 is given single frames.*set method\.frames=every"):
        cascade(frames="mean")
