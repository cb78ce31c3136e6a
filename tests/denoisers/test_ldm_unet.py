"""The U-Net of latent diffusion and ADM: published sizes, what cross-attention reads, switches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from hierdiff.batch import Cond
from hierdiff.config import folder_of_configs
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.layers import AttentionBlock, JointConditions, sinusoid
from hierdiff.denoisers.ldm_unet import Context, LDMUNet, Residual, SpatialTransformer
from tests import tiny

# parameters, without the class table of latent diffusion and the row of no class that ADM lacks
PUBLISHED = {
    "ldm_4": (400_920_579, {"channels": 3, "classes": 1000}, 1001 * 512),
    "ldm_8": (394_984_196, {"channels": 4, "classes": 1000}, 1001 * 512),
    "ldm_4_unconditional": (274_056_163, {"channels": 3}, 0),
    "ldm_8_churches": (294_966_916, {"channels": 4}, 0),
    "ldm_text": (872_300_484, {"channels": 4, "text_width": 1280}, 0),
    "sd_1": (859_520_964, {"channels": 4, "text_width": 768}, 0),
    "sd_2": (865_910_724, {"channels": 4, "text_width": 1024}, 0),
    "sdxl": (2_567_463_684, {"channels": 4, "text_width": 2048}, 0),
    "sdxl_refiner": (2_259_526_660, {"channels": 4, "text_width": 2048}, 0),
    "adm_64": (295_904_454, {"channels": 3, "classes": 1000}, 768),
    "adm_128": (421_529_606, {"channels": 3, "classes": 1000}, 1024),
    "adm_256": (553_838_086, {"channels": 3, "classes": 1000}, 1024),
    "adm_512": (558_997_638, {"channels": 3, "classes": 1000}, 1024),
    "adm_64_256": (311_795_910, {"channels": 3, "classes": 1000, "low_channels": 3}, 768),
    "adm_128_512": (308_835_270, {"channels": 3, "classes": 1000, "low_channels": 3}, 768),
}


def node_of(name: str) -> dict:
    return yaml.safe_load((Path(folder_of_configs()) / f"denoiser/{name}.yaml").read_text())


def count(node: dict, facts: dict) -> int:
    with torch.device("meta"):
        network = denoisers.build(node, offered=facts)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_count_as_published(name):
    published, facts, table = PUBLISHED[name]
    assert count(node_of(name), facts) == published + table


def test_the_unconditional_adm_of_256_px_counts_as_published():
    assert count({**node_of("adm_256"), "classes": 0}, {"channels": 3}) == 552_814_086


def ldm(kind="unconditional", seed=0, **options) -> LDMUNet:
    node = {**tiny.denoiser_node("ldm_unet"), **options}
    facts = {k: v for k, v in tiny.facts(kind).items() if k not in options}
    return tiny.randomised(denoisers.build(node, offered=facts), seed).eval()


def run(network, cond=None, x=None):
    x = tiny.state(1, 3)[0][0] if x is None else x
    with torch.no_grad():
        out = network((x,), torch.zeros(len(x), 1), network.prepare(cond or Cond()))
    return out.levels[0]


def transformers(network):
    return [m for m in network.modules() if isinstance(m, SpatialTransformer)]


def test_a_new_network_predicts_zero_and_its_transformers_change_nothing():
    torch.manual_seed(0)
    network = denoisers.build(tiny.denoiser_node("ldm_unet"), offered=tiny.facts("text"))
    assert not run(network, tiny.cond("text", 3)).any()
    layer = transformers(network)[0]
    x = torch.randn(2, layer.norm.num_channels, 4, 4)
    keys_values = tuple(torch.randn(2, 5, 2 * x.shape[1]) for _ in range(layer.slot + 1))
    assert torch.equal(layer(x, Context(torch.zeros(2, 4), keys_values)), x)


def test_with_nothing_to_read_there_is_no_cross_attention():
    for network in (ldm(), ldm("class")):
        names = [name for name, _ in network.named_parameters()]
        assert any(".qkv." in name for name in names)
        assert not any(
            ".query." in name or ".norm2." in name and "blocks" in name for name in names
        )


def test_keys_and_values_are_made_once_and_none_is_left_out():
    network = ldm("text", depth=2, attention=[1, 2])
    prepared = network.prepare(tiny.cond("text", 3))
    layers = transformers(network)
    assert len(layers) == 1 + 2 + 1 + 4 + 2 == len(prepared.context)
    assert sorted(layer.slot for layer in layers) == list(range(len(layers)))
    usual = run(network, tiny.cond("text", 3))
    with torch.no_grad():
        for layer in layers:
            for block in layer.blocks:
                block.text.weight.zero_()
        without = network((tiny.state(1, 3)[0][0],), torch.zeros(3, 1), prepared).levels[0]
    assert torch.equal(usual, without)


def test_transformers_have_the_depth_of_their_side_and_none_where_it_is_0():
    network = ldm("text", depth=[0, 2], attention=1)
    assert [len(layer.blocks) for layer in transformers(network)] == [2] * 4
    assert not any(isinstance(layer, SpatialTransformer) for layer in network.down[1])
    with pytest.raises(ValueError, match=r"depth \[1\] for 2 widths"):
        ldm("text", depth=[1])
    with pytest.raises(ValueError, match="the bottom has a transformer of the last depth"):
        ldm("text", depth=[1, 0])
    ldm("text", depth=[1, 0], attention=1, middle_attention=False)


def test_a_part_of_the_text_is_read_as_if_it_were_alone():
    """As of two encoders side by side, of which SDXL's refiner reads the second."""
    cond = tiny.cond("text", 3)
    width = cond.tokens.shape[2]
    alone = replace(cond, tokens=cond.tokens[..., 2:])
    network, other = ldm("text", text_last=width - 2), ldm("text", text_width=width - 2)
    assert network.reads.text_width == width
    other.load_state_dict(network.state_dict())
    assert torch.equal(run(network, cond), run(other, alone))
    more, every = ldm("text", text_last=width + 9), ldm("text")
    every.load_state_dict(more.state_dict())
    assert torch.equal(run(more, cond), run(every, cond))


