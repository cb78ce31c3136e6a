"""The fast paths against their plain twin: equal numbers, by other operations."""

import pytest
import torch
from torch import nn

from benchmarks.speed.case import Case
from benchmarks.speed.layouts import LAYOUTS, method_of
from benchmarks.speed.pair import Ours, Plain, untrained
from benchmarks.speed.plain import attended as plain_attention
from benchmarks.speed.plain import plain_network
from hierdiff.denoisers.attention import attended
from hierdiff.denoisers.norms import GroupNorm, GroupNormSiLU
from hierdiff.methods.method import on_shapes
from hierdiff.samplers.ddim import DDIM
from hierdiff.training.layout import with_channels_last
from tests import tiny

LAST = torch.channels_last
# of bfloat16, which rounds to 2^-9 = 0.2 %: root mean square error over root mean square
ROUNDING = 0.01


def share(found: torch.Tensor, exact: torch.Tensor) -> float:
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())


def images(dtype: torch.dtype, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, side, side, generator=generator, dtype=torch.float64) * 2 + 1
    return x.to(dtype).contiguous(memory_format=LAST).requires_grad_()


def norm_of(layer: type[nn.GroupNorm]) -> nn.GroupNorm:
    return tiny.randomised(layer(4, 8))


def gradients(norm: nn.Module, x: torch.Tensor, scale_shift: torch.Tensor | None) -> list:
    given = [part for part in (x, *norm.parameters(), scale_shift) if part is not None]
    y = norm(x) if scale_shift is None else norm(x, scale_shift)
    along = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    return [y, *torch.autograd.grad(y, given, along.to(y.dtype))]


@pytest.mark.parametrize("modulated", [False, True])
def test_gradients_of_the_fused_norm_are_those_of_finite_differences(modulated):
    norm = norm_of(GroupNormSiLU).double()
    parts = [images(torch.float64, side=2)]
    parts += [torch.randn(2, 16, dtype=torch.float64, requires_grad=True)] if modulated else []
    assert torch.autograd.gradcheck(norm, tuple(parts))


@pytest.mark.parametrize("layer", [GroupNorm, GroupNormSiLU])
@pytest.mark.parametrize("side", [8, 40])  # on both sides of SMALL
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, ROUNDING)])
def test_fused_norms_are_those_of_torch(layer, side, dtype, limit):
    fused, x = norm_of(layer), images(dtype, side)
    plain = plain_network(nn.ModuleList([fused]))[0].double()
    exact = gradients(plain, x.detach().double().contiguous().requires_grad_(), None)
    for part, one in zip(gradients(fused, x, None), exact, strict=True):
        assert share(part, one) < limit
    with torch.no_grad():
        assert share(fused(x), exact[0]) < limit
        assert fused(x).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, ROUNDING)])
def test_modulation_is_that_of_the_plain_twin(dtype, limit):
    fused, x = norm_of(GroupNormSiLU), images(dtype)
    plain = plain_network(nn.ModuleList([fused]))[0].double()
    scale_shift = torch.linspace(-1, 1, 32).reshape(2, 16).to(dtype).requires_grad_()
    doubles = [part.detach().double().requires_grad_() for part in (x, scale_shift)]
    exact = gradients(plain, doubles[0].contiguous(), doubles[1])
    for part, one in zip(gradients(fused, x, scale_shift), exact, strict=True):
        assert share(part, one) < limit
    with torch.no_grad():
        assert share(fused(x, scale_shift), exact[0]) < limit


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, ROUNDING)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_two_products_and_a_softmax(dtype, limit, masked):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, n, 8, generator=generator).to(dtype).requires_grad_() for n in (5, 7, 7)
    )
    mask = (torch.arange(7) < 4)[None, None, None].expand(2, 1, 1, 7) if masked else None
    results = []
    for parts, attention in (((q, k, v), attended), ((q, k, v), plain_attention)):
        wide = (
            parts
            if attention is attended
            else [p.detach().double().requires_grad_() for p in parts]
        )
        h = attention(*wide, mask)
        results.append([h, *torch.autograd.grad(h.square().sum(), wide)])
    for part, one in zip(*results, strict=True):
        assert share(part, one) < limit


NAMES = {"unet": 1, "nested_unet": 2, "dit": 1, "ldm_unet": 1, "rin": 1}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["class", "text"])
def test_networks_are_their_plain_twins(name, kind):
    network = tiny.denoiser(name, kind, NAMES[name])
    twin = plain_network(network).double()
    with_channels_last(network)
    x, log_snr = tiny.state(NAMES[name], 2)
    doubles = tuple(level.double() for level in x)
    cond = tiny.cond(kind, 2)
    wide = cond.map(lambda part: part.double() if part.is_floating_point() else part)
    found = network(
        tuple(level.contiguous(memory_format=LAST) for level in x), log_snr, network.prepare(cond)
    )
    exact = twin(doubles, log_snr.double(), twin.prepare(wide))
    for level, one in zip(found.levels, exact.levels, strict=True):
        assert share(level, one) < 1e-5


def small_case(what: str, precision: str = "32-true", **options) -> Case:
    node = tiny.method_node("mdm", (16, 8))
    node["objective"] = {"level_weights": "pixels", "drop": 0.5}
    node["sampling"] = {"rule": {"name": "ddim"}, "threshold": {"name": "static"}}
    return Case("tiny", node, tiny.facts("text"), what, 4, precision, **options)


@pytest.mark.parametrize("what", ["train", "sample", "guided"])
@pytest.mark.parametrize(("precision", "limit"), [("32-true", 1e-5), ("bf16-mixed", 3 * ROUNDING)])
def test_steps_are_those_of_the_plain_twin(what, precision, limit):
    case = small_case(what, precision)
    stage = untrained(case)
    ours, plain = Ours(case, stage), Plain(case, stage)
    if what == "train":  # the trainer draws by step and seed; here both have one noise
        draws = stage.draw(ours.batch, tiny.noise())
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            found = stage(ours.batch, draws).total
        exact = plain.training(plain.batch, draws)
        assert share(found, exact) < limit
        return
    for level, one in zip(ours(), plain(), strict=True):
        assert share(level, one) < limit


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_compose(name):
    facts = {"channels": 3, "classes": 0, "text_width": 0, **LAYOUTS[name].facts}
    stage = on_shapes(method_of(name), offered=facts).stages[-1]
    assert stage.sampling.rule == DDIM()
    plain_network(stage.denoiser)  # raises for a layer without a plain form


def test_the_layout_of_the_ratios_has_the_parameters_that_it_is_named_after():
    facts = {"channels": 3, "classes": 0, **LAYOUTS["mdm_15m"].facts}
    method = on_shapes(method_of("mdm_15m"), offered=facts)
    assert sum(p.numel() for p in method.parameters()) == 14_977_638
