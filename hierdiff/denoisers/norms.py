"""Group normalisation with what follows it: modulation by a vector, and SiLU.

torch has no kernel for the three together, and on a CPU each of its own is a pass over memory that
takes as long as a small convolution; the gradient of its group normalisation, for images that are
channels last in memory, takes several times as long. Here, for such images,

    y = silu(z), z = a n + b, n = (x - mean) / std,
    dx = (a dz - mean(a dz) - n mean(a dz n)) / std, means over each group.

`Fused` computes them by a kernel of our own, norms.c, which keeps x for the gradient and reads it
twice in each pass. Where that cannot be compiled, and for float64, `Normalised` does it by torch's
operations: the forward pass keeps one tensor, the normalised one, and the backward pass computes
the rest anew from it in few passes.

Elsewhere (a GPU, channels first, under the compiler, which fuses by itself) torch's own operations
are called.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from hierdiff import native

SOURCE = Path(__file__).with_name("norms.c")
LAST = torch.channels_last
Options = tuple[int, float, bool]  # groups, eps, whether SiLU follows
SMALL = 1024  # pixels below which torch's kernel for channels last in bfloat16 is slow


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, as fast on a CPU with channels last in memory as with channels first."""

    @override
    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not is_last_on_cpu(input):
            return super().forward(input)
        return applied(self, input, None, False)


