"""The U-ViT of simple diffusion: where skips and dropout are, stems, sides, conditions, errors."""

import pytest
import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.layers import ResidualBlock, sinusoid
from hierdiff.denoisers.uvit import UViT, UViTBlock, positions
from tests import tiny

NONE = Cond()
STEMS = [
    {"name": "none"},
    {"name": "patch", "factor": 2},
    {"name": "wavelet"},
    {"name": "wavelet", "levels": 2},
]


def uvit(kind="unconditional", seed=0, **options) -> UViT:
    node = {**tiny.denoiser_node("uvit"), **options}
    facts = {k: v for k, v in tiny.facts(kind).items() if k not in options}
    return tiny.randomised(denoisers.build(node, offered=facts), seed).eval()


def run(network, x, cond=NONE, log_snr=None):
    log_snr = torch.zeros(len(x), 1) if log_snr is None else log_snr
    with torch.no_grad():
        return network((x,), log_snr, network.prepare(cond)).levels[0]


def image(n=2, rows=8, columns=8):
    return torch.randn(n, 3, rows, columns, generator=torch.Generator().manual_seed(5))


def seen_by(network, module, x):
    """What `module` puts out while `network` runs on x."""
    kept = []
    handle = module.register_forward_hook(lambda _m, _i, out: kept.append(out.detach()))
    run(network, x)
    handle.remove()
    return kept[0]


def replaced(network, module, x):
    """Backward of a run in which `module` puts out a constant."""
    handle = module.register_forward_hook(lambda _m, _i, out: torch.full_like(out, 0.3))
    network.zero_grad(set_to_none=True)
    network((x,), torch.zeros(len(x), 1), network.prepare(NONE)).levels[0].square().sum().backward()
    handle.remove()


def touched(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_no_skip_passes_over_a_block_of_the_transformer(cut):
    """With one block's output held constant nothing before it in the chain matters."""
    network = uvit(depth=4)
    replaced(network, network.transformer[cut], image())
    assert not any(touched(block) for block in network.transformer[: cut + 1])
    assert all(touched(block) for block in network.transformer[cut + 1 :])
    assert not touched(network.shrink[-1])
    assert touched(network.first) and all(touched(block) for block in network.down[0])


def test_each_residual_block_on_the_way_down_leaves_one_skip():
    network = uvit(multiples=(1, 2, 3), blocks=[2, 1])
    assert [len(row) for row in network.down] == [2, 1]
    assert [len(row) for row in network.up] == [1, 2]
    found = [[block.norm1.num_channels for block in row] for row in network.up]
    assert found == [[48 + 32], [32 + 16, 16 + 16]]  # below and skip, then own and skip


def test_a_skip_reaches_its_mirror_image_around_the_transformer():
    network = uvit(depth=1)
    replaced(network, network.grow[0], image())  # cuts all but the skips
    assert not touched(network.transformer) and touched(network.down[0][0])


def test_dropout_is_in_the_transformer_alone():
    network = uvit("text", dropout=0.3, depth=2)
    inside = set(network.transformer.modules())
    rates = {m.p for m in network.modules() if isinstance(m, nn.Dropout) and m not in inside}
    assert rates == {0.0}
    assert {m.p for m in inside if isinstance(m, nn.Dropout)} == {0.3}


@pytest.mark.parametrize(
    ("rate", "depth", "same"), [(0.0, 1, True), (0.5, 0, True), (0.5, 1, False)]
)
def test_two_training_passes_differ_only_by_the_dropout_of_the_transformer(rate, depth, same):
    network, x = uvit(dropout=rate, depth=depth).train(), image()
    assert torch.equal(run(network, x), run(network, x)) == same
    low, again = (seen_by(network, network.shrink[-1], x) for _ in range(2))
    assert torch.equal(low, again)  # what the convolutional levels hand down


@pytest.mark.parametrize("stem", STEMS, ids=str)
@pytest.mark.parametrize("kind", ["unconditional", "class and text"])
def test_every_stem_gives_shapes_back(stem, kind):
    network, x, cond = uvit(kind, stem=stem), image(3, 16, 16), tiny.cond(kind, 3)
    out = run(network, x, cond)
    assert out.shape == x.shape and torch.isfinite(out).all()
    assert network.multiple == 2 * network.stem.factor


@pytest.mark.parametrize("stem", STEMS, ids=str)
def test_the_network_inside_a_stem_works_at_a_smaller_side(stem):
    network = uvit(stem=stem)
    inside = seen_by(network, network.first, image(1, 16, 16))
    assert inside.shape == (1, 16, 16 // network.stem.factor, 16 // network.stem.factor)


@pytest.mark.parametrize("stem", STEMS, ids=str)
def test_a_new_network_predicts_zero(stem):
    network = denoisers.build({**tiny.denoiser_node("uvit"), "stem": stem})
    assert not run(network, image(2, 16, 16)).any()


def test_the_wavelet_prediction_is_made_in_coefficients():
    """A head that gives one approximation coefficient everywhere predicts a constant image."""
    network = denoisers.build({**tiny.denoiser_node("uvit"), "stem": {"name": "wavelet"}})
    with torch.no_grad():
        network.head[-1].bias[:3] = torch.tensor([0.1, 0.2, 0.3])
    out = run(network, image())
    wanted = torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand(2, 3, 8, 8)
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (6, 6), (2, 10), (24, 16)])
def test_any_side_that_can_be_halved_works(rows, columns):
    x = image(1, rows, columns)
    out = run(uvit(), x)
    assert out.shape == x.shape and torch.isfinite(out).all()


