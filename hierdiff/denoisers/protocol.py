"""What every network is to the rest: the `Denoiser` protocol, and the one-level class to subclass.

A nestable denoiser also takes `added` (enters after its first convolution) and gives `features`
(leave before its head), both with `nest_width` channels at its own side. Nested networks are
called, never reached into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from hierdiff.batch import Cond
from hierdiff.levels import Levels
from hierdiff.registry import Registry


class Prediction(NamedTuple):
    """One prediction for each level, same shapes as the state.

    carry: batch-first tensors handed to the next step of a sampler. variance: learned interpolation
    in [-1, 1]. losses: {name: (b,)}, added to the objective. features: for an outer network.
    """

    levels: Levels
    carry: Any = None
    variance: Levels | None = None
    losses: dict[str, Tensor] | None = None
    features: Tensor | None = None


class Denoiser(nn.Module, ABC):
    """`levels` resolutions, finest first. log_snr is limited to +-30 before it gets here."""

    levels: int = 1
    nest_width: int | None = None  # channels of `added` and `features`; None: not nestable

    @abstractmethod
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction: ...

    def prepare(self, cond: Cond) -> Cond:
        """What need not be computed at every step; its result is what `forward` is given."""
        return cond

    def tail(self, n: int) -> Denoiser:
        """The network of the n coarsest levels: the same object, not a copy."""
        if n != self.levels:
            raise ValueError(f"{type(self).__name__} has {self.levels} level(s), not {n}")
        return self


class OneLevelDenoiser(Denoiser):
    """What nearly every drop-in subclasses: write `denoise`, shapes in are shapes out."""

    @abstractmethod
    def denoise(
        self, x: Float[Tensor, "b c h w"], log_snr: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b c h w"]: ...

    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        if len(x_t) != 1:
            raise ValueError(
                f"{type(self).__name__} denoises one level, got {len(x_t)}: "
                f"nest it as the `inner` of a nested_unet"
            )
        return Prediction((self.denoise(x_t[0], log_snr[:, 0], cond),))


class Joined(Denoiser):
    """A one-level denoiser made nestable, so that it can be innermost in a nested network.

    The outer network's zero-initialised adapters lead to and from image channels: what comes in is
    added to the noisy image, what goes out is the prediction.
    """

    def __init__(self, denoiser: OneLevelDenoiser, channels: int):
        super().__init__()
        self.denoiser = denoiser
        self.nest_width = channels

    def prepare(self, cond: Cond) -> Cond:
        return self.denoiser.prepare(cond)

    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        x = x_t[0] if added is None else x_t[0] + added
        out = self.denoiser((x,), log_snr, cond, carry)
        return out._replace(features=out.levels[0])


denoisers: Registry[Denoiser] = Registry("denoiser", Denoiser)
