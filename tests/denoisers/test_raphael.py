"""RAPHAEL: words and times choose experts; without them it is the plain network."""

import pytest
import torch
import torch.nn.functional as F

from hierdiff.denoisers import denoisers
from hierdiff.denoisers.ldm_unet import geglu
from hierdiff.denoisers.raphael import (
    Gate,
    cross_attention,
    effective,
    last_word,
    regions,
)
from tests import tiny


def raphael(kind="text", **options):
    torch.manual_seed(0)
    node = {**tiny.denoiser_node("raphael"), **options}
    return denoisers.build(node, offered=tiny.facts(kind))


def given(n=3, kind="text"):
    x_t, log_snr = tiny.state(1, n)
    return x_t, log_snr, tiny.cond(kind, n)


def run(network, kind="text"):
    x_t, log_snr, cond = given(kind=kind)
    return network(x_t, log_snr, network.prepare(cond))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_without_experts_it_is_the_plain_network_bit_for_bit(kind):
    none = raphael(kind, space_experts=0, time_experts=1)
    torch.manual_seed(0)
    node = {**tiny.denoiser_node("ldm_unet"), "mask_text": True}
    plain = denoisers.build(node, offered=tiny.facts(kind))
    assert list(none.state_dict()) == list(plain.state_dict())
    both = [run(tiny.randomised(network), kind).levels[0] for network in (none, plain)]
    assert torch.equal(*both)


def test_one_space_expert_over_the_whole_image_is_one_more_feed_forward():
    network = tiny.randomised(raphael(space_experts=1, time_experts=1, threshold=0.0)).eval()
    block, x = network.blocks[0], torch.randn(3, 16, 32)
    seen = {}
    block.space[0].register_forward_hook(lambda _, given, out: seen.setdefault("given", given[0]))
    block.norm.register_forward_hook(lambda _, given, out: seen.update(normed=out, x=given[0]))
    context = network.context(torch.zeros(3), network.prepare(tiny.cond("text", 3)))
    slot = network.transformers[0].slot
    out = block(x, context.keys_values[slot], context)
    wanted = seen["x"] + block.space[0](seen["normed"])
    torch.testing.assert_close(out, wanted)


def test_space_experts_are_the_mean_over_the_words_of_each_expert_on_its_region():
    network = tiny.randomised(raphael(space_experts=3, threshold=0.9)).eval()
    block, x = network.blocks[0], torch.randn(3, 16, 32)
    seen = {}
    block.norm.register_forward_hook(lambda _, given, out: seen.update(h=out, x=given[0]))
    cond = tiny.cond("text", 3)
    maps = []
    context = network.context(torch.zeros(3), network.prepare(cond))._replace(maps=maps)
    out = block(x, context.keys_values[network.transformers[0].slot], context)
    chosen = block.word_gate(network.text(cond.tokens), noisy=False).argmax(-1)
    partial = 0
    for row in range(3):
        parts = []
        for word in range(int(cond.mask[row].sum())):
            seen_by_word = maps[0][row, :, :, word].mean(0)
            region = (seen_by_word >= 0.9 * seen_by_word.max()).float()[:, None]
            partial += bool(0 < region.sum() < len(region))
            parts.append(block.space[int(chosen[row, word])](seen["h"][row] * region))
        torch.testing.assert_close(out[row] - seen["x"][row], torch.stack(parts).mean(0))
    assert partial > 1


def test_a_row_goes_through_the_time_expert_that_it_chooses():
    network = tiny.randomised(raphael(time_experts=3)).eval()
    block, x, vector = network.blocks[0], torch.randn(6, 5, 32), torch.randn(6, 64)
    chosen = block.time_of(vector).tolist()
    assert len(set(chosen)) > 1
    out = block._timed(x, vector)
    for row, place in enumerate(chosen):
        expert = (block.plain, *block.time)[place]
        torch.testing.assert_close(out[row], geglu(x[row], expert.expand, expert.contract))


