"""The plain twin: the networks and steps of `hierdiff` written the way that is read most easily.

It holds the same weights and computes the same numbers: normalisation, modulation and activation
one after another; attention as two matrix products around a softmax, in float32; noise levels as
images; the text read in every call; guidance as two calls; an optimizer, clipping and averages that
visit one parameter after another. What it leaves out is speed, which is measured against it. It
lives here and not among the tests, so that the installed command has it; the tests compare with it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Batch, Cond
from hierdiff.denoisers import Denoiser, dit, layers, ldm_unet, norms, rin, unet
from hierdiff.levels import Levels
from hierdiff.methods.diffusion import Diffusion
from hierdiff.noise import Noise
from hierdiff.objective import Draws
from hierdiff.parameterization import target, to_x0_eps
from hierdiff.training.recipe import Recipe

M = TypeVar("M", bound=nn.Module)


def attended(
    q: Float[Tensor, "b m n d"],
    k: Float[Tensor, "b m l d"],
    v: Float[Tensor, "b m l d"],
    mask: Bool[Tensor, "b 1 1 l"] | None = None,
) -> Float[Tensor, "b m n d"]:
    """softmax(q k^T / sqrt(d)) v in float32, or in the precision of q if that is higher."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(dim=-1) @ v.to(dtype)).to(v.dtype)


class PlainGroupNormSiLU(norms.GroupNormSiLU):
    """`GroupNormSiLU`, one operation after another."""

    @override
    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        h = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if scale_shift is not None:
            scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.silu(h)


class PlainAttentionBlock(layers.AttentionBlock):
    """`AttentionBlock` with explicit attention; its text is added, not joined."""

    @override
    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        heads = "b (n m d) h w -> n b m (h w) d"
        q, k, v = rearrange(self.qkv(self.norm(x)), heads, n=3, m=self.heads)
        h = attended(q, k, v)
        if context is not None:
            k, v = rearrange(context, "b l (n m d) -> n b m l d", n=2, m=self.heads)
            h = h + attended(q, k, v, None if mask is None else mask[:, None, None])
        x = x + self.out(rearrange(h, "b m (h w) d -> b (m d) h w", w=x.shape[-1]))
        return x if self.ffn is None else x + self.ffn(x)


class PlainDiTBlock(dit.DiTBlock):
    """`DiTBlock` with explicit attention."""

    @override
    def _attended(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b l (n m d) -> n b m l d", n=3, m=self.heads)
        return rearrange(attended(q, k, v), "b m l d -> b l (m d)")


class PlainTransformerBlock(ldm_unet.TransformerBlock):
    """`TransformerBlock` with explicit attention."""

    @override
    def forward(self, x: Tensor, keys_values: Tensor | None, context: ldm_unet.Context) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b l (n m d) -> n b m l d", n=3, m=self.heads)
        x = x + self.out(rearrange(attended(q, k, v), "b m l d -> b l (m d)"))
        if keys_values is not None:
            q = rearrange(self.query(self.norm2(x)), "b l (m d) -> b m l d", m=self.heads)
            k, v = rearrange(keys_values, "b l (n m d) -> n b m l d", n=2, m=self.heads)
            x = x + self.read(rearrange(attended(q, k, v, context.mask), "b m l d -> b l (m d)"))
        h, gate = self.expand(self.norm3(x)).chunk(2, dim=-1)
        return x + self.contract(h * F.gelu(gate))


class PlainMultiHeadAttention(rin.MultiHeadAttention):
    """`MultiHeadAttention` with explicit attention."""

    @override
    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        q = rearrange(self.q(x), "b n (h s) -> b h n s", h=self.heads)
        k, v = rearrange(self.kv(source), "b m (two h s) -> two b h m s", two=2, h=self.heads)
        h = attended(q, k, v, None if mask is None else mask[:, None, None])
        return self.out(rearrange(h, "b h n s -> b n (h s)"))


PLAIN: dict[type[nn.Module], type[nn.Module]] = {  # layer: its plain form, of the same weights
    norms.GroupNorm: nn.GroupNorm,
    norms.GroupNormSiLU: PlainGroupNormSiLU,
    layers.AttentionBlock: PlainAttentionBlock,
    dit.DiTBlock: PlainDiTBlock,
    ldm_unet.TransformerBlock: PlainTransformerBlock,
    rin.MultiHeadAttention: PlainMultiHeadAttention,
}


def plain_network(network: M) -> M:
    """A copy of a network, channels first in memory, whose layers are in their plain form.

    Raises:
        ValueError: for layers that have no plain form.
    """
    twin = deepcopy(network)
    for part in twin.modules():
        if type(part) is unet.TextAttentionBlock or getattr(part, "joint", False):
            raise ValueError(
                f"{type(part).__name__} has no plain form: measure a layout with self-attention "
                f"to which the text is added"
            )
        part.__class__ = PLAIN.get(type(part), type(part))
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.data.contiguous()
    return twin


class PlainTraining:
    """Training steps of a stage, as `TrainingStep` does them with the learning rate 0.

    stage: whose network is copied. The loss is a mean square in the objective's loss space.
    """

    def __init__(self, stage: Diffusion, recipe: Recipe):
        self.stage, self.recipe = stage, recipe
        self.network: Denoiser = plain_network(stage.denoiser).train()
        self.weights = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=0.0,
            betas=(recipe.betas[0], recipe.betas[1]),
            weight_decay=recipe.weight_decay,
            foreach=False,
        )
        self.averages = [weight.detach().clone() for weight in self.weights]

    def __call__(self, batch: Batch, draws: Draws) -> Tensor:
        """The loss of a step, after it was taken."""
        self.optimizer.zero_grad()
        with torch.autocast(
            batch.images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16-mixed"
        ):
            loss = plain_loss(self.stage, self.network, batch, draws)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self.recipe.clip, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for average, weight in zip(self.averages, self.weights, strict=True):
                average.lerp_(weight, 0.01)
        return loss.detach()