def test_scalars_and_vectors_go_side_by_side_through_one_mlp():
    network = ldm(fourier=4, scalars=["crop_top", "side"], vectors={"pooled_text": 3})
    joint, seen = network.scalars, []
    joint.first.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    scalars = {"crop_top": torch.tensor([0.0, 2.0]), "side": torch.tensor([torch.nan, 7.0])}
    vectors = {"pooled_text": torch.arange(6.0).view(2, 3)}
    run(network, Cond(scalars=scalars, vectors=vectors), torch.zeros(2, 3, 8, 8))
    waves = [sinusoid(scalar, 4) for scalar in scalars.values()]
    waves[1][0] = 0  # "none" has no features
    torch.testing.assert_close(seen[0], torch.cat([vectors["pooled_text"], *waves], 1))
    assert not seen[0].isnan().any() and len(network.vectors) == 0
    with pytest.raises(ValueError, match="vector 'pooled_text' of width 3 and was given none"):
        run(network, Cond(scalars=scalars), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="3 Fourier features of a scalar: choose an even"):
        ldm(fourier=3, scalars=["side"])


def test_conditions_that_were_just_named_change_no_prediction():
    layer = JointConditions(["side"], {"pooled_text": 3}, 4, 8)
    time = torch.randn(2, 8)
    told = Cond(scalars={"side": torch.ones(2)}, vectors={"pooled_text": torch.ones(2, 3)})
    assert torch.equal(layer(time, told), time)


def test_both_blocks_of_a_deeper_transformer_read_their_own_keys_and_values():
    network = ldm("text", depth=2)
    usual = run(network, tiny.cond("text", 3))
    for i in range(2):
        with torch.no_grad():
            network.middle[1].blocks[i].text.weight += 0.5
        changed = run(network, tiny.cond("text", 3))
        assert (changed - usual).abs().max() > 1e-5
        usual = changed


def test_a_class_can_be_a_token_beside_the_text():
    network = ldm("class and text", class_token=True)
    assert network.label.weight.shape == (tiny.CLASSES + 1, tiny.WIDTH)
    cond = tiny.cond("class and text", 3)
    prepared = network.prepare(cond)
    assert prepared.embedding is None and prepared.context[0].shape[1] == tiny.LENGTH + 1
    other = Cond(labels=cond.labels.roll(1), tokens=cond.tokens, mask=cond.mask)
    assert ((run(network, cond) - run(network, other)).abs().amax((1, 2, 3)) > 1e-5).all()


def test_a_class_token_alone_is_read_whatever_the_queries_ask():
    """The docstring's warning: queries learn nothing from one token."""
    network = ldm("class", class_token=True, context=8)
    usual = run(network, tiny.cond("class", 3))
    with torch.no_grad():
        for layer in transformers(network):
            layer.blocks[0].query.weight.mul_(-3)
    torch.testing.assert_close(run(network, tiny.cond("class", 3)), usual)


def test_text_of_another_width_is_projected_to_the_context():
    network = ldm("text", context=10)
    assert network.text.weight.shape == (10, tiny.WIDTH)
    assert network.prepare(tiny.cond("text", 3)).context[0].shape == (3, tiny.LENGTH, 2 * 32)


@pytest.mark.parametrize("token", [False, True])
def test_hidden_padding_is_not_read(token):
    kind = "class and text"
    cond = tiny.cond(kind, 3)
    moved = torch.where(cond.mask[..., None], cond.tokens, 7.0)
    other = Cond(labels=cond.labels, tokens=moved, mask=cond.mask)
    hides = ldm(kind, mask_text=True, class_token=token)
    assert torch.equal(run(hides, cond), run(hides, other))
    shows = ldm(kind, class_token=token)
    assert (run(shows, cond) - run(shows, other)).abs().max() > 1e-5


