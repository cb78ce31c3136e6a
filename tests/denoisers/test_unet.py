"""The U-Net of Matryoshka diffusion: nesting, conditions, clocks, errors."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from hierdiff.batch import Cond
from hierdiff.config import folder_of_configs
from hierdiff.denoisers import Joined, OneLevelDenoiser, denoisers
from hierdiff.denoisers.layers import AttentionBlock, FlowClock, LogSNRClock, StepClock, sinusoid
from hierdiff.denoisers.unet import UNet
from hierdiff.process import Flow
from hierdiff.schedules import LinearFlow, Shifted, SquaredCosine
from tests import tiny

NONE = Cond()


def run(network, x_t, log_snr, cond=NONE):
    with torch.no_grad():
        return network(x_t, log_snr, network.prepare(cond))


def nested(kind="unconditional", depth=2, adapters=True):
    """All weights moved, and the adapters back to zero unless asked for."""
    network = tiny.denoiser("nested_unet", kind, depth).eval()
    outer = network
    while outer.inner is not None:
        if not adapters:
            for layer in (outer.into, outer.back):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        outer = outer.inner
    return network


def test_a_nested_network_of_depth_one_is_the_flat_one():
    node = tiny.denoiser_node("unet")
    torch.manual_seed(3)
    flat = denoisers.build(node)
    torch.manual_seed(3)
    deep = denoisers.build({**node, "name": "nested_unet"})
    assert type(flat) is type(deep)
    states = flat.state_dict(), deep.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    x_t, log_snr = tiny.state(1, 2)
    a, b = (run(tiny.randomised(net), x_t, log_snr).levels[0] for net in (flat, deep))
    assert torch.equal(a, b)


def test_zero_adapters_leave_the_inner_predictions_unchanged():
    network = nested("class and text", 3, adapters=False)
    x_t, log_snr = tiny.state(3, 3)
    cond = tiny.cond("class and text", 3)
    whole = run(network, x_t, log_snr, cond).levels
    for n in (1, 2):
        inner = run(network.tail(n), x_t[-n:], log_snr[:, -n:], cond).levels
        assert all(torch.equal(a, b) for a, b in zip(whole[-n:], inner, strict=True))


def test_a_new_nested_network_has_zero_adapters_and_predicts_zero():
    network = denoisers.build(tiny.denoiser_node("nested_unet", 3))
    x_t, log_snr = tiny.state(3, 2)
    assert all(not level.any() for level in run(network, x_t, log_snr).levels)
    assert not network.into.weight.any() and not network.back.weight.any()
    assert not network.inner.into.weight.any() and not network.inner.back.weight.any()


@pytest.mark.parametrize("kind", ["unconditional", "class and text"])
def test_rows_without_finer_levels_run_the_inner_network_alone(kind):
    """Even with adapters that are not zero, biases included; gradients too."""
    network = nested(kind, 3)
    x_t, log_snr = tiny.state(3, 4)
    cond = tiny.cond(kind, 4)
    ragged = run(network, (x_t[0][:1], x_t[1][:2], x_t[2]), log_snr, cond).levels
    assert [len(level) for level in ragged] == [1, 2, 4]

    def rows(part):
        return cond.map(lambda tensor: tensor[part])

    last, third = slice(2, 4), slice(1, 2)
    alone = run(network.tail(1), x_t[2:], log_snr[:, 2:], cond).levels
    torch.testing.assert_close(ragged[2][last], alone[0][last], rtol=1e-5, atol=1e-5)
    assert (ragged[2][:1] - alone[0][:1]).abs().max() > 1e-4
    middle = run(network.tail(2), tuple(x[third] for x in x_t[1:]), log_snr[third, 1:], rows(third))
    torch.testing.assert_close(ragged[1][third], middle.levels[0], rtol=1e-5, atol=1e-5)
    full = run(network, tuple(x[:1] for x in x_t), log_snr[:1], rows(slice(0, 1))).levels
    torch.testing.assert_close(ragged[0], full[0], rtol=1e-5, atol=1e-5)


def test_rows_without_finer_levels_give_the_inner_network_its_own_gradient():
    network = nested()
    x_t, log_snr = tiny.state(2, 3)
    out = network((x_t[0][:1], x_t[1]), log_snr, Cond()).levels[1]
    out[1:].square().sum().backward()
    ragged = {name: p.grad.clone() for name, p in network.inner.named_parameters()}
    assert network.into.weight.grad is None or not network.into.weight.grad.any()
    network.zero_grad()
    network.inner((x_t[1][1:],), log_snr[1:, 1:], Cond()).levels[0].square().sum().backward()
    for name, p in network.inner.named_parameters():
        torch.testing.assert_close(ragged[name], p.grad, rtol=1e-3, atol=1e-4)


class Drop(OneLevelDenoiser):
    """A stranger's network of one level."""

    def __init__(self, *, channels: int = 3, classes: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.label = nn.Embedding(classes + 1, channels)

    def denoise(self, x, log_snr, cond):
        h = self.conv(x) + log_snr[:, None, None, None]
        if cond.labels is None:
            return h
        return h + self.label(cond.labels + 1)[:, :, None, None]


def outer_around(inner, **options):
    return UNet(width=8, multiples=(1, 1), blocks=1, attention=0, groups=4, inner=inner, **options)


def test_a_one_level_denoiser_becomes_the_innermost_network():
    """Through `Joined`: with fresh (zero) adapters its prediction is what it is alone."""
    drop = Drop(classes=3)
    network = outer_around(drop).eval()
    assert isinstance(network.inner, Joined) and network.inner.denoiser is drop
    assert network.notes == (
        "the innermost network, Drop, gives no features: it is nested through its 3 image channels",
    )
    x_t, log_snr = tiny.state(2, 3)
    cond = Cond(labels=torch.tensor([-1, 0, 2]))
    alone = run(drop, x_t[1:], log_snr[:, 1:], cond).levels[0]
    assert torch.equal(run(network, x_t, log_snr, cond).levels[1], alone)
    tiny.randomised(network)
    moved = run(network, x_t, log_snr, cond).levels
    changed = run(network, (x_t[0] + 1, x_t[1]), log_snr, cond).levels
    assert (moved[1] - changed[1]).abs().max() > 1e-3
    assert network.tail(1).levels == 1


def test_a_drop_in_is_nested_by_its_path_and_is_offered_the_facts():
    network = outer_around({"name": f"{__name__}:Drop"}, channels=1, classes=5)
    drop = network.inner.denoiser
    assert drop.conv.in_channels == 1 and drop.label.num_embeddings == 6


def test_a_one_level_denoiser_refuses_more_levels():
    x_t, log_snr = tiny.state(2, 1)
    with pytest.raises(ValueError, match="Drop denoises one level, got 2: nest it"):
        Drop()(x_t, log_snr, Cond())


def test_a_drop_in_keeps_only_its_own_rows_where_the_finer_level_is_missing():
    network = tiny.randomised(outer_around(Drop())).eval()
    x_t, log_snr = tiny.state(2, 3)
    ragged = run(network, (x_t[0][:1], x_t[1]), log_snr).levels[1]
    alone = run(network.tail(1), x_t[1:], log_snr[:, 1:]).levels[0]
    torch.testing.assert_close(ragged[1:], alone[1:])


def test_padding_is_hidden_by_mask_text_and_seen_otherwise():
    """The official networks attend to padding in the innermost network."""
    cond = Cond(tokens=torch.randn(2, 4, 6), mask=torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool())
    filled = Cond(tokens=torch.where(cond.mask[..., None], cond.tokens, 9.0), mask=cond.mask)
    x_t, log_snr = tiny.state(1, 2)
    for hidden in (True, False):
        node = {**tiny.denoiser_node("unet"), "mask_text": hidden}
        network = tiny.randomised(denoisers.build(node, offered=tiny.facts("text"))).eval()
        a, b = (run(network, x_t, log_snr, c).levels[0] for c in (cond, filled))
        assert torch.allclose(a, b, atol=1e-5) == hidden


def test_an_empty_caption_is_finite_under_a_mask():
    node = {**tiny.denoiser_node("unet"), "mask_text": True}
    network = tiny.randomised(denoisers.build(node, offered=tiny.facts("text"))).eval()
    x_t, log_snr = tiny.state(1, 2)
    cond = Cond(tokens=torch.zeros(2, 4, 6), mask=torch.zeros(2, 4, dtype=torch.bool))
    assert torch.isfinite(run(network, x_t, log_snr, cond).levels[0]).all()


def scaled():
    node = {**tiny.denoiser_node("unet"), "scalars": {"scale": 64.0}}
    return tiny.randomised(denoisers.build(node)).eval()


def test_a_scalar_defaults_to_its_limit_and_is_clamped_to_it():
    network = scaled()
    x_t, log_snr = tiny.state(1, 1)
    values = {v: Cond(scalars={"scale": torch.tensor([v])}) for v in (64.0, 900.0, 20.0)}
    default = run(network, x_t, log_snr).levels[0]
    outs = {v: run(network, x_t, log_snr, c).levels[0] for v, c in values.items()}
    assert torch.equal(outs[64.0], default) and torch.equal(outs[900.0], default)
    assert (outs[20.0] - default).abs().max() > 1e-5


def test_prepared_conditions_are_computed_once_and_give_the_same():
    """`prepare` of a prepared condition would read no text again: it is what `forward` is given."""
    network = tiny.denoiser("nested_unet", "text", 2).eval()
    cond = tiny.cond("text", 2)
    told = network.prepare(cond)
    assert len(told.context) == len(network.inner._readers) > 0
    assert told.embedding.shape == (2, network.time_width)


def test_the_step_clock_gives_the_index_less_one_of_a_published_table():
    schedule = Shifted(SquaredCosine(), 256, 64, 1)
    index = torch.tensor([1, 37, 613, 1000])
    log_snr = schedule((index / 1000).double())
    found = StepClock(schedule)(log_snr)
    assert found.tolist() == [0, 36, 612, 999]
    assert StepClock(schedule)(log_snr.float().clamp(-30, 30)).tolist() == [0, 36, 612, 999]


def test_the_log_snr_clock_runs_from_0_clean_to_1000_noise():
    found = LogSNRClock()(torch.tensor([30.0, 0.0, -30.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 500.0, 1000.0]))


def test_the_sinusoid_has_the_published_frequencies():
    """sin and cos of value * exp(-i ln(10^4) / h), h = width / 2."""
    found = sinusoid(torch.tensor([3.0]), 8)[0]
    rates = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(found, torch.cat([(3 * rates).sin(), (3 * rates).cos()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, r"5 groups do not divide a width of 16.*\[16, 32\]"),
        ({"heads": 3}, r"3 heads do not divide a width of 32"),
        ({"blocks": [1, 2, 3]}, r"blocks \[1, 2, 3\] for 2 widths"),
        ({"attention": [1]}, r"attention \[1\] for 2 widths"),
        ({"dropout": [0, 0, 0.1]}, r"dropout \[0, 0, 0.1\] for 2 widths"),
        ({"chanels": 3}, r"no option 'chanels', did you mean 'channels'"),
        ({"inner": {"name": "unett"}}, r"unknown denoiser 'unett', did you mean 'unet'"),
    ],
)
def test_bad_options_are_refused_at_build(options, message):
    with pytest.raises(ValueError, match=message):
        denoisers.build({**tiny.denoiser_node("unet"), **options})


@pytest.mark.parametrize("side", [7, 9])
def test_a_side_that_cannot_be_halved_is_refused(side):
    network = tiny.denoiser("unet")
    with pytest.raises(ValueError, match=f"side of {side} do not fit"):
        network((torch.randn(1, 3, side, side),), torch.zeros(1, 1), Cond())


def test_too_many_levels_are_refused():
    x_t, log_snr = tiny.state(2, 1)
    with pytest.raises(ValueError, match="2 level"):
        tiny.denoiser("unet")(x_t, log_snr, Cond())


def upsampler(depth=1, low_channels=3, seed=3):
    torch.manual_seed(seed)
    facts = {**tiny.facts("class"), "low_channels": low_channels}
    return denoisers.build(tiny.denoiser_node("nested_unet", depth), offered=facts).eval()


def labelled(n, **parts):
    return Cond(labels=torch.zeros(n, dtype=torch.long), **parts)


@pytest.mark.parametrize("depth", [1, 2])
def test_an_upsampler_has_a_wider_first_convolution_and_one_more_embedding(depth):
    """So that names and counts of every other network are what they were."""
    plain, wide = (upsampler(depth, n).state_dict() for n in (0, 2))
    more = {f"augmentation.{layer}" for layer in ("first", "last")}
    assert wide.keys() - plain.keys() == {f"{k}.{p}" for k in more for p in ("weight", "bias")}
    changed = [key for key in plain if plain[key].shape != wide[key].shape]
    assert changed == ["first.weight"] and wide["first.weight"].shape[1] == 5


def test_the_noisy_image_comes_first_and_the_low_one_after_it():
    network = tiny.randomised(upsampler())
    x_t, log_snr = tiny.state(1, 2)
    low = torch.randn_like(x_t[0])
    with torch.no_grad():
        network.first.weight[:, 3:] = 0
    outs = [run(network, x_t, log_snr, labelled(2, low=image)).levels[0] for image in (low, -low)]
    assert torch.equal(*outs)


def test_the_noise_level_of_the_low_image_starts_without_effect():
    embedding = upsampler().augmentation
    assert not embedding(torch.tensor([0.0, 500.0])).any()


def test_the_low_image_enters_the_outermost_network_alone():
    network = tiny.randomised(upsampler(depth=2))
    assert network.inner.augmentation is None and network.inner.first.in_channels == 3
    x_t, log_snr = tiny.state(2, 2)
    low = torch.randn_like(x_t[0])
    nn.init.zeros_(network.into.weight)
    a, b = (run(network, x_t, log_snr, labelled(2, low=image)).levels for image in (low, -low))
    assert torch.equal(a[1], b[1]) and (a[0] - b[0]).abs().max() > 1e-3


def test_rows_without_the_finest_level_need_no_part_of_the_low_image():
    network = tiny.randomised(upsampler(depth=2))
    x_t, log_snr = tiny.state(2, 3)
    level = torch.tensor([1.0, 2.0, 3.0])
    cond = labelled(3, low=torch.randn_like(x_t[0]), scalars={"augmentation": level})
    ragged = run(network, (x_t[0][:1], x_t[1]), log_snr, cond).levels[0]
    one = cond.map(lambda part: part[:1])
    alone = run(network, tuple(x[:1] for x in x_t), log_snr[:1], one).levels[0]
    torch.testing.assert_close(ragged, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("low", "message"),
    [
        (None, r"given none: give it as cond.low"),
        (torch.zeros(1, 3, 4, 4), r"of \(3, 8, 8\).*given one of \(3, 4, 4\).*resized"),
        (torch.zeros(1, 1, 8, 8), r"given one of \(1, 8, 8\)"),
    ],
)
def test_a_low_image_that_is_missing_or_of_another_shape_is_refused(low, message):
    x_t, log_snr = tiny.state(1, 1)
    with pytest.raises(ValueError, match=message):
        run(upsampler(), x_t, log_snr, labelled(1, low=low))


def rates(network):
    """Dropout of each width: on the way down, in the middle, on the way up."""

    def of(part):
        return [m.p for m in part.modules() if isinstance(m, nn.Dropout)]

    return [of(row) for row in network.down], of(network.middle), [of(row) for row in network.up]


@pytest.mark.parametrize(("given", "each"), [(0.1, (0.1, 0.1)), ([0, 0.2], (0, 0.2))])
def test_dropout_is_one_number_or_one_for_each_width(given, each):
    fine, coarse = each
    down, middle, up = rates(denoisers.build({**tiny.denoiser_node("unet"), "dropout": given}))
    assert down == [[fine], [coarse]] and up == [[coarse] * 2, [fine] * 2]
    assert middle == [coarse] * 2


def test_the_unclip_upsampler_is_fully_convolutional_and_told_nothing_else():
    """No attention, no text, no classes, and any side that can be halved (arXiv 2204.06125)."""
    node = OmegaConf.load(Path(folder_of_configs()) / "denoiser" / "unclip_upsampler.yaml")
    facts = {**tiny.facts("class and text"), "low_channels": 3}
    network = tiny.randomised(denoisers.build(OmegaConf.to_object(node), offered=facts)).eval()
    assert not any(isinstance(module, AttentionBlock) for module in network.modules())
    assert network.label is None and network.text is None
    for sides in ((32, 32), (20, 44)):
        x, low = torch.randn(2, 1, 3, *sides)
        out = run(network, (x,), torch.zeros(1, 1), Cond(low=low)).levels[0]
        assert out.shape == x.shape and torch.isfinite(out).all()


def test_the_flow_clock_is_the_alpha_of_the_straight_path():
    """SiT's time: 0 noise, 1 image."""
    t = torch.tensor([0.001, 0.25, 0.5, 0.96])
    alpha, _ = Flow([LinearFlow()]).alpha_sigma(t)
    found = FlowClock()(LinearFlow()(t))
    torch.testing.assert_close(found, 1 - t)
    torch.testing.assert_close(found, alpha[:, 0])
    assert FlowClock(scale=1000.0)(torch.zeros(1)).tolist() == [500]
