"""The recurrent interface network: published sizes, read and write, the carried latents, errors."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.layers import GammaClock
from hierdiff.denoisers.rin import RIN, dropped
from tests import tiny
from tests.test_configs import composed

LATENTS = 6
NODE = {**tiny.denoiser_node("rin"), "blocks": 2, "latents": LATENTS, "latent_width": 24}
NONE = Cond()
PUBLISHED = [
    ("rin_cifar", 10, 30_951_180),
    ("rin_64", 1000, 157_780_160),
    ("rin_256", 1000, 319_033_536),
    ("rin_512", 1000, 320_606_400),
    ("rin_128_large", 1000, 409_568_432),
    ("rin_256_large", 1000, 409_883_968),
]


def new(kind="unconditional", **options) -> RIN:
    """As it starts training, in float64."""
    torch.manual_seed(0)
    return denoisers.build({**NODE, **options}, offered=tiny.facts(kind)).eval().double()


def moved(kind="unconditional", **options) -> RIN:
    return tiny.randomised(new(kind, **options))


def run(network, x, log_snr, cond=NONE, carry=None):
    with torch.no_grad():
        out = network((x,), log_snr, network.prepare(cond), carry)
    return out.levels[0], out.carry


def state(n=3, side=8):
    x = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(5)).double()
    return x, torch.linspace(-2, 2, n).double()[:, None]


def memory(n=3, scale=1.0):
    generator = torch.Generator().manual_seed(6)
    return (scale * torch.randn(n, LATENTS, 24, generator=generator).double(),)


def silenced(layer) -> None:
    """The attention of a layer adds nothing any more."""
    nn.init.zeros_(layer.attention.out.weight)
    nn.init.zeros_(layer.attention.out.bias)


@pytest.mark.parametrize("name, classes, count", PUBLISHED)
def test_published_sizes_have_the_parameters_of_the_released_code(name, classes, count):
    node = composed(f"denoiser={name}")["denoiser"]
    with torch.device("meta"):
        network = denoisers.build(node, offered={"channels": 3, "classes": classes})
    assert sum(p.numel() for p in network.parameters()) == count


def test_gamma_is_the_share_of_signal_times_a_thousand():
    clock = GammaClock()
    given = torch.tensor([-60.0, -1.0, 0.0, 1.0, 60.0])
    known = torch.tensor([0.0, 268.9414, 500.0, 731.0586, 1000.0])
    torch.testing.assert_close(clock(given), known)


def test_no_carry_is_a_carry_of_zeros_bit_for_bit():
    network, (x, log_snr) = moved("class and text"), state()
    cond = tiny.cond("class and text", 3).map(lambda p: p.double() if p.is_floating_point() else p)
    none = run(network, x, log_snr, cond)
    zeros = run(network, x, log_snr, cond, memory(scale=0.0))
    assert torch.equal(none[0], zeros[0]) and torch.equal(none[1][0], zeros[1][0])


def test_a_new_network_ignores_the_carry_until_its_gain_moves():
    network, (x, log_snr) = new(), state()
    without, with_it = (run(network, x, log_snr, carry=carry)[0] for carry in (None, memory()))
    assert torch.equal(without, with_it)
    nn.init.constant_(network.memory.norm.weight, 0.1)
    again = run(network, x, log_snr, carry=memory())[0]
    assert ((again - without).flatten(1).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_carry_is_batch_first_and_of_one_size_whatever_the_text(kind):
    network, (x, log_snr) = moved(kind), state()
    cond = tiny.cond(kind, 3).map(lambda p: p.double() if p.is_floating_point() else p)
    carry = None
    for _ in range(2):
        _, carry = run(network, x, log_snr, cond, carry)
        assert network.carries and [part.shape for part in carry] == [(3, LATENTS, 24)]


def test_the_carry_of_one_example_stays_with_it():
    network, (x, log_snr) = moved(), state()
    before = memory()
    changed = (before[0].clone(),)
    changed[0][1] = changed[0][1].flip(-1)
    a, b = (run(network, x, log_snr, carry=carry)[0] for carry in (before, changed))
    assert torch.equal(a[[0, 2]], b[[0, 2]]) and (a[1] - b[1]).abs().max() > 1e-4


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("part", ["read", "write"])
def test_every_block_reads_and_writes_back(part, block):
    network, (x, log_snr) = moved(), state()
    usual = run(network, x, log_snr)[0]
    silenced(getattr(network.blocks[block], part))
    assert (run(network, x, log_snr)[0] - usual).abs().max() > 1e-4


def test_latents_know_the_image_only_by_reading():
    network, (x, log_snr) = moved(), state()
    (a,), (b,) = (run(network, image, log_snr)[1] for image in (x, x.flip(-1)))
    assert (a - b).abs().max() > 1e-4
    for block in network.blocks:
        silenced(block.read)
    (a,), (b,) = (run(network, image, log_snr)[1] for image in (x, x.flip(-1)))
    assert torch.equal(a, b)


def test_patches_know_of_each_other_only_by_writing():
    network, (x, log_snr) = moved(), state()
    elsewhere = x.clone()
    elsewhere[..., 4:] += 1
    left = slice(0, 4)
    a, b = (run(network, image, log_snr)[0][..., left] for image in (x, elsewhere))
    assert (a - b).abs().max() > 1e-4
    for block in network.blocks:
        silenced(block.write)
    a, b = (run(network, image, log_snr)[0][..., left] for image in (x, elsewhere))
    assert torch.equal(a, b)


def test_each_patch_of_the_output_belongs_to_its_place():
    network, (x, log_snr) = moved(), state(1)
    for block in network.blocks:
        silenced(block.write)
    x.requires_grad_()
    out = network((x,), log_snr, NONE).levels[0]
    seen = torch.autograd.grad(out[0, :, 2:4, 4:6].sum(), x)[0].abs().sum((0, 1)) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(seen, expected)


def test_a_new_network_has_a_gradient_wherever_it_is_not_held_at_zero():
    network, (x, log_snr) = new("class"), state()
    cond = tiny.cond("class", 3)
    for gain in (0.0, 0.1):
        nn.init.constant_(network.memory.norm.weight, gain)
        network.zero_grad()
        out = network((x,), log_snr, network.prepare(cond), memory()).levels[0]
        (out * torch.randn(out.shape)).sum().backward()
        still = {name for name, p in network.named_parameters() if not p.grad.any()}
        behind = {name for name, _ in network.named_parameters() if name.startswith("memory.")}
        assert still == (behind - {"memory.norm.weight", "memory.norm.bias"} if not gain else set())


def test_padding_of_the_text_does_not_matter():
    network, (x, log_snr) = moved("text"), state()
    cond = tiny.cond("text", 3).map(lambda p: p.double() if p.is_floating_point() else p)
    usual = run(network, x, log_snr, cond)
    other = replace(cond, tokens=cond.tokens + 3 * ~cond.mask[..., None])
    torch.testing.assert_close(run(network, x, log_snr, other), usual)
    short = replace(cond, tokens=cond.tokens[:, :3], mask=cond.mask[:, :3])  # no row has a fourth
    torch.testing.assert_close(run(network, x, log_snr, short), usual)
    words = replace(cond, tokens=cond.tokens + 0.5 * cond.mask[..., None])
    assert (run(network, x, log_snr, words)[0] - usual[0]).flatten(1).abs().amax(1).min() > 1e-4


def test_learned_positions_serve_other_sides_by_interpolation():
    network = moved()
    assert network.positions.shape[1:] == (8, 8)  # resolution 16, patch 2
    nn.init.constant_(network.positions, 0.3)
    for side in (8, 16, 32):
        x, log_snr = state(2, side)
        assert run(network, x, log_snr)[0].shape == x.shape
        tokens = network._interface(x, NONE)
        with torch.no_grad():
            bare = network.stem_norm(network.stem(x).flatten(2).mT)
        torch.testing.assert_close(tokens.detach(), bare + 0.3)


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    torch.manual_seed(0)
    kept = dropped(torch.ones(2000, 3, 2), 0.25, training=True)
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept))
    torch.testing.assert_close(kept.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs(kept.mean() - 1) < 0.05  # four standard errors
    assert torch.equal(dropped(torch.ones(5, 3, 2), 0.25, training=False), torch.ones(5, 3, 2))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patch": 3}, "16 x 16 .* patches of 3"),
        ({"heads": 5}, "5 heads do not divide"),
        ({"latent_width": 20}, "multiple of 8"),
        ({"latents": 1}, "1 latents leave none"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_build(options, message):
    with pytest.raises(ValueError, match=message):
        new(**options)


def test_an_image_that_patches_do_not_tile_is_refused():
    x, log_snr = state(side=9)
    with pytest.raises(ValueError, match="9 x 9 is not made of patches of 2"):
        run(new(), x, log_snr)
