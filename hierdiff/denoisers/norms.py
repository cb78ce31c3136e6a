"""Group normalisation with what follows it: modulation by a vector, and SiLU.

torch has no kernel for the three together, and on a CPU each of its own is a pass over memory that
takes as long as a small convolution; the gradient of its group normalisation, for images that are
channels last in memory, takes several times as long. Here, for such images, the forward pass keeps
one tensor, the normalised one, and the backward pass computes the rest anew from it in few passes:

    y = silu(z), z = a n + b, n = (x - mean) / std,
    dx = (a dz - mean(a dz) - n mean(a dz n)) / std, means over each group.

Elsewhere (a GPU, channels first, under the compiler, which fuses by itself) torch's own operations
are called.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

SMALL = 1024  # pixels below which torch's kernel for channels last in bfloat16 is slow


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, as fast on a CPU with channels last in memory as with channels first."""

    @override
    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not is_last_on_cpu(input):
            return super().forward(input)
        options = self.num_groups, self.eps
        if torch.is_grad_enabled():
            return Normalised.apply(input, self.weight, self.bias, None, *options, False)
        return normalised(input, *options, self.weight, self.bias)[0]


class GroupNormSiLU(nn.GroupNorm):
    """silu((1 + scale) norm(x) + shift); without scale and shift, silu(norm(x))."""

    @override
    def forward(
        self, x: Float[Tensor, "b c h w"], scale_shift: Float[Tensor, "b two_c"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """scale_shift: scale, then shift of each example and channel."""
        if is_last_on_cpu(x):
            return self._fused(x, scale_shift)
        h = super().forward(x)
        if scale_shift is not None:
            scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.silu(h)

    def _fused(self, x: Tensor, scale_shift: Tensor | None) -> Tensor:
        options = self.num_groups, self.eps
        if torch.is_grad_enabled():
            return Normalised.apply(x, self.weight, self.bias, scale_shift, *options, True)
        if scale_shift is None:
            return F.silu(normalised(x, *options, self.weight, self.bias)[0], inplace=True)
        a, b = factors(self.weight, self.bias, scale_shift, x.dtype)
        return F.silu(torch.addcmul(b, normalised(x, *options)[0], a), inplace=True)


def is_last_on_cpu(x: Tensor) -> bool:
    """Whether x are images that are channels last in a CPU's memory, outside of the compiler."""
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


class Normalised(torch.autograd.Function):
    """The function at the top of this file, its gradient once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale_shift: Tensor | None,
        groups: int,
        eps: float,
        activation: bool,
    ) -> Tensor:
        """y; the shapes are those of `GroupNormSiLU`."""
        normal, rstd = normalised(x, groups, eps)
        a, b = factors(weight, bias, scale_shift, x.dtype)
        ctx.save_for_backward(normal, rstd, a, b, weight, bias, scale_shift)
        ctx.activation = activation
        y = torch.addcmul(b, normal, a)
        return F.silu(y, inplace=True) if activation else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, bias and scale_shift."""
        normal, rstd, a, b, weight, bias, scale_shift = ctx.saved_tensors
        if ctx.activation:
            gradient = torch.ops.aten.silu_backward(gradient, torch.addcmul(b, normal, a))
        sums = gradient.sum((2, 3)).to(weight.dtype)  # of b, for each example
        products = (gradient * normal).sum((2, 3)).to(weight.dtype)  # of a
        dx = None
        if ctx.needs_input_grad[0]:
            dx = input_gradient(gradient, normal, rstd, a, sums, products)
        if scale_shift is None:
            return dx, products.sum(0), sums.sum(0), None, None, None, None
        scale = 1 + scale_shift[:, : len(weight)].to(weight.dtype)
        d_scale = products * weight + sums * bias
        both = torch.cat([d_scale, sums], dim=1).to(scale_shift.dtype)
        return dx, (products * scale).sum(0), (sums * scale).sum(0), both, None, None, None


def normalised(
    x: Tensor, groups: int, eps: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Images with mean 0 and variance 1 in each group, by weight and bias, and 1 / std
    (b, groups)."""
    b, c, h, w = x.shape
    if x.dtype == torch.bfloat16 and h * w < SMALL:
        x = x.contiguous()
    y, _, rstd = torch.native_group_norm(x, weight, bias, b, c, h * w, groups, eps)
    return y.contiguous(memory_format=torch.channels_last), rstd


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