def planes(values: Float[Tensor, "b levels"], x: Levels) -> Levels:
    """A number for each example and level as images, with the number in every pixel."""
    return tuple(
        values[:, i, None, None, None].to(level).expand_as(level).contiguous()
        for i, level in enumerate(x)
    )


def plain_loss(stage: Diffusion, network: Denoiser, batch: Batch, draws: Draws) -> Tensor:
    """The mean square of each level in the objective's loss space, times its factor, summed."""
    objective: Any = stage.objective
    form = objective.parameterization
    x0 = stage.encode(batch.images)
    log_snr = stage.process.log_snr(draws.t)
    coefficients = stage.process.coefficients(log_snr)
    alpha, sigma = (planes(values, x0) for values in coefficients)
    x_t = tuple(a * x + s * e for x, e, a, s in zip(x0, draws.eps, alpha, sigma, strict=True))
    cond = network.prepare(batch.cond.dropped(draws.drop))
    levels = network(form.scaled(x_t, *coefficients), log_snr.clamp(-30, 30), cond).levels
    total = x0[-1].new_zeros(())
    parts = zip(objective.level_factors(x0), levels, x0, draws.eps, x_t, alpha, sigma, strict=True)
    for factor, level, x, eps, noisy, a, s in parts:
        clean, noise = to_x0_eps(form.prediction, level.to(x.dtype), noisy, a, s)
        space = objective.loss_space
        error = target(space, clean, noise, a, s) - target(space, x, eps, a, s)
        total = total + factor * (error**2).mean()
    return total


class PlainSampling:
    """Samples of a stage by DDIM, clipped to [-1, 1], with two calls of the network for guidance.

    stage: whose network is copied.
    """

    def __init__(self, stage: Diffusion):
        self.stage = stage
        self.network: Denoiser = plain_network(stage.denoiser).eval()

    @torch.no_grad()
    def __call__(self, cond: Cond, n: int, noise: Noise, steps: int, guidance: float) -> Levels:
        """The levels of n images."""
        process = self.stage.process
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        without = cond.dropped(torch.ones(n, dtype=torch.bool, device=self.stage.device))
        _, last = process.alpha_sigma(torch.ones(1, dtype=torch.float64))
        shapes = zip(last[0].tolist(), self.stage.shapes(), strict=True)
        x = tuple(sigma * noise((n, *shape)) for sigma, shape in shapes)
        for t, s in zip(times[:-1], times[1:], strict=True):
            now, then = (process.log_snr(v.to(x[-1]).expand(n)) for v in (t, s))
            clean = self.clean(x, now, cond)
            if guidance != 1:
                weak = self.clean(x, now, without)
                clean = tuple(w + guidance * (c - w) for c, w in zip(clean, weak, strict=True))
            here, there = ([planes(v, x) for v in process.coefficients(m)] for m in (now, then))
            moved = []
            for level, x0, a, b, c, d in zip(x, clean, *here, *there, strict=True):
                x0 = x0.clamp(-1, 1)
                moved.append(c * x0 + d * (level - a * x0) / b)
            x = tuple(moved)
        return x

    def clean(self, x: Levels, log_snr: Float[Tensor, "b levels"], cond: Cond) -> Levels:
        """The clean levels that the network sees in x; it reads the conditions anew."""
        form = self.stage.objective.parameterization
        coefficients = self.stage.process.coefficients(log_snr)
        scaled, limited = form.scaled(x, *coefficients), log_snr.clamp(-30, 30)
        levels = self.network(scaled, limited, self.network.prepare(cond)).levels
        parts = zip(levels, x, *(planes(v, x) for v in coefficients), strict=True)
        return tuple(
            to_x0_eps(form.prediction, level.to(noisy.dtype), noisy, a, s)[0]
            for level, noisy, a, s in parts
        )
