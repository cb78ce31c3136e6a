"""What an objective draws and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

from hierdiff.levels import Levels

# Where conditions are dropped: all of guidance together, or each by its name.
Drop = Bool[Tensor, " b"] | Mapping[str, Bool[Tensor, " b"]]


@dataclass(frozen=True)
class Draws:
    """All randomness of one loss: time, noise of each level, which conditions are dropped
    (all together, or by name).

    again: which examples see the carry of a first pass; None where there is no first pass.
    """

    t: Float[Tensor, " b"]
    eps: Levels
    drop: Drop
    again: Bool[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Loss:
    """`total` is minimised; `logs` are numbers by name, one for each level, to be read.

    Whoever reads them detaches them: a compiler may give equal outputs as one tensor, and with one
    level the total would be detached with its log.
    """

    total: Float[Tensor, ""]
    logs: dict[str, Float[Tensor, ""]]


for cls, names in ((Draws, ["t", "eps", "drop", "again"]), (Loss, ["total", "logs"])):
    pytree.register_dataclass(cls, field_names=names)
