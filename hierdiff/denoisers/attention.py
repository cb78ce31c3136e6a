"""Attention, softmax(q k^T / sqrt(d)) v, by the fastest of torch's kernels that is right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attended(
    q: Float[Tensor, "b m n d"],
    k: Float[Tensor, "b m l d"],
    v: Float[Tensor, "b m l d"],
    mask: Bool[Tensor, "b 1 #n l"] | None = None,
) -> Float[Tensor, "b m n d"]:
    """Attention of n queries to l keys and values, in m heads of d features; mask: True where seen.

    Trained on a CPU in bfloat16 it is computed in float32: the gradient of torch's kernel takes
    several times as long in bfloat16.
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not slow or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        h = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    return h.to(q.dtype)
