"""DiT: zero at the start, positions, sizes as published, conditions, learned variance, errors."""

from dataclasses import replace

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.dit import DiT, column_row_positions
from hierdiff.denoisers.layers import sinusoid
from hierdiff.methods import Request
from tests import tiny
from tests.test_configs import composed

NONE = Cond()
COUNTS = {
    "s": (32_865_056, 32_920_448, 33_142_016),
    "b": (130_315_808, 130_426_496, 130_869_248),
    "l": (457_840_672, 457_988_224, 458_578_432),
    "xl": (674_834_720, 675_000_704, 675_664_640),
}
ROWS = [
    (f"dit_{size}_{patch}", count)
    for size, counts in COUNTS.items()
    for patch, count in zip((2, 4, 8), counts, strict=True)
] + [(f"sit_{size}_2", counts[0]) for size, counts in COUNTS.items()]


def dit(kind="unconditional", seed=0, **options) -> DiT:
    return tiny.randomised(new(kind, **options), seed).eval()


def new(kind="unconditional", **options) -> DiT:
    node = {**tiny.denoiser_node("dit"), **options}
    facts = {k: v for k, v in tiny.facts(kind).items() if k not in options}
    return denoisers.build(node, offered=facts)


def run(network, x, cond=NONE, log_snr=None):
    log_snr = torch.zeros(len(x), 1) if log_snr is None else log_snr
    with torch.no_grad():
        return network((x,), log_snr, network.prepare(cond))


def image(n=2, rows=8, columns=8):
    return torch.randn(n, 3, rows, columns, generator=torch.Generator().manual_seed(5))


def published(name: str, **options) -> DiT:
    node = {**composed(f"denoiser={name}")["denoiser"], **options}
    with torch.device("meta"):
        return denoisers.build(node, offered={"channels": 4, "classes": 1000})


def weights_of(network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "count"), ROWS)
def test_a_published_size_has_its_number_of_trained_weights(name, count):
    network = published(name)
    assert weights_of(network) == count and not list(network.buffers())
    assert network.learns_variance


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [
        ("dit_s_2", 32, 32_963_360),
        ("dit_b_2", 32, 130_512_416),
        ("dit_l_2", 32, 458_102_816),
        ("dit_xl_2", 32, 675_129_632),
        ("dit_xl_2", 64, 676_014_368),  # latents of 512 px
    ],
)
def test_with_the_fixed_table_of_positions_it_counts_as_the_released_networks_do(name, side, count):
    """One entry of `width` numbers for each token of a side; ours are computed, not stored."""
    network = published(name)
    table = column_row_positions(*[side // network.patch] * 2, network.width, torch.device("meta"))
    assert weights_of(network) + table.numel() == count


@pytest.mark.parametrize(("name", "count"), [("dit_xl_2", 674_816_272), ("dit_s_2", 32_858_896)])
def test_without_a_learned_variance_it_is_smaller_by_half_of_the_head(name, count):
    assert weights_of(published(name, learned_variance=False)) == count


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_new_network_is_the_identity_in_every_block_and_predicts_exactly_zero(kind, learned):
    network = new(kind, depth=3, learned_variance=learned)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    out = run(network, image(), tiny.cond(kind, 2))
    assert len(seen) == 3 and all(torch.equal(before, after) for before, after in seen)
    assert not out.levels[0].any()
    assert (out.variance is not None) == learned
    assert not learned or not out.variance[0].any()


def test_weights_start_as_published():
    network = new("class", width=64, depth=2)
    limit = (6 / (64 + 3 * 64)) ** 0.5  # Xavier
    for block in network.blocks:
        assert limit * 0.95 < float(block.qkv.weight.detach().abs().max()) <= limit
        assert not block.qkv.bias.any()
    limit = (6 / (64 + 3 * 4)) ** 0.5
    assert limit * 0.9 < float(network.patches.weight.detach().abs().max()) <= limit
    for layer in (network.time[0], network.time[2], network.label):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_positions_are_sinusoids_of_column_and_row():
    found = column_row_positions(2, 3, 8, torch.device("cpu"))
    assert found.shape == (6, 8)
    row, column = (sinusoid(torch.tensor([float(i)]), 4)[0] for i in (1, 2))
    torch.testing.assert_close(found[5], torch.cat([column, row]))  # row 1, column 2


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (2, 2), (6, 10), (16, 4)])
def test_any_side_that_the_patch_divides_works(rows, columns):
    x = image(1, rows, columns)
    out = run(dit(), x).levels[0]
    assert out.shape == x.shape and torch.isfinite(out).all()


def test_any_other_side_is_refused_before_compute():
    with pytest.raises(ValueError, match=r"sides \(8, 7\) are not multiples of 2"):
        run(dit(), image(1, 8, 7))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_what_a_patch_predicts_goes_back_to_its_place(patch):
    """Without blocks a token knows its own patch only."""
    network, x = dit(depth=0, patch=patch), image(1)
    other = x.clone()
    other[:, :, patch : 2 * patch, -patch:] += 1  # the last patch of the second row
    changed = (run(network, x).levels[0] != run(network, other).levels[0]).any(dim=1)[0]
    wanted = torch.zeros(8, 8, dtype=torch.bool)
    wanted[patch : 2 * patch, -patch:] = True
    assert torch.equal(changed, wanted)


