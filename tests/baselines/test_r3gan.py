"""R3GAN: loss and penalties in closed form, networks, sizes, turns, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines.r3gan import (
    GAIN,
    Block,
    Given,
    Judge,
    Maker,
    Resample,
    gradient_penalty,
    relativistic,
)
from hierdiff.batch import Batch, Cond
from hierdiff.methods import Request, methods, on_shapes
from hierdiff.metrics.cost import flops
from hierdiff.text import Vocabulary
from tests import tiny
from tests.training.runs import built, images, run

NODE = {"name": "r3gan", "resolutions": [8], "width": 16, "latent": 8}
W = torch.tensor([0.5, -2.0, 1.0, 0.25], dtype=torch.float64).reshape(1, 2, 2)


def stage(**options):
    return tiny.randomised(built({**NODE, **options})).stages[0]


def linear(x):
    """The logit w . x + 3 of an image."""
    return (x * W.to(x)).flatten(1).sum(1) + 3


def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 1, 2, 2, generator=generator, dtype=torch.float64)


def test_the_loss_of_a_linear_discriminator_is_its_closed_form():
    """log(1 + exp(-w . (real - made))), pair by pair; the constant of the logit falls out."""
    real, made = pairs()
    wanted = torch.log1p(torch.exp(-((real - made) * W).flatten(1).sum(1))).mean()
    torch.testing.assert_close(relativistic(linear(real), linear(made)), wanted)
    same = relativistic(linear(real), linear(real))
    assert float(same) == pytest.approx(math.log(2))


def test_the_gradient_at_a_made_image_is_the_closed_form():
    """Minus w times the chance of the pair to be judged right, over the batch."""
    real, made = pairs()
    made.requires_grad_()
    relativistic(linear(made), linear(real)).backward()
    chance = torch.sigmoid(((real - made) * W).flatten(1).sum(1)).detach()
    torch.testing.assert_close(made.grad, -chance[:, None, None, None] * W / len(real))


def test_the_penalty_of_a_linear_discriminator_is_the_square_of_its_weights():
    real, _ = pairs()
    real.requires_grad_()
    assert float(gradient_penalty(linear(real), real).detach()) == pytest.approx(
        float((W**2).sum())
    )
    torch.testing.assert_close(  # of |x|^2 / 2 it is the mean of |x|^2
        gradient_penalty((real**2).flatten(1).sum(1) / 2, real), (real**2).flatten(1).sum(1).mean()
    )


def test_the_penalty_can_be_minimised():
    weight = W.clone().requires_grad_()
    real, _ = pairs()
    real.requires_grad_()
    gradient_penalty((real * weight).flatten(1).sum(1), real).backward()
    torch.testing.assert_close(weight.grad, 2 * W)


def test_the_discriminators_loss_has_both_penalties_by_half_of_gamma():
    """With a discriminator that is linear, in closed form."""
    one = stage(gamma=[3.0, 3.0]).double()

    class Linear(nn.Module):
        def forward(self, x, cond):
            return (x * 0.1).flatten(1).sum(1)

    one.discriminator = Linear()
    batch = Batch(torch.rand(4, 3, 8, 8, dtype=torch.float64) * 2 - 1, Cond())
    draws = one.draw(batch, lambda shape: torch.ones(tuple(shape), dtype=torch.float64))
    made = one.generator(draws.z, one.complete(Cond(), 4))
    adversarial = F.softplus(0.1 * (made - batch.images).flatten(1).sum(1)).mean()
    found = one(batch, draws, "discriminator")
    square = 0.01 * 3 * 8 * 8
    torch.testing.assert_close(found.total, adversarial + 3.0 / 2 * 2 * square)
    assert [float(found.logs[f"penalty/{of}"]) for of in ("real", "made")] == [
        pytest.approx(square)
    ] * 2


def test_gamma_falls_by_a_cosine():
    one = stage(gamma=[2.0, 1.0])
    assert one.gamma_at(7) == 2.0  # before it is known how long the training is
    one.steps = 100
    assert [one.gamma_at(step) for step in (0, 50, 100)] == pytest.approx([2.0, 1.5, 1.0])


def test_each_turn_reaches_its_own_network_alone():
    one, batch = stage(), images().batch(torch.arange(4))
    for turn, others in ((0, 1), (1, 0)):
        one.zero_grad()
        own, other = one.turns[turn], one.turns[others]
        other.module.requires_grad_(False)
        one(batch, one.draw(batch, tiny.noise()), own.name).total.backward()
        assert all(p.grad is not None for p in own.module.parameters())
        assert all(p.grad is None for p in other.module.parameters())
        other.module.requires_grad_(True)


def test_a_block_begins_as_the_identity_and_keeps_the_variance_of_the_rectifier():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(Block(16, 2, 16, 4)(x), x)
    wide = torch.randn(100_000, dtype=torch.float64)
    assert float((GAIN * F.leaky_relu(wide, 0.2)).square().mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("up", [True, False])
def test_a_constant_image_stays_constant_when_its_side_changes(up):
    x = torch.ones(1, 4, 8, 8)
    found = Resample(4, 4, up=up)(x)
    assert found.shape[-1] == (16 if up else 4)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], torch.ones_like(found[..., 1:-1, 1:-1]))


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_layout_at_32_px_has_its_number_of_parameters():
    """By hand, from its widths: blocks, basis, what joins them and the image."""
    options = {"widths": [768] * 4, "blocks": 2}
    method = on_shapes({**NODE, "resolutions": [32], "latent": 64, **options})
    inside = 2 * 768
    block = 2 * 768 * inside + inside * 16 * 9 + 2 * inside
    body = 8 * block
    one = method.stages[0]
    assert count(one.generator) == body + 768 * 16 + 64 * 768 + 768 * 3 == 20_732_160
    assert count(one.discriminator) == body + 768 * 16 + 768 + 768 * 3


@pytest.mark.parametrize(
    ("width", "cond"),
    [
        ({"classes": 4}, Cond(labels=torch.tensor([0, 3]))),
        (
            {"text_width": 6},
            Cond(tokens=torch.eye(6)[:4].reshape(2, 2, 6), mask=torch.ones(2, 2) > 0),
        ),
    ],
    ids=["class", "caption"],
)
def test_conditions_make_and_judge_differently_and_none_alike(width, cond):
    torch.manual_seed(0)
    known = {"classes": 0, "text_width": 0, "channels": 3, **width}
    layout = {"blocks": 1, "expansion": 2, "group": 16}
    maker = tiny.randomised(Maker([16, 16], 8, **known, **layout))
    judge = tiny.randomised(Judge([16, 16], **known, **layout))
    z, x = torch.randn(1, 8).expand(2, -1), torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    for one, of in ((maker, z), (judge, x)):
        assert not torch.equal(*one(of, cond))
        none = one(of, cond.dropped(torch.tensor([True, True])))
        torch.testing.assert_close(none[0], none[1])
        assert float(none.detach().abs().max()) > 0


def test_the_order_of_words_counts():
    """The colour of the body and of the background may have the same names."""
    torch.manual_seed(0)
    (states,), (mask,) = Vocabulary(width=16, length=4).encode(["mint on rust"])
    (others,), _ = Vocabulary(width=16, length=4).encode(["rust on mint"])
    given = tiny.randomised(Given(0, 16, 8))
    one, other = given(Cond(tokens=torch.stack([states, others]), mask=mask.expand(2, -1))).detach()
    assert float((one - other).abs().max()) > 1e-3


def test_one_call_makes_the_images_and_the_discriminator_is_not_counted():
    one = stage()
    assert one.evaluations == 1 and one.networks == (one.generator,)
    found = one.sample(Request(2, noise=tiny.noise(), steps=9))[8]
    assert float(found.abs().max()) <= 1


def test_training_and_sampling_are_counted_without_being_computed():
    with torch.device("meta"):
        one = methods.build(NODE, offered={"channels": 3, "classes": 4}).stages[0]
        batch = Batch(torch.empty(2, 3, 8, 8), one.complete(Cond(), 2))
        noise = lambda shape: torch.empty(tuple(shape), device="meta")  # noqa: E731
        image = flops(lambda: one.sample(Request(2, noise=noise)))
        generator, discriminator = (
            flops(lambda name=turn.name: one(batch, one.draw(batch, noise), name).total.backward())
            for turn in one.turns
        )
    assert 0 < image < generator < discriminator


def test_weights_that_are_not_finite_give_no_images():
    one = stage()
    with torch.no_grad():
        one.generator.basis.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="stage r3gan gives images that are not finite"):
        one.sample(Request(2, noise=tiny.noise()))


def test_classes_and_captions_are_read_where_the_data_has_them():
    assert built(NODE).reads.names == {"label"}
    facts = {"channels": 3, "classes": 4, "text_width": 6, "text_length": 5}
    method = methods.build(NODE, offered=facts)
    assert method.reads.names == {"label", "caption"}
    method.check_facts(facts)
    alone = methods.build({**NODE, "classes": 0}, offered=facts)
    assert alone.reads.names == {"caption"}
    alone.check_facts(facts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolutions": [16, 8]}, r"r3gan has one resolution, got \[16, 8\]"),
        ({"resolutions": [12]}, r"a power of 2 from 4 on, got 12"),
        ({"widths": [16]}, r"widths=\[16\] for 8 px: give 2, for 4 to 8 px"),
        ({"width": 12}, r"a width of 12 times expansion=2 is no multiple of group=16"),
        ({"gamma": [1.0]}, r"gamma takes"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        methods.build({**NODE, **options})


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole", NODE, keep=9)
    assert {"loss/generator", "loss/discriminator", "loss/8"} <= set(whole.loss)
    run(tmp_path / "run", NODE, keep=9)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if path.stem > "step_0000008":
            path.unlink()
    (tmp_path / "run" / "weights.safetensors").unlink()
    again = run(tmp_path / "run", NODE, keep=9)
    assert again.resumed_at == 8
    assert again.weights.read_bytes() == whole.weights.read_bytes()
