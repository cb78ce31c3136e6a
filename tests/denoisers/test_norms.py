"""The compiled norm against torch's gradients in float64, and what must not change its bits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hierdiff.denoisers import norms
from hierdiff.denoisers.norms import GroupNorm, GroupNormSiLU
from tests import tiny

LAST = torch.channels_last
compiled = pytest.mark.skipif(
    norms.kernel(torch.float32) is None, reason="no C compiler whose code can be loaded"
)
SHAPES = [  # b, c, h, w, groups
    (1, 8, 1, 1, 2),
    (3, 8, 1, 1, 8),
    (1, 13, 5, 3, 13),
    (3, 24, 7, 9, 3),
    (1, 32, 64, 64, 8),
    (3, 64, 33, 16, 32),
    (1, 256, 8, 8, 1),
]
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 4e-3}  # bfloat16 rounds to 2^-9 = 2e-3


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(seed: int, shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.0) -> Tensor:
    return (noise(seed, *shape) + mean).to(dtype).contiguous(memory_format=LAST)


def results(norm, x: Tensor, film: Tensor | None, along: Tensor) -> list[Tensor]:
    """y and the gradients of x, weight, bias and film."""
    given = [x.requires_grad_(), norm.weight, norm.bias]
    if film is None:
        y = norm(x)
    else:
        given.append(film.requires_grad_())
        y = norm(x, film)
    return [y.detach(), *torch.autograd.grad(y, given, along)]


def plain(norm, x: Tensor, film: Tensor | None) -> Tensor:
    y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if film is not None:
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return F.silu(y) if isinstance(norm, GroupNormSiLU) else y


def exact(norm, x: Tensor, film: Tensor | None, along: Tensor) -> list[Tensor]:
    """`results` by torch in float64, channels first."""
    wide = type(norm)(norm.num_groups, norm.num_channels).double()
    wide.load_state_dict(norm.state_dict())
    x, film, along = (
        None if part is None else part.detach().double().contiguous() for part in (x, film, along)
    )
    wide.forward = lambda x, film=None: plain(wide, x, film)
    return results(wide, x, film, along)


def share(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).norm() / true.norm().clamp(min=1e-9))


@compiled
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["norm", "silu", "modulated"])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_the_kernel_computes_what_torch_does_in_float64(dtype, shape, form, mean):
    b, c, h, w, groups = shape
    if mean and dtype == torch.bfloat16:
        mean = 10.0  # of 100 it has no digits left for a deviation of 1
    norm = tiny.randomised(GroupNorm(groups, c) if form == "norm" else GroupNormSiLU(groups, c))
    x, along = images(0, (b, c, h, w), dtype, mean), images(1, (b, c, h, w), dtype)
    film = noise(2, b, 2 * c).to(dtype) if form == "modulated" else None
    assert norms.has_kernel(x)
    for found, true in zip(results(norm, x, film, along), exact(norm, x, film, along), strict=True):
        if true.norm() > 1e-6 * along.norm():  # else it is zero, and the rest is rounding
            assert share(found, true) < LIMITS[dtype]
        assert found.dtype in (dtype, torch.float32)


@compiled
def test_the_kernel_without_gradients_is_that_with_them():
    norm, x, film = (
        tiny.randomised(GroupNormSiLU(2, 8)),
        images(0, (2, 8, 4, 4), torch.float32),
        noise(1, 2, 16).float(),
    )
    with torch.no_grad():
        assert torch.equal(norm(x, film), norm(x.requires_grad_(), film).detach())
    with torch.inference_mode():
        assert norm(x, film).is_contiguous(memory_format=LAST)


@compiled
def test_sigmoid_is_right_far_from_zero():
    """Where e^z leaves the range of float32, and what is no number stays none."""
    values = torch.tensor([-1e4, -200.0, -88.5, -87.0, -20.0, 0.0, 20.0, 87.0, 88.5, 200.0, 1e4])
    film = torch.cat([torch.full((11, 4), -1.0), values[:, None].expand(11, 4)], 1)
    norm, x = GroupNormSiLU(1, 4), images(0, (11, 4, 2, 2), torch.float32)
    found = norm(x, film)
    torch.testing.assert_close(
        found, F.silu(values)[:, None, None, None].expand_as(found), rtol=3e-7, atol=1e-30
    )


@compiled
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen_in_its_group_and_nowhere_else(dtype, value):
    norm, x = GroupNormSiLU(2, 8), images(0, (2, 8, 3, 3), dtype)
    x[0, 5, 1, 1] = value
    y, dx, *_ = results(norm, x, None, torch.ones_like(x))
    for part in (y, dx):
        assert part[0, 4:].isnan().all()
        assert part[0, :4].isfinite().all() and part[1].isfinite().all()


@compiled
@pytest.mark.parametrize("dtype", LIMITS)
def test_an_example_has_its_bits_whatever_the_batch_and_the_threads(dtype, monkeypatch):
    norm = tiny.randomised(GroupNormSiLU(4, 16))
    x, along = (images(seed, (3, 16, 20, 20), dtype) for seed in (0, 1))
    film = noise(2, 3, 32).float()

    def parts(threads: int, chosen: slice) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        found = results(norm, *(t[chosen].detach() for t in (x, film, along)))
        return [found[0], found[1], found[4]]  # the others are sums over examples

    whole = parts(1, slice(3))
    for threads in (1, 2, 5):
        for found, one in zip(parts(threads, slice(3)), whole, strict=True):
            assert torch.equal(found, one)
        for found, one in zip(parts(threads, slice(1, 2)), whole, strict=True):
            assert torch.equal(found, one[1:2])


@compiled
def test_gradients_of_another_form_in_memory_are_taken():
    norm, x = GroupNorm(2, 8), images(0, (2, 8, 4, 4), torch.float32)
    along = torch.ones(()).expand(2, 8, 4, 4)  # as that of a sum is
    last, first = images(1, (2, 8, 4, 4), torch.float32), noise(1, 2, 8, 4, 4).float()
    for one, other in ((along, along.contiguous()), (last, first)):
        for found, same in zip(
            results(norm, x, None, one), results(norm, x, None, other), strict=True
        ):
            assert torch.equal(found, same)


def test_without_a_kernel_torch_computes_the_same(monkeypatch):
    norm, x, along = (
        tiny.randomised(GroupNormSiLU(2, 8)),
        *(images(s, (2, 8, 4, 4), torch.float32) for s in (0, 1)),
    )
    film = noise(2, 2, 16).float()
    here = results(norm, x, film, along)
    monkeypatch.setattr(norms, "kernel", lambda dtype: None)
    for found, one in zip(results(norm, x, film, along), here, strict=True):
        assert share(found, one.double()) < 2e-6


def test_images_of_other_channels_are_refused():
    for norm, film in ((GroupNormSiLU(2, 4), None), (GroupNormSiLU(2, 8), noise(0, 2, 8).float())):
        with pytest.raises(RuntimeError):
            norm(images(0, (2, 8, 4, 4), torch.float32), film)


def test_what_must_be_seen_by_torch_does_not_reach_the_kernel():
    x = images(0, (2, 8, 4, 4), torch.float32)
    assert not norms.has_kernel(x.double())
    assert not norms.has_kernel(x[:0])
    assert not norms.has_kernel(x, torch.ones(8, device="meta"))
    assert not norms.has_kernel(x, None)
    with FlopCounterMode(display=False):
        assert not norms.has_kernel(x)
    seen = []
    torch.func.vmap(lambda one: seen.append(norms.has_kernel(one)) or one)(x[None])
    assert seen == [False]