def test_the_second_half_of_the_channels_is_the_variance():
    network, x = dit(learned_variance=True), image()
    out = run(network, x)
    assert out.levels[0].shape == x.shape == out.variance[0].shape
    with torch.no_grad():
        network.head.bias.view(4, 6)[:, 3:] += 1  # patch by channels: the last three
    moved = run(network, x)
    torch.testing.assert_close(moved.variance[0], out.variance[0] + 1)
    assert torch.equal(moved.levels[0], out.levels[0])
    assert dit().learns_variance is False and run(dit(), x).variance is None


def test_no_class_is_the_first_row_of_the_table():
    network, x = dit("class"), image(1)
    outs = [run(network, x, Cond(labels=torch.tensor([n]))).levels[0] for n in (-1, 0, 1, 2)]
    for i, a in enumerate(outs):
        assert all((a - b).abs().max() > 1e-4 for b in outs[:i])
    with torch.no_grad():
        network.label.weight[0] += 1
    again = [run(network, x, Cond(labels=torch.tensor([n]))).levels[0] for n in (-1, 0, 1, 2)]
    same = [torch.equal(a, b) for a, b in zip(outs, again, strict=True)]
    assert same == [False, True, True, True]


@pytest.mark.parametrize("filling", [9.0, float("nan")])
def test_padding_does_not_matter(filling):
    tokens, x = torch.randn(3, 4, 6), image(3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    network = dit("text")
    usual = run(network, x, Cond(tokens=tokens, mask=mask)).levels[0]
    filled = Cond(tokens=torch.where(mask[..., None], tokens, filling), mask=mask)
    assert torch.equal(run(network, x, filled).levels[0], usual)
    shorter = Cond(tokens=tokens[:, :3], mask=mask[:, :3])
    torch.testing.assert_close(run(network, x, shorter).levels[0], usual)
    told = network.prepare(filled)
    assert not told.embedding[2].any()  # no words
    told.embedding.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.text.parameters())


def test_an_upsampler_predicts_the_channels_of_the_noisy_image_alone():
    network, x = dit(learned_variance=True, low_channels=1), image(2)
    out = run(network, x, Cond(low=torch.zeros(2, 1, 8, 8)))
    assert out.levels[0].shape == out.variance[0].shape == x.shape


def test_a_learned_variance_is_trained_by_the_bound_and_read_by_the_sampler():
    method = tiny.method(
        "end_to_end",
        resolutions=(8,),
        denoiser={**tiny.denoiser_node("dit"), "learned_variance": True},
        objective={"vlb": 1.0},
        sampling={"steps": 3, "rule": {"name": "ancestral", "variance": "learned"}},
    )
    stage, batch = tiny.randomised(method).stages[0], tiny.batch("class", side=8)
    heads = {}
    for weight in (1.0, 0.0):
        stage.objective = replace(stage.objective, vlb=weight)
        stage.zero_grad()
        stage(batch, stage.draw(batch, tiny.noise())).total.backward()
        heads[weight] = stage.denoiser.head.weight.grad.unflatten(0, (4, 6))
    assert torch.equal(heads[1.0][:, :3], heads[0.0][:, :3])  # the prediction's
    assert heads[1.0][:, 3:].abs().amax(dim=(0, 2)).min() > 0 and not heads[0.0][:, 3:].any()
    first = method.sample(Request(2, noise=tiny.noise()))[8]
    with torch.no_grad():
        stage.denoiser.head.bias.view(4, 6)[:, 3:] += 1
    second = method.sample(Request(2, noise=tiny.noise()))[8]
    assert torch.isfinite(first).all() and not torch.allclose(first, second)


def test_half_precision_runs():
    network, cond = dit("text", learned_variance=True).bfloat16(), tiny.cond("text", 2)
    told = Cond(tokens=cond.tokens.bfloat16(), mask=cond.mask)
    out = run(network, image().bfloat16(), told).levels[0]
    assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()


def test_mixed_precision_keeps_the_residual_stream_in_the_dtype_of_the_weights():
    """As the float32 table of positions of the official network does."""
    network, seen = dit("class"), []
    for block in network.blocks:
        block.register_forward_hook(lambda block, inputs, output: seen.append((inputs[0], output)))
    with torch.autocast("cpu", torch.bfloat16):
        run(network, image(), tiny.cond("class", 2))
    assert seen and all(part.dtype == torch.float32 for pair in seen for part in pair)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"width 16 with 3 heads"),
        ({"width": 6}, r"width 6 with 2 heads.*of 4"),
        ({"patches": 2}, r"no option 'patches', did you mean 'patch'"),
        ({"clock": {"name": "step"}}, r"unknown clock 'step', did you mean 'steps'"),
    ],
)
def test_bad_options_are_refused_at_build(options, message):
    with pytest.raises(ValueError, match=message):
        dit(**options)
