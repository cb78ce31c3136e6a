"""The Efficient U-Net: its switches, and the U-Net that it is without them."""

import pytest
import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.layers import AttentionBlock, AttentionPool
from hierdiff.denoisers.unet import TextAttentionBlock
from tests import tiny

NODE = tiny.denoiser_node("efficient_unet")
OFF = {"skip_scale": 1.0, "resample_first": False}


def run(network, x_t, log_snr, cond=None):
    with torch.no_grad():
        return network(x_t, log_snr, network.prepare(cond or Cond()))


def built(kind="unconditional", **options):
    return tiny.randomised(denoisers.build({**NODE, **options}, offered=tiny.facts(kind))).eval()


def recorded(modules):
    """What goes into and comes out of each module, in the order of the calls."""
    calls = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _, given, out, name=name: calls[name].append((given[0], out))
        )
    return calls


def test_with_every_switch_off_it_is_the_unet():
    facts = {**tiny.facts("class and text"), "low_channels": 3}
    torch.manual_seed(3)
    flat = denoisers.build(tiny.denoiser_node("unet"), offered=facts)
    torch.manual_seed(3)
    efficient = denoisers.build({**NODE, **OFF}, offered=facts)
    states = flat.state_dict(), efficient.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    x_t, log_snr = tiny.state(1, 2)
    cond = tiny.cond("class and text", 2)
    cond = Cond(labels=cond.labels, tokens=cond.tokens, mask=cond.mask, low=x_t[0].flip(-1))
    a, b = (run(tiny.randomised(net), x_t, log_snr, cond).levels[0] for net in (flat, efficient))
    assert torch.equal(a, b)


def test_the_defaults_are_the_published_ones():
    with torch.device("meta"):
        network = denoisers.build({"name": "efficient_unet"})
    assert [len(row) for row in network.down] == [2, 4, 8, 8]
    assert [row[-1].residual.conv2.out_channels for row in network.down] == [128, 256, 512, 1024]
    assert [len(row[0].attention) for row in network.down] == [0, 0, 0, 1]
    assert network.reduction == 16 and network.skip_scale == pytest.approx(0.70710678)


def test_the_full_side_has_only_the_first_and_the_last_convolutions():
    network = built()
    convs = {k: m for k, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    calls = recorded(convs)
    x_t, log_snr = tiny.state(1, 1)
    run(network, x_t, log_snr)
    full = [name for name, seen in calls.items() if seen[0][1].shape[-1] == x_t[0].shape[-1]]
    assert full == ["first", f"grow.{len(network.grow) - 1}.conv", "head.2"]


def test_what_crosses_at_the_full_side_is_added_and_scaled():
    """With the last doubling at zero the head sees the first convolution over sqrt(2)."""
    network = built()
    for parameter in network.grow[-1].parameters():
        nn.init.zeros_(parameter)
    x_t, log_snr = tiny.state(1, 2)
    out = run(network, x_t, log_snr)
    across = network.first(x_t[0]) / 2**0.5
    torch.testing.assert_close(out.features, across)
    torch.testing.assert_close(out.levels[0], network.head(across))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_what_crosses_below_is_scaled_and_what_comes_up_is_not(scale):
    network = built(skip_scale=scale)
    parts = {"last": network.down[-1][-1], "middle": network.middle[-1], "up": network.up[0][0]}
    calls = recorded(parts)
    x_t, log_snr = tiny.state(1, 2)
    run(network, x_t, log_snr)
    seen = calls["up"][0][0]
    wanted = torch.cat([calls["middle"][0][1], scale * calls["last"][0][1]], dim=1)
    assert torch.equal(seen, wanted)


def test_text_attention_is_attention_whose_own_values_are_zero():
    own = tiny.randomised(AttentionBlock(8, 2, 4, text=6)).double()
    text = TextAttentionBlock(8, 2, 4, text=6).double()
    nn.init.zeros_(own.qkv.weight[16:])
    nn.init.zeros_(own.qkv.bias[16:])
    state = own.state_dict()
    text.load_state_dict(state | {k: state[k][:8] for k in ("qkv.weight", "qkv.bias")})
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    context = own.keys_values(torch.randn(2, 3, 6, dtype=torch.float64))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    torch.testing.assert_close(text(x, context, mask), own(x, context, mask))


def test_without_self_attention_the_text_is_still_read():
    network = built("text", self_attention=False)
    blocks = [m for m in network.modules() if isinstance(m, AttentionBlock)]
    assert blocks and all(type(block) is TextAttentionBlock for block in blocks)
    x_t, log_snr = tiny.state(1, 2)
    cond = tiny.cond("text", 2)
    nn.init.zeros_(network.pool.weight)  # no way for the text but the attention
    none = cond.dropped(torch.ones(2, dtype=torch.bool))
    a, b = (run(network, x_t, log_snr, c).levels[0] for c in (cond, none))
    assert (a - b).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["unconditional", "class"])
