"""What data hands to the loss and the denoiser: `Batch` and `Cond`, both registered pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

LABEL, CAPTION, LOW = "label", "caption", "low"  # names of the conditions that have a field each


@dataclass(frozen=True)
class Cond:
    """The conditions of a batch, each with a name and each optional.

    labels (`label`): class of each example, -1 for none.
    tokens, mask (`caption`): text states, and True where they are words (not padding).
    vectors: named vectors, for example `image_embedding` or `pooled_text`; zeros for none.
    scalars: named numbers, for example `scale` (side of the original image in pixels); NaN for
    none.
    low (`low`): low-resolution image, already at the denoiser's resolution (cascades); zeros for
    none.
    embedding, context: set by a denoiser's `prepare`: a vector that all levels share, and the keys
    and values of its text attention.
    """

    labels: Int[Tensor, " b"] | None = None
    tokens: Float[Tensor, "b l d"] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    vectors: Mapping[str, Float[Tensor, "b _w"]] = field(default_factory=dict)
    scalars: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    low: Tensor | None = None
    embedding: Float[Tensor, "b e"] | None = None
    context: tuple[Tensor, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the conditions that are not None."""
        fields_by_name = {LABEL: self.labels, CAPTION: self.tokens, LOW: self.low}
        present = [name for name, part in fields_by_name.items() if part is not None]
        return (*present, *self.vectors, *self.scalars)

    def dropped(self, drop: Bool[Tensor, " b"] | Mapping[str, Bool[Tensor, " b"]]) -> Cond:
        """The conditions with "none" in the examples where `drop` is True.

        drop: one mask for the label, the caption and all vectors, which classifier-free guidance
        drops together (scalars and the low-resolution image stay), or {condition: mask}.

        Raises:
            ValueError: for the name of a condition that the batch does not have.
        """
        together = dict.fromkeys((LABEL, CAPTION, *self.vectors), drop)
        masks: Mapping[str, Any] = drop if isinstance(drop, Mapping) else together
        if isinstance(drop, Mapping) and (unknown := sorted(set(drop) - set(self.names))):
            raise ValueError(
                f"there is no condition {unknown[0]!r} to drop: the batch has "
                f"{', '.join(self.names) or 'none'}; leave it out of objective.drop"
            )
        parts: dict[str, Any] = {}
        if LABEL in masks and self.labels is not None:
            parts["labels"] = torch.where(masks[LABEL], -1, self.labels)
        if CAPTION in masks and self.tokens is not None:
            parts["tokens"] = self.tokens * ~masks[CAPTION][:, None, None]
        if CAPTION in masks and self.mask is not None:
            parts["mask"] = self.mask & ~masks[CAPTION][:, None]
        if LOW in masks and self.low is not None:
            rows = masks[LOW].reshape(-1, *[1] * (self.low.ndim - 1))
            parts["low"] = torch.where(rows, 0.0, self.low)
        if any(name in masks for name in self.vectors):
            parts["vectors"] = {
                name: torch.where(masks[name][:, None], 0.0, vector) if name in masks else vector
                for name, vector in self.vectors.items()
            }
        if any(name in masks for name in self.scalars):
            parts["scalars"] = {
                name: torch.where(masks[name], torch.nan, value) if name in masks else value
                for name, value in self.scalars.items()
            }
        return replace(self, **parts)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Cond:
        """`fn` applied to every tensor, for example to move, slice or repeat it."""
        return pytree.tree_map(fn, self)

    def is_like(self, other: Cond) -> bool:
        """Whether both have the same conditions, in the same shapes."""
        (mine, own), (theirs, spec) = pytree.tree_flatten(self), pytree.tree_flatten(other)
        return own == spec and [part.shape for part in mine] == [part.shape for part in theirs]

    def cat(self, other: Cond) -> Cond:
        """The rows of both, one after the other; they must have the same conditions."""
        return pytree.tree_map(lambda a, b: torch.cat([a, b]), self, other)


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1] at the finest resolution, with their conditions.

    Sides are h w for images, f h w for clips. stills: images that are trained beside clips, under
    conditions of their own; None for none.
    """

    images: Float[Tensor, "b c *sides"]
    cond: Cond = field(default_factory=Cond)
    stills: Batch | None = None

    @property
    def parts(self) -> tuple[Batch, ...]:
        """The clips and the images beside them; a batch of one part is the batch itself."""
        return (self,) if self.stills is None else (replace(self, stills=None), self.stills)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        """`fn` applied to every tensor of images and conditions."""
        return pytree.tree_map(fn, self)

    def __len__(self) -> int:
        return len(self.images)


for cls in (Cond, Batch):
    pytree.register_dataclass(cls, field_names=[f.name for f in fields(cls)])

UNCONDITIONAL = Cond()  # without any condition