class GroupNormSiLU(nn.GroupNorm):
    """silu((1 + scale) norm(x) + shift); without scale and shift, silu(norm(x))."""

    @override
    def forward(
        self, x: Float[Tensor, "b c h w"], scale_shift: Float[Tensor, "b two_c"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """scale_shift: scale, then shift of each example and channel."""
        if is_last_on_cpu(x):
            return applied(self, x, scale_shift, True)
        h = super().forward(x)
        if scale_shift is not None:
            scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.silu(h)


def applied(norm: nn.GroupNorm, x: Tensor, scale_shift: Tensor | None, silu: bool) -> Tensor:
    """The function at the top of this file, of images for which `is_last_on_cpu`."""
    weight, bias, form = norm.weight, norm.bias, (norm.num_groups, norm.eps)
    if has_kernel(x, weight, bias, *(() if scale_shift is None else (scale_shift,))):
        return Fused.apply(x, weight, bias, scale_shift, (*form, silu))
    if torch.is_grad_enabled():
        return Normalised.apply(x, weight, bias, scale_shift, (*form, silu))
    if scale_shift is None:
        y = normalised(x, *form, weight, bias)[0]
    else:
        a, b = factors(weight, bias, scale_shift, x.dtype)
        y = torch.addcmul(b, normalised(x, *form)[0], a)
    return F.silu(y, inplace=True) if silu else y


def is_last_on_cpu(x: Tensor) -> bool:
    """Whether x are images that are channels last in a CPU's memory, outside of the compiler."""
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and x.ndim == 4 and x.is_contiguous(memory_format=LAST)


def has_kernel(x: Tensor, *vectors: Tensor | None) -> bool:
    """Whether the kernel takes these images and vectors: numbers in memory that nothing looks at on
    the way, as modes that count operations and transforms (`torch.func`) do."""
    seen = torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack()
    plain = all(type(t) in (Tensor, nn.Parameter) and t.is_cpu for t in (x, *vectors))  # type: ignore
    known = x.dtype in (torch.float32, torch.bfloat16) and x.numel() > 0
    return plain and known and not seen and kernel(x.dtype) is not None


@functools.cache
def kernel(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The library of norms.c for images of this type."""
    return native.library(SOURCE, f"HALF={int(dtype == torch.bfloat16)}")


class Fused(torch.autograd.Function):
    """The function at the top of this file by one call each way, its gradient once
    differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale_shift: Tensor | None,
        options: Options,
    ) -> Tensor:
        """y; the shapes are those of `GroupNormSiLU`."""
        stats = x.new_empty((len(x), options[0], 2), dtype=torch.float64)  # mean and 1 / std
        ctx.save_for_backward(x, stats, weight, bias, scale_shift)
        ctx.options = options
        return called(x, None, weight, bias, scale_shift, stats, None, options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, bias and scale_shift."""
        x, stats, weight, bias, scale_shift = ctx.saved_tensors
        sums = stats.new_empty((len(x), 2, x.shape[1]), dtype=torch.float32)
        dx = called(x, gradient, weight, bias, scale_shift, stats, sums, ctx.options)
        rest = factor_gradients(sums[:, 0], sums[:, 1], weight, bias, scale_shift)
        return dx, *rest, None


def called(
    x: Tensor,
    gradient: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    scale_shift: Tensor | None,
    stats: Tensor,
    sums: Tensor | None,
    options: Options,
) -> Tensor:
    """y, and `stats` are written; or with the gradient of y that of x, and `sums` are written.

    sums: of dz and dz n over pixels (b, 2, c).

    Raises:
        MemoryError: where there is no memory for sums.
    """
    x = x.contiguous(memory_format=LAST)
    if gradient is not None:
        gradient = gradient.to(x.dtype).contiguous(memory_format=LAST)
    (b, c, h, w), (groups, eps, silu) = x.shape, options
    sized = ((weight, (c,)), (bias, (c,)), (scale_shift, (b, 2 * c)))  # others cannot be expanded
    vectors = [None if v is None else v.float().expand(size).contiguous() for v, size in sized]
    result = torch.empty_like(x)
    tensors = (result, stats, sums, x, gradient, *vectors)
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    sizes = [ctypes.c_long(n) for n in (b, h * w, c, groups, silu, torch.get_num_threads())]
    library = kernel(x.dtype)
    assert library is not None
    if library.group_norm(*pointers, ctypes.c_double(eps), *sizes):
        raise MemoryError(f"no memory for the sums of a group norm of {b} x {c} channels")
    return result


class Normalised(torch.autograd.Function):
    """The function at the top of this file, its gradient once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale_shift: Tensor | None,
        options: Options,
    ) -> Tensor:
        """y; the shapes are those of `GroupNormSiLU`."""
        groups, eps, ctx.silu = options
        normal, rstd = normalised(x, groups, eps)
        a, b = factors(weight, bias, scale_shift, x.dtype)
        ctx.save_for_backward(normal, rstd, a, b, weight, bias, scale_shift)
        y = torch.addcmul(b, normal, a)
        return F.silu(y, inplace=True) if ctx.silu else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, bias and scale_shift."""
        normal, rstd, a, b, weight, bias, scale_shift = ctx.saved_tensors
        if ctx.silu:
            gradient = torch.ops.aten.silu_backward(gradient, torch.addcmul(b, normal, a))
        sums = gradient.sum((2, 3)).to(weight.dtype)  # of b, for each example
        products = (gradient * normal).sum((2, 3)).to(weight.dtype)  # of a
        dx = None
        if ctx.needs_input_grad[0]:
            dx = input_gradient(gradient, normal, rstd, a, sums, products)
        rest = factor_gradients(sums, products, weight, bias, scale_shift)
        return dx, *rest, None


def factor_gradients(
    sums: Tensor, products: Tensor, weight: Tensor, bias: Tensor, scale_shift: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of weight, bias and scale_shift; sums, products: of dz and dz n, (b, c)."""
    if scale_shift is None:
        return products.sum(0).to(weight.dtype), sums.sum(0).to(bias.dtype), None
    scale = 1 + scale_shift[:, : len(weight)].to(sums.dtype)
    both = torch.cat([products * weight + sums * bias, sums], dim=1).to(scale_shift.dtype)
    return (products * scale).sum(0).to(weight.dtype), (sums * scale).sum(0).to(bias.dtype), both


def normalised(
    x: Tensor, groups: int, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Images with mean 0 and variance 1 in each group, by weight and bias, and 1 / std
    (b, groups)."""
    b, c, h, w = x.shape
    if x.dtype == torch.bfloat16 and h * w < SMALL:
        x = x.contiguous()
    y, _, rstd = torch.native_group_norm(x, weight, bias, b, c, h * w, groups, eps)
    return y.contiguous(memory_format=LAST), rstd


def factors(
    weight: Tensor, bias: Tensor, scale_shift: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(a, b) of z = a n + b in the shape (b or 1, c, 1, 1)."""
    if scale_shift is None:
        a, b = weight[None], bias[None]
    else:
        scale, shift = scale_shift.to(weight.dtype).chunk(2, dim=1)
        a, b = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
    return a.to(dtype)[:, :, None, None], b.to(dtype)[:, :, None, None]


def input_gradient(
    gradient: Tensor, normal: Tensor, rstd: Tensor, a: Tensor, sums: Tensor, products: Tensor
) -> Tensor:
    """The dx of the formula at the top. gradient: dz; sums, products: of dz and dz n, (b, c)."""
    b, c, h, w = normal.shape
    groups = rstd.shape[1]
    rstd = rstd.to(sums.dtype)
    flat = a[:, :, 0, 0].to(sums.dtype)

    def group_mean(values: Tensor) -> Tensor:
        parts = (flat * values).view(b, groups, -1).sum(-1) / (h * w * c // groups)
        return (parts * rstd).repeat_interleave(c // groups, dim=1).to(normal.dtype)

    per_channel = rstd.repeat_interleave(c // groups, dim=1)
    factor = (flat * per_channel).to(normal.dtype)[:, :, None, None]
    mean, slope = (group_mean(v)[:, :, None, None] for v in (sums, products))
    dx = torch.addcmul(mean.neg_(), normal, slope, value=-1)
    return dx.addcmul_(gradient, factor)
