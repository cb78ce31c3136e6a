"""The autoencoder: published sizes, what sides come out, what each option changes, errors."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from baselines.latent.autoencoder import Attention, Autoencoder, Shrink
from hierdiff.config import folder_of_configs
from hierdiff.registry import build

FOLDER = Path(folder_of_configs()) / "autoencoder"
PUBLISHED = {
    "kl_f4": 55_312_063,
    "kl_f8": 83_653_863,
    "kl_f16": 69_610_963,
    "kl_f32": 103_880_131,
    "vq_f4": 55_322_782,
    "vq_f4_no_attention": 53_219_486,
    "vq_f8_z16384": 67_717_295,
    "vq_f8_z256": 67_652_783,
    "vq_f16": 69_593_371,
    "vqgan_1024": 72_141_699,
    "vqgan_16384": 76_073_859,
}
SHAPES = {  # of the latents at 256 px
    **{"kl_f4": (3, 64, 64), "kl_f8": (4, 32, 32), "kl_f16": (16, 16, 16), "kl_f32": (64, 8, 8)},
    **{"vq_f4": (3, 64, 64), "vq_f8_z256": (4, 32, 32), "vq_f16": (8, 16, 16)},
    **{"vqgan_1024": (256, 16, 16)},
}
REGULARISERS = ({"name": "kl"}, {"name": "vq", "codes": 5})
TINY = {"width": 8, "multiples": [1, 2], "blocks": 1, "resolution": 8, "groups": 4}
TINY = {**TINY, "latent_channels": 3}


def read(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))  # type: ignore


def published(name: str) -> Autoencoder:
    with torch.device("meta"):
        return build(Autoencoder, read(name))


def new(**options) -> Autoencoder:
    torch.manual_seed(0)
    return build(Autoencoder, {**TINY, **options}).double()


def images(n=2, side=8, channels=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("change", ["next", "sign", "order", "groups"])
def test_every_change_has_another_fingerprint(change):
    network, other = new().float(), new(groups=2 if change == "groups" else 4).float()
    assert network.fingerprint() == new().float().fingerprint()
    weight = other.last_layer.weight
    with torch.no_grad():
        if change == "next":
            weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
        if change == "sign":
            weight[0].neg_()
        if change == "order":
            weight.copy_(weight.flip(0))
    assert other.fingerprint() != network.fingerprint()


def test_another_dtype_or_memory_layout_has_the_same_fingerprint():
    network = new().float()
    before = network.fingerprint()
    assert network.double().fingerprint() == before
    assert network.to(memory_format=torch.channels_last).fingerprint() == before


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_parameters(name):
    assert count(published(name)) == PUBLISHED[name]


def test_the_parts_of_kl_f8_count_as_published():
    network = published("kl_f8")
    assert count(network.encoder) == 34_163_592
    assert count(network.decoder, network.last_layer) == 49_490_179
    assert count(network.to_moments, network.from_latents) == 92


@pytest.mark.parametrize("name", SHAPES)
def test_published_latents_have_their_shapes(name):
    assert published(name).latent_shape(256) == SHAPES[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_config_goes_from_images_to_latents_and_back_on_meta(name):
    network, side = published(name), read(name).get("resolution", 256)
    x = torch.empty(2, 3, side, side, device="meta")
    out = network(x)
    z = network.regulariser.mode(out.moments)
    assert z.shape[1:] == network.latent_shape(side)
    assert out.images.shape == x.shape == network.decode(z).shape


@pytest.mark.parametrize(("name", "side"), [("small_f2", 32), ("small_f4", 64)])
def test_small_ones_end_in_sixteen_by_sixteen(name, side):
    assert published(name).latent_shape(side)[1:] == (16, 16)


@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_a_training_pass_is_encode_sample_decode(regulariser):
    network, x = new(regulariser=regulariser), images()
    eps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    out = network(x, eps)
    moments = network.encode(x)
    torch.testing.assert_close(out.moments, moments)
    torch.testing.assert_close(out.images, network.decode(network.regulariser.sample(moments, eps)))
    torch.testing.assert_close(out.images, network.last_layer(out.last_input))
    torch.testing.assert_close(out.loss, network.regulariser(moments).loss)


def test_sides_may_differ_and_be_larger_than_in_training():
    network = new(multiples=[1, 2, 2])
    x = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    out = network(x)
    assert network.factor == 4
    assert out.moments.shape == (1, 6, 4, 6) and out.images.shape == x.shape


@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_one_example_does_not_touch_another(regulariser):
    network, x = new(regulariser=regulariser, attention_at=[8, 4]), images()
    torch.testing.assert_close(network(x).images[:1], network(x[:1]).images)


@pytest.mark.parametrize("regulariser", REGULARISERS)
def test_every_parameter_gets_a_gradient(regulariser):
    network, x = new(regulariser=regulariser, attention_at=[4]), images(4)
    eps = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    out = network(x, eps)
    ((out.images * torch.randn_like(x)).sum() + out.loss).backward()
    # a bias before a softmax over keys moves all of them alike
    silent = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {n for n in silent if not n.endswith(".k.bias")}


def test_a_vq_decoder_sees_nothing_but_codes():
    network = new(regulariser={"name": "vq", "codes": 1})
    z = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(network.decode(z), network.decode(torch.zeros_like(z)))


def test_attention_stands_after_every_block_at_the_sides_asked_for():
    network = new(multiples=[1, 2, 2], blocks=2, resolution=16, attention_at=[8])

    def attended(levels: nn.Module) -> list[int]:
        return [sum(isinstance(m, Attention) for m in level.modules()) for level in levels]

    assert attended(network.encoder.down) == [0, 2, 0]
    assert attended(network.decoder.up) == [0, 3, 0]
    without = new(middle_attention=False)
    assert sum(isinstance(m, Attention) for m in without.modules()) == 0
    assert sum(isinstance(m, Attention) for m in new().modules()) == 2


def test_attention_lets_every_position_see_every_other():
    torch.manual_seed(0)
    layer = Attention(4, 4).double()
    nn.init.zeros_(layer.norm.weight)  # else the norm joins them already
    nn.init.ones_(layer.norm.bias)
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    # all features alike: the mean of the values is the value
    expected = x + layer.out(layer.v(torch.ones_like(x)))
    torch.testing.assert_close(layer(x), expected)
    nn.init.ones_(layer.norm.weight)
    x.requires_grad_()
    # sums over a channel are kept by its norm: look at squares
    (grad,) = torch.autograd.grad((layer(x) - x)[0, 0, 0, 0].square(), x)
    assert (grad != 0).all()


def test_halving_pads_right_and_below_only():
    layer = Shrink(1)
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    expected = torch.tensor([[9.0, 6.0], [6.0, 4.0]])
    torch.testing.assert_close(layer(torch.ones(1, 1, 4, 4))[0, 0], expected)


def test_group_norms_have_the_released_epsilon():
    assert {m.eps for m in new().modules() if isinstance(m, nn.GroupNorm)} == {1e-6}


def test_grey_images_go_in_and_come_out():
    assert new(channels=1)(images(channels=1)).images.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "3 groups do not divide a width of 8"),
        ({"attention_at": [4, 7]}, r"attention_at \[7\] .* pass \[8, 4\]"),
        ({"resolution": 9}, "image side 9 is not a multiple of 2"),
        ({"regulariser": {"name": "lk"}}, "unknown regulariser 'lk'"),
        ({"regulariser": {"name": "vq", "code": 8}}, "did you mean 'codes'"),
        ({"multiplies": [1]}, "did you mean 'multiples'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        new(**options)


def test_images_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="image side 9 is not a multiple of 2"):
        new().encode(torch.zeros(1, 3, 8, 9, dtype=torch.float64))
