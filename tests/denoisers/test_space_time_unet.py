"""The U-Net of clips is that of images on each frame, with layers between frames."""

import pytest
import torch
from einops import rearrange

from hierdiff.denoisers import denoisers
from tests import tiny

KIND = "class and text"


def pair(depth=1, moved=True):
    """A network of images, and one of clips with its weights."""
    images = tiny.randomised(
        denoisers.build(tiny.denoiser_node("nested_unet", depth), offered=tiny.facts(KIND))
    )
    clips = denoisers.build(tiny.denoiser_node("space_time_unet", depth), offered=tiny.facts(KIND))
    if moved:
        tiny.randomised(clips, seed=1)
    missing = clips.load_state_dict(images.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(".mixing." in key for key in missing.missing_keys)
    return images.eval(), clips.eval()


def run(network, x_t, log_snr, cond):
    return network(x_t, log_snr, network.prepare(cond)).levels


@pytest.mark.parametrize("depth", [1, 2])
def test_one_frame_is_the_network_of_images_bit_for_bit(depth):
    images, clips = pair(depth)
    x_t, log_snr = tiny.state(depth, 2)
    cond = tiny.cond(KIND, 2)
    expected = run(images, x_t, log_snr, cond)
    for stills in (x_t, tuple(x[:, :, None] for x in x_t)):
        found = run(clips, stills, log_snr, cond)
        for a, b, still in zip(expected, found, stills, strict=True):
            assert b.shape == still.shape and torch.equal(a, b.reshape(a.shape))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_new_network_draws_each_frame_as_that_of_images(depth):
    images, clips = pair(depth, moved=False)
    x_t, log_snr = tiny.state(depth, 2, rank=3)
    x_t = tuple(x[:, :, :2] for x in x_t)  # of two frames at each side
    cond = tiny.cond(KIND, 2)
    frames = tuple(rearrange(x, "b c f h w -> (b f) c h w") for x in x_t)
    each = cond.map(lambda part: part.repeat_interleave(2, 0))
    expected = run(images, frames, log_snr.repeat_interleave(2, 0), each)
    found = run(clips, x_t, log_snr, cond)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, rearrange(b, "b c f h w -> (b f) c h w"))


def test_frames_are_mixed_in_their_order():
    _, clips = pair()
    x = torch.randn(1, 3, 4, 8, 8)
    log_snr, cond = torch.zeros(1, 1), tiny.cond(KIND, 1)
    (usual,) = run(clips, (x,), log_snr, cond)
    last = x.clone()
    last[:, :, 3] += 1
    (other,) = run(clips, (last,), log_snr, cond)
    assert ((usual - other).abs().amax((0, 1, 3, 4)) > 1e-4).all()
    (back,) = run(clips, (x.flip(2),), log_snr, cond)
    assert (back.flip(2) - usual).abs().max() > 1e-3


def test_a_coarser_level_of_fewer_frames_sees_the_finer_one():
    _, clips = pair(depth=2)
    (fine, coarse), log_snr = tiny.state(2, 1, rank=3)
    assert fine.shape[2] == 2 * coarse.shape[2]
    cond = tiny.cond(KIND, 1)
    found = run(clips, (fine, coarse), log_snr, cond)
    assert [one.shape for one in found] == [fine.shape, coarse.shape]
    changed = run(clips, (fine + 0.5, coarse), log_snr, cond)
    assert (found[1] - changed[1]).abs().max() > 1e-4


def test_frames_that_do_not_divide_are_refused_and_images_are_not():
    _, clips = pair(depth=2)
    clips.check([(3, 6, 16, 16), (3, 3, 8, 8)])
    clips.check([(3, 16, 16), (3, 8, 8)])
    with pytest.raises(ValueError, match="6 frames around 4: .* one divides the other"):
        clips.check([(3, 6, 16, 16), (3, 4, 8, 8)])
    with pytest.raises(ValueError, match="takes states of 2 or 3 sides and this one has 1"):
        clips.check([(3, 16), (3, 8)])