def test_without_self_attention_and_text_there_is_no_attention(kind):
    network = built(kind, self_attention=False)
    assert not any(isinstance(module, AttentionBlock) for module in network.modules())
    assert len(network.middle) == 2
    x = torch.randn(1, 3, 12, 20)
    cond = Cond(labels=torch.zeros(1, dtype=torch.long))
    assert run(network, (x,), torch.zeros(1, 1), cond).levels[0].shape == x.shape


def test_a_side_that_cannot_be_halved_for_every_width_is_refused():
    network = denoisers.build(NODE)
    with pytest.raises(ValueError, match="side of 6 do not fit.*halves 2 times"):
        network((torch.randn(1, 3, 6, 6),), torch.zeros(1, 1), Cond())


# -- the layout of the published networks --------------------------------------------------------


def test_pixels_and_words_in_one_softmax_weigh_as_their_sums_of_exponentials():
    block = tiny.randomised(AttentionBlock(8, 2, 4, text=6, joint=True, ffn=False)).double()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    context = block.keys_values(torch.randn(2, 3, 6, dtype=torch.float64))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    q, k, v = (
        block.qkv(block.norm(x)).flatten(2).reshape(2, 3, 2, 4, 16).transpose(-1, -2).unbind(1)
    )
    text_k, text_v = context.reshape(2, 3, 2, 2, 4).permute(2, 0, 3, 1, 4)
    pixels, words = (q @ keys.transpose(-1, -2) / 2 for keys in (k, text_k))
    words = words.masked_fill(~mask[:, None, None], -torch.inf)
    share = torch.sigmoid(words.logsumexp(-1) - pixels.logsumexp(-1))[..., None]
    h = (1 - share) * pixels.softmax(-1) @ v + share * words.softmax(-1) @ text_v
    wanted = x + block.out(h.transpose(-1, -2).reshape(2, 8, 4, 4))
    torch.testing.assert_close(block(x, context, mask), wanted)


def test_attention_over_one_word_is_that_word():
    pool = tiny.randomised(AttentionPool(6, 5))
    tokens = torch.randn(2, 3, 6)
    mask = torch.tensor([[True, False, False]] * 2)
    value = pool.text(pool.norm(tokens[:, 0]))[:, 6:]
    torch.testing.assert_close(pool(tokens, mask), pool.out(value))


def test_attention_pooling_takes_words_in_any_order_and_none_at_all():
    pool = tiny.randomised(AttentionPool(128, 5))
    assert pool.heads == 2
    tokens, mask = torch.randn(2, 4, 128), torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(pool(tokens.flip(1), mask), pool(tokens, mask))
    none = pool(tokens, ~mask)
    assert torch.isfinite(none).all() and torch.equal(none[0], none[1])


LEVEL = {"attention_after": "level", "skips": "level", "middle": False}


def test_attention_follows_the_last_block_of_a_side_alone():
    network = built(**LEVEL, blocks=[2, 3], attention=[1, 2])
    rows = [*network.down, *network.up]
    counts = [[len(block.attention) for block in row] for row in rows]
    assert counts == [[0, 1], [0, 0, 2], [0, 0, 2], [0, 1]]


@pytest.mark.parametrize("first", [True, False])
def test_one_skip_crosses_at_the_end_of_each_side(first):
    network = built(**LEVEL, blocks=[2, 3], resample_first=first, skip_scale=0.5)
    ends = {f"down{i}": row[-1] for i, row in enumerate(network.down)}
    starts = {f"up{i}": row[0] for i, row in enumerate(reversed(network.up))}
    calls = recorded({**ends, **starts})
    x_t, log_snr = tiny.state(1, 2)
    run(network, x_t, log_snr)
    for i in range(2):
        skip, joined = calls[f"down{i}"][0][1], calls[f"up{i}"][0][0]
        assert torch.equal(joined[:, -skip.shape[1] :], 0.5 * skip)
    assert [len(row) for row in network.up] == [3, 2]


def test_skips_of_a_side_without_blocks_are_refused():
    with pytest.raises(ValueError, match=r"blocks \[0, 1\] with skips of a level"):
        built(skips="level", blocks=[0, 1])