@pytest.mark.parametrize("mask_text", [False, True])
@pytest.mark.parametrize("token", [False, True])
def test_a_caption_without_words_gives_numbers(mask_text, token):
    network = ldm("class and text", mask_text=mask_text, class_token=token)
    nothing = tiny.cond("class and text", 3).dropped(torch.tensor([True, True, False]))
    assert torch.isfinite(run(network, nothing)).all()


def test_no_class_reads_row_zero_of_the_table():
    network = ldm("class")
    vector = network.prepare(Cond(labels=torch.tensor([-1, 2]))).embedding
    assert torch.equal(vector, network.label.weight[[0, 3]])


def test_heads_can_be_given_by_their_width():
    network = ldm(head_width=4, attention=1)
    found = {layer.norm.num_channels: layer.blocks[0].heads for layer in transformers(network)}
    assert found == {16: 4, 32: 8}


def test_plain_attention_and_resampling_blocks_make_adm():
    network = ldm("class", transformer=False, scale_shift=True, resample_blocks=True)
    assert not transformers(network)
    assert isinstance(network.down[2][0], Residual) and isinstance(network.up[1][-1], Residual)
    x = torch.randn(2, 3, 8, 12)
    assert run(network, tiny.cond("class", 2), x).shape == x.shape


def test_resampling_blocks_halve_and_double_both_branches():
    """With a zero last convolution what is left is the mean of four, and each pixel four times."""
    told = Context(torch.zeros(1, 4))
    x = torch.randn(1, 4, 4, 4)
    down = Residual(4, 4, 4, 2, 0.0, True, torch.nn.AvgPool2d(2))(x, told)
    assert torch.equal(down, torch.nn.functional.avg_pool2d(x, 2))
    up = Residual(4, 4, 4, 2, 0.0, True, torch.nn.Upsample(scale_factor=2.0))(down, told)
    assert torch.equal(up[..., ::2, 1::2], down)


def test_a_learned_variance_leaves_beside_the_prediction():
    network = ldm(learned_variance=True)
    x = tiny.state(1, 3)[0][0]
    with torch.no_grad():
        out = network((x,), torch.zeros(3, 1), Cond())
        both, _ = network.outputs(x, torch.zeros(3), Cond(), None)
    assert torch.equal(torch.cat([out.levels[0], out.variance[0]], dim=1), both)
    assert out.variance[0].shape == x.shape and not torch.equal(out.variance[0], out.levels[0])
    assert ldm()((x,), torch.zeros(3, 1), Cond()).variance is None


def test_an_upsampler_need_not_be_told_the_noise_level_of_what_it_sees():
    network = ldm(low_channels=3, augmentation=False)
    low = torch.randn(3, 3, 8, 8)
    outs = [
        run(network, Cond(low=low, scalars={"augmentation": torch.full((3,), level)}))
        for level in (0.0, 5.0)
    ]
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], run(network, Cond(low=low.flip(0))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": [1]}, r"attention \[1\] for 2 widths"),
        ({"groups": 5}, "5 groups do not divide"),
        ({"heads": 3}, "3 heads do not divide a width of 32"),
        ({"head_width": 64}, "heads of width 64 do not divide a width of 32"),
        ({"transformer": False, "class_token": True}, "plain self-attention reads no class token"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ldm(**options)


def test_sides_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(8, 7\) are not multiples of 2"):
        run(ldm(), x=torch.zeros(1, 3, 8, 7))


# -- text in plain attention (Imagen's base) -----------------------------------------------------

IMAGEN = {"transformer": False, "scale_shift": True, "resample_blocks": True}


@pytest.mark.parametrize("pooling", [None, "mean", "attention"])
def test_plain_attention_reads_the_words_and_not_the_padding(pooling):
    network = ldm("text", pooling=pooling, mask_text=True, **IMAGEN)
    assert not transformers(network)
    cond = tiny.cond("text", 3)
    words, padding = cond.tokens.clone(), cond.tokens.clone()
    words[:, 0] *= -1  # a LayerNorm hides a constant
    padding[~cond.mask] += 1
    usual = run(network, cond)
    assert (run(network, Cond(tokens=words, mask=cond.mask)) - usual).abs().max() > 1e-4
    torch.testing.assert_close(run(network, Cond(tokens=padding, mask=cond.mask)), usual)


def test_a_pooled_text_is_added_to_the_class():
    network = ldm("class and text", pooling="attention", **IMAGEN)
    cond = tiny.cond("class and text", 3)
    both = network.prepare(cond).embedding
    none = Cond(labels=torch.full((3,), -1), tokens=cond.tokens, mask=cond.mask)
    table = network.label.weight
    wanted = network.prepare(none).embedding + table[cond.labels + 1] - table[0]
    torch.testing.assert_close(both, wanted)


def test_without_attention_in_the_middle_there_is_none():
    network = ldm(attention=0, middle_attention=False, transformer=False)
    assert not any(isinstance(module, AttentionBlock) for module in network.modules())
    assert len(network.middle) == 2
