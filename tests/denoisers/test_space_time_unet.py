"""The U-Net of clips is that of images on each frame, with layers between frames."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange

from hierdiff.denoisers import denoisers
from hierdiff.levels import framewise
from hierdiff.objective import Draws, ScoreMatching
from hierdiff.process import processes
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


# -- clips whose frames are images of their own ----------------------------------------------------


def cosine(levels=1):
    schedules = [{"name": "cosine"}] * levels
    return processes.build({"name": "variance_preserving", "schedules": schedules})


def test_of_a_clip_of_stills_each_frame_is_drawn_by_the_network_of_images():
    images, clips = pair()
    (x,), log_snr = tiny.state(1, 3, rank=3)
    cond = tiny.cond(KIND, 3)
    (usual,) = run(clips, (x,), log_snr, cond)
    (found,) = run(clips, (x,), log_snr, replace(cond, stills=torch.tensor([True, False, True])))
    each = cond.map(lambda part: part.repeat_interleave(x.shape[2], 0))
    rates = log_snr.repeat_interleave(x.shape[2], 0)
    (frames,) = run(images, (framewise(x),), rates, each)
    torch.testing.assert_close(
        framewise(found[::2]), frames.unflatten(0, (3, -1))[::2].flatten(0, 1)
    )
    assert torch.equal(found[1], usual[1]) and not torch.allclose(found[0], usual[0])


def test_of_stills_alone_the_space_layers_get_the_gradients_of_the_network_of_images():
    images, clips = pair()
    process = cosine()
    (x0,), _ = tiny.state(1, 2, rank=3)
    cond, objective = tiny.cond(KIND, 2), ScoreMatching(stills=1.0)
    draws = objective.draw(process, [x0.shape], tiny.noise(0))
    objective(process, clips, (x0,), cond, draws).total.backward()

    def each(part):
        return part.repeat_interleave(x0.shape[2], 0)

    own = Draws(each(draws.t), (framewise(draws.eps[0]),), each(draws.drop))
    ScoreMatching()(process, images, (framewise(x0),), cond.map(each), own).total.backward()
    found = dict(clips.named_parameters())
    for name, parameter in images.named_parameters():
        torch.testing.assert_close(found.pop(name).grad, parameter.grad)
    assert found and all(not parameter.grad.any() for parameter in found.values())


def test_a_share_of_stills_is_drawn_last_and_none_is_drawn_where_it_is_zero():
    process = cosine()
    plain, half = (
        ScoreMatching(drop=0.5, stills=share).draw(process, [(64, 3, 2, 8, 8)], tiny.noise(0))
        for share in (0.0, 0.5)
    )
    assert plain.stills is None and 16 < int(half.stills.sum()) < 48
    assert torch.equal(plain.t, half.t) and torch.equal(plain.drop, half.drop)
    assert torch.equal(plain.eps[0], half.eps[0])


def test_stills_of_images_of_joint_levels_and_of_other_networks_are_refused():
    _, clips = pair()
    one, two = cosine(), cosine(2)
    objective = ScoreMatching(stills=0.5)
    objective.check(one, clips, [(3, 4, 8, 8)])
    for process, shapes in ((one, [(3, 8, 8)]), (two, [(3, 4, 8, 8), (3, 2, 4, 4)])):
        with pytest.raises(ValueError, match="it is of clips at one level alone"):
            objective.check(process, clips, shapes)
    with pytest.raises(ValueError, match="choose 0, or a denoiser that keeps some apart"):
        objective.check(one, tiny.denoiser("rin"), [(3, 4, 8, 8)])
