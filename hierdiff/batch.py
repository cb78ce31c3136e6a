"""What data hands to the loss and the denoiser: `Batch` and `Cond`, both registered pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Cond:
    """What a denoiser is told beside the noisy image; every part may be missing.

    labels: class of each example, -1 for none.
    tokens, mask: text states and which of them are words (not padding).
    pooled: one text vector for each example.
    scalars: named numbers, for example `scale` (side of the original image in pixels).
    low: low-resolution image, already at the denoiser's resolution (cascades).
    vector, context: written by a denoiser's `prepare`: what all levels share, and the keys and
    values of its text attention.
    """

    labels: Int[Tensor, " b"] | None = None
    tokens: Float[Tensor, "b l d"] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    pooled: Float[Tensor, "b p"] | None = None
    scalars: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    low: Tensor | None = None
    vector: Float[Tensor, "b w"] | None = None
    context: tuple[Tensor, ...] = ()

    def dropped(self, drop: Bool[Tensor, " b"]) -> Cond:
        """The examples where `drop` holds lose label, text and pooled text; the rest stays."""
        labels = None if self.labels is None else torch.where(drop, -1, self.labels)
        tokens = None if self.tokens is None else self.tokens * ~drop[:, None, None]
        mask = None if self.mask is None else self.mask & ~drop[:, None]
        pooled = None if self.pooled is None else self.pooled * ~drop[:, None]
        return replace(self, labels=labels, tokens=tokens, mask=mask, pooled=pooled)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Cond:
        """`fn` applied to every tensor: moving, slicing, repeating."""
        return pytree.tree_map(fn, self)

    def cat(self, other: Cond) -> Cond:
        """Both batches in one; they must have the same parts."""
        return pytree.tree_map(lambda a, b: torch.cat([a, b]), self, other)


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1], b c h w at the finest resolution, with their conditions."""

    images: Float[Tensor, "b c h w"]
    cond: Cond = field(default_factory=Cond)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        return pytree.tree_map(fn, self)

    def __len__(self) -> int:
        return len(self.images)


for cls in (Cond, Batch):
    pytree.register_dataclass(cls, field_names=[f.name for f in fields(cls)])

NOTHING = Cond()  # no condition at all