def test_a_choice_is_exactly_one_and_has_the_gradient_of_its_log_probability():
    torch.manual_seed(0)
    gate = Gate(4, 3, noise=0.0)
    x = torch.randn(5, 4)
    choice = gate(x)
    assert torch.equal(choice.detach().sort(-1).values, torch.tensor([[0.0, 0.0, 1.0]] * 5))
    (choice.sum(-1) * torch.arange(5.0)).sum().backward()
    own = gate.last.bias.grad.clone()
    gate.zero_grad()
    p = gate.last(F.gelu(gate.first(x))).softmax(-1)
    (p.amax(-1).log() * torch.arange(5.0)).sum().backward()
    torch.testing.assert_close(own, gate.last.bias.grad)


def test_noise_moves_choices_in_training_alone():
    torch.manual_seed(0)
    gate, x = Gate(4, 3, noise=1.0), torch.randn(50, 4)
    assert not torch.equal(gate(x), gate(x))
    gate.eval()
    assert torch.equal(gate(x), gate(x))


def test_a_region_is_where_attention_reaches_the_share_of_its_largest():
    maps = torch.tensor([[[[0.1, 0.9], [0.5, 0.5], [0.4, 0.6]]]])  # b m n l
    assert regions(maps, 0.8).tolist() == [[[False, True], [True, False], [True, False]]]
    assert regions(maps, 0.0).all()


def test_attention_is_that_of_the_plain_block_and_hides_padding():
    q, k, v = (torch.randn(2, 3, n, 4) for n in (5, 6, 6))
    mask = torch.arange(6) < torch.tensor([[[[4]]], [[[6]]]])
    maps = cross_attention(q, k, mask)
    torch.testing.assert_close(maps @ v, F.scaled_dot_product_attention(q, k, v, mask))
    assert not maps[0, ..., 4:].any()
    assert torch.equal(last_word(maps, mask), torch.stack([maps[0, ..., 3], maps[1, ..., 5]]))


def test_the_effective_number_of_experts_is_one_to_all():
    rows = torch.ones(4, dtype=torch.bool)
    one, all_of_them = torch.zeros(4, 2, dtype=torch.long), torch.arange(4)[:, None].expand(4, 2)
    assert float(effective(one, rows, 4)) == pytest.approx(1)
    assert float(effective(all_of_them, rows, 4)) == pytest.approx(4)
    half = torch.stack([one[:, 0], all_of_them[:, 0]], 1)
    assert float(effective(half, rows, 4)) == pytest.approx(2.5)


def test_parameters_of_time_experts_that_are_not_chosen_are_idle():
    four, one = raphael(time_experts=4), raphael(time_experts=1)
    gates = sum(p.numel() for b in four.blocks for p in b.time_gate.parameters())
    count = [sum(p.numel() for p in network.parameters()) for network in (four, one)]
    assert count[0] - four.idle == count[1] + gates and four.idle > 0 == one.idle


def test_routes_are_those_of_each_block_and_stay_in_range():
    network = tiny.randomised(raphael(space_experts=3, time_experts=2)).eval()
    x_t, log_snr, cond = given()
    routes = network.routes(x_t, log_snr, network.prepare(cond))
    assert network.experts == {"time": 2, "words": 3}
    assert routes.time.shape == (3, 4) and routes.words.shape == (3, 4, tiny.LENGTH)
    assert 0 <= int(routes.words.min()) <= int(routes.words.max()) < 3
    assert torch.equal(routes.seen, cond.mask)
    assert [p.shape for p in routes.painted] == [(3, 3, 4, 4)] * 4
    assert all(float(p.min()) >= 0 and float(p.sum(1).max()) <= 1 + 1e-6 for p in routes.painted)


def test_without_captions_there_are_no_space_experts_and_the_row_says_so():
    network = raphael("class")
    assert not any(block.words for block in network.blocks)
    assert "no word chooses" in network.notes[0]
    with pytest.raises(ValueError, match="set data.text"):
        raphael("class", edges=True)


def test_a_training_call_tells_the_balance_and_guesses_edges_in_each_block():
    network = raphael(edges=True).train()
    out = run(network)
    assert [guess.shape for guess in out.edges] == [(3, 1, 4, 4)] * 4
    assert 1 <= float(out.logs["experts/words"]) <= 2 and 1 <= float(out.logs["experts/time"]) <= 2
    assert run(network.eval()).edges == ()
