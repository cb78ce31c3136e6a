"""Single images that are trained beside clips (`objective.stills`)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hierdiff.batch import Batch
from hierdiff.data import ImageData
from hierdiff.images import to_float
from hierdiff.methods import methods
from hierdiff.training.feed import Feed
from hierdiff.training.step import column_of
from hierdiff.training.untrained import noise_batch
from tests import tiny
from tests.training.runs import recipe

CLIPS = {
    **{"name": "space_time_unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 1},
    **{"heads": 2, "groups": 4, "middle": False},
}
NODE = {
    **{"name": "end_to_end", "resolutions": [[4, 8, 8]], "denoiser": CLIPS},
    **{"objective": {"stills": 1.5}, "sampling": {"steps": 2}},
}
CASCADE = {
    **{"name": "cascaded", "resolutions": [[4, 8, 8], [2, 4, 4]], "sampling": {"steps": 2}},
    **{"objective": {"stills": 1}, "denoiser": CLIPS},
}
FACTS = {"channels": 3, "classes": 4}


def clips(n: int = 12) -> ImageData:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 8, 8), dtype=np.uint8)
    return ImageData(
        name="noise",
        images=pixels,
        keys=tuple(map(str, range(n))),
        licence="CC0-1.0",
        labels=np.arange(n, dtype=np.int64) % 4,
        class_names=("a", "b", "c", "d"),
    )


def feed(beside: float = 1.5, rank: int = 0, ranks: int = 1, accumulate: int = 1) -> Feed:
    fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=rank, world_size=ranks)
    options = recipe(accumulate=accumulate)
    return Feed(clips(), fabric, options, images=4, place=(0, 0), beside=beside)  # type: ignore[arg-type]


def stage_of(node=NODE, number: int = 0):
    return tiny.randomised(methods.build(node, offered=FACTS)).stages[number]


def batch_of(images: int = 6) -> Batch:
    data = clips()
    stills = data.stills(torch.rand(images, 2, generator=torch.Generator().manual_seed(0)))
    return Batch(data.batch(torch.arange(4)).images, data.cond_of(torch.arange(4)), stills)


def equal(a: Batch, b: Batch) -> bool:
    assert a.stills is not None and b.stills is not None
    pairs = [(a.images, b.images), (a.stills.images, b.stills.images)]
    pairs.append((a.stills.cond.labels, b.stills.cond.labels))
    return all(torch.equal(one, other) for one, other in pairs)


def test_images_are_frames_of_any_clip_with_what_is_known_of_it():
    data = clips()
    chances = torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.26]])
    found = data.stills(chances)
    for image, label, (clip, frame) in zip(
        found.images, found.cond.labels, ((0, 0), (11, 3), (6, 1)), strict=True
    ):
        assert torch.equal(image, to_float(torch.from_numpy(data.images[clip][:, frame])))
        assert label == clip % 4


def test_draws_repeat_and_are_cut_by_rank_as_by_micro_batch():
    ((_, first),), ((_, again),) = feed().chunks(3), feed().chunks(3)
    assert equal(first, again) and len(first.stills) == 6
    ((_, other),) = feed().chunks(6)  # in the next epoch
    assert not torch.equal(first.stills.images, other.stills.images)
    both = [feed(rank=rank, ranks=2).chunks(3)[0] for rank in range(2)]
    cut = feed(accumulate=2).chunks(3)
    assert all(n == m and equal(a, b) for (n, a), (m, b) in zip(both, cut, strict=True))
    assert [len(part.stills) for _, part in cut] == [3, 3]


def test_without_images_a_batch_and_its_loss_are_those_of_clips_bit_for_bit():
    ((_, plain),), ((_, beside),) = feed(0.0).chunks(1), feed().chunks(1)
    assert plain.stills is None and torch.equal(plain.images, beside.images)
    stage = stage_of()
    (draws,) = stage.draw_parts(plain, tiny.noise(0))
    first, _ = stage.draw_parts(beside, tiny.noise(0))
    assert torch.equal(draws.t, first.t) and torch.equal(draws.eps[0], first.eps[0])
    column, _ = column_of(stage, plain, (draws,), "denoiser", 0)
    assert torch.equal(column[0], stage(plain, draws).total)


def gradients(stage, loss) -> dict[str, torch.Tensor]:
    stage.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}


def test_a_loss_is_the_mean_over_frames_and_images_and_layers_between_frames_learn_from_clips():
    stage, batch = stage_of(), batch_of()
    draws = stage.draw_parts(batch, tiny.noise(0))
    losses = [stage(*part).total for part in zip(batch.parts, draws, strict=True)]
    alone = [gradients(stage, loss) for loss in losses]
    both = stage.loss_of_parts(batch, draws)
    found = gradients(stage, both.total)
    torch.testing.assert_close(both.total, (16 * losses[0] + 6 * losses[1]) / 22)
    assert both.logs["loss/stills"] == losses[1]
    mixing = [name for name in found if ".mixing." in name]
    assert mixing and not any(name in alone[1] for name in mixing)
    for name, gradient in found.items():
        expected = 16 * alone[0][name] + 6 * alone[1].get(name, torch.zeros(()))
        torch.testing.assert_close(gradient, expected / 22, atol=1e-6, rtol=1e-4)


def test_no_value_or_gradient_passes_between_images():
    stage, stills = stage_of(), batch_of().stills
    x = stills.images.clone().requires_grad_()
    t = stage.process.moment(torch.full((len(x),), 0.5))
    found = stage.denoise(stills.cond)((x,), t).x0[0]
    found[0].sum().backward()
    assert x.grad[0].any() and not x.grad[1:].any()
    other = x.detach().clone()
    other[1:] = 0
    assert torch.equal(stage.denoise(stills.cond)((other,), t).x0[0][0], found[0])


def test_a_later_stage_is_given_each_image_at_the_side_of_the_stage_before():
    stage, batch = stage_of(CASCADE, 1), batch_of()
    draws = stage.draw_parts(batch, tiny.noise(0))
    (x0,), cond, _ = stage.inputs(batch.stills, draws[1])
    assert torch.equal(x0, batch.stills.images) and cond.low.shape == x0.shape
    assert torch.isfinite(stage.loss_of_parts(batch, draws).total)


def test_costs_count_the_images():
    batch = noise_batch(stage_of(), 3, FACTS, recipe())
    assert batch.stills.images.shape == (5, 3, 8, 8)


FRAMES = {"frames": "every", "stages": [{}, {"bridge": {"name": "masked_frames"}}]}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({**NODE, "resolutions": [8]}, "stills 1.5 of 8: images are trained beside clips"),
        (
            {**CASCADE, **FRAMES, "resolutions": [[4, 8, 8], [2, 8, 8]]},
            "stills 1 behind MaskedFrames, which crosses from clips alone: leave it out",
        ),
    ],
)
def test_images_where_there_are_none_are_one_sentence(node, message):
    with pytest.raises(ValueError, match=message):
        methods.build(node, offered=FACTS)