@pytest.mark.parametrize("shape", [(7, 8), (8, 9), (8, 6)])
def test_any_other_side_is_refused_before_compute(shape):
    network = uvit(stem={"name": "patch", "factor": 2})
    message = rf"sides \({shape[0]}, {shape[1]}\) are not multiples of 4"
    with pytest.raises(ValueError, match=message):
        run(network, image(1, *shape))


def test_positions_are_sinusoids_of_row_and_column():
    found = positions(2, 3, 8, torch.device("cpu"))
    assert found.shape == (6, 8)
    row, column = (sinusoid(torch.tensor([float(i)]), 4)[0] for i in (1, 2))
    torch.testing.assert_close(found[5], torch.cat([row, column]))  # row 1, column 2


def test_the_transformer_tells_places_apart():
    """Without positions a chain of attention would turn shuffled tokens into shuffled outputs."""
    network = uvit(depth=2)
    h = torch.randn(1, 32, 4, 4)
    vector = torch.randn(1, network.time_width)
    with torch.no_grad():
        straight = network._transformed(h, vector, NONE)
        mirrored = network._transformed(h.flip(-1), vector, NONE).flip(-1)
    assert (straight - mirrored).abs().max() > 1e-3


def test_a_new_transformer_block_changes_nothing():
    block = UViTBlock(16, 2, 8, 0.0, text=6)
    x = torch.randn(2, 5, 16)
    context = block.keys_values(torch.randn(2, 3, 6))
    assert torch.equal(block(x, torch.randn(2, 8), context), x)


@pytest.mark.parametrize("filling", [9.0, float("nan")])
def test_padding_does_not_matter(filling):
    tokens, x = torch.randn(3, 4, 6), image(3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    network = uvit("text", depth=2)
    usual = run(network, x, Cond(tokens=tokens, mask=mask))
    filled = torch.where(mask[..., None], tokens, filling)
    torch.testing.assert_close(run(network, x, Cond(tokens=filled, mask=mask)), usual)
    shorter = Cond(tokens=tokens[:, :3], mask=mask[:, :3])
    torch.testing.assert_close(run(network, x, shorter), usual, rtol=1e-4, atol=1e-5)


def test_a_caption_without_words_is_finite_and_gives_finite_gradients():
    network = uvit("text")
    cond = Cond(tokens=torch.zeros(2, 4, 6), mask=torch.zeros(2, 4, dtype=torch.bool))
    out = network((image(),), torch.zeros(2, 1), network.prepare(cond)).levels[0]
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_words_reach_the_image_by_attention_and_by_their_mean():
    network, x, log_snr = uvit("text"), image(1), torch.zeros(1, 1)
    mask = torch.ones(1, 2, dtype=torch.bool)
    a, b = (network.prepare(Cond(tokens=torch.randn(1, 2, 6), mask=mask)) for _ in range(2))
    with torch.no_grad():
        usual, attended, pooled = (
            network(
                (x,), log_snr, Cond(mask=mask, embedding=v.embedding, context=c.context)
            ).levels[0]
            for v, c in ((a, a), (a, b), (b, a))
        )
    assert (attended - usual).abs().max() > 1e-4
    assert (pooled - usual).abs().max() > 1e-4


def test_one_multiple_is_a_plain_transformer():
    network = uvit(multiples=(2,), depth=2, stem={"name": "patch", "factor": 2})
    assert not any(isinstance(module, ResidualBlock) for module in network.modules())
    assert run(network, image()).shape == (2, 3, 8, 8)


def test_half_precision_runs():
    network = uvit("text", stem={"name": "wavelet"}).bfloat16()
    cond = tiny.cond("text", 2)
    told = network.prepare(Cond(tokens=cond.tokens.bfloat16(), mask=cond.mask))
    out = network((image().bfloat16(),), torch.zeros(2, 1), told).levels[0]
    assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, r"5 groups do not divide all widths \[16, 32\]"),
        ({"heads": 3}, r"width 32 with 3 heads"),
        ({"width": 6, "groups": 2, "multiples": (1, 1)}, r"width 6 with 2 heads.*of 4"),
        ({"blocks": [1, 2]}, r"blocks \[1, 2\] for 1 convolutional"),
        ({"blocks": 0}, r"blocks=0: blocks takes a whole number, 1 or more"),
        ({"stem": {"name": "pach"}}, r"unknown stem 'pach', did you mean 'patch'"),
        ({"dept": 3}, r"no option 'dept', did you mean 'depth'"),
    ],
)
def test_bad_options_are_refused_at_build(options, message):
    with pytest.raises(ValueError, match=message):
        uvit(**options)
