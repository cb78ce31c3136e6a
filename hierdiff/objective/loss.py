"""`Draws`, the random numbers of an objective, and `Loss`, its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

from hierdiff.levels import Levels

# The examples whose conditions are dropped: one mask for all conditions, or one by name.
Drop = Bool[Tensor, " b"] | Mapping[str, Bool[Tensor, " b"]]


@dataclass(frozen=True)
class Draws:
    """All random numbers of one loss.

    t: times in (0, 1]. eps: unit noise of each level, finest first. drop: which examples lose their
    conditions. again: which examples receive the carry of a first pass, None without such a pass.
    """

    t: Float[Tensor, " b"]
    eps: Levels
    drop: Drop
    again: Bool[Tensor, " b"] | None = None


# A distance of a prediction from its target, by element: (weight of the square, error) -> loss.
# The weight stays that of a square: an absolute error has its root, and is plain where it is 1.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda weight, error: weight * error**2,
    "absolute": lambda weight, error: weight.sqrt() * error.abs(),
}


@dataclass(frozen=True)
class Loss:
    """`total` is minimised; `logs` are numbers by name for the training log, one for each level.

    Logs are detached by their reader: a compiler may return equal outputs as one tensor, so with
    one level detaching the log here would detach the total.
    """

    total: Float[Tensor, ""]
    logs: dict[str, Float[Tensor, ""]]


for cls, names in ((Draws, ["t", "eps", "drop", "again"]), (Loss, ["total", "logs"])):
    pytree.register_dataclass(cls, field_names=names)
