"""Bridges: what joins two stages of a cascade, and the stage behind one.

A bridge takes an image that stands at a noise level (log_snr `here`, infinite for a clean image) to
the condition of the next stage. It is the same object in training, on real low-resolution images,
and in sampling, on generated ones; which of the two it gets is the exposure bias of a cascade, and
one argument of `Bridged.sample`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hierdiff.batch import NOTHING, Batch, Cond
from hierdiff.guidance import Scale
from hierdiff.levels import Levels, down
from hierdiff.methods.diffusion import Diffusion
from hierdiff.methods.stage import Images
from hierdiff.noise import Noise
from hierdiff.objective import Draws, Loss, uniforms
from hierdiff.registry import Registry
from hierdiff.samplers.integrate import Watch

CLEAN = float("inf")  # log_snr of an image without noise


class Bridge(ABC):
    """low, high: resolutions on its two sides; level: log_snr of its output in sampling."""

    low: int
    high: int
    level: float = CLEAN

    def stop(self, level: float) -> float:
        """Time at which the sampler before it hands over: 0 unless truncated."""
        return 0.0

    @abstractmethod
    def draw(self, shape: tuple[int, ...], noise: Noise) -> Any:
        """Randomness of one crossing in training, made eagerly; shape: b c h w of the low image."""

    @abstractmethod
    def fixed(self, shape: tuple[int, ...], noise: Noise, level: float) -> Any:
        """Randomness of one crossing in sampling: drawn once a sample, `level` for all.

        Error: ValueError where the level is none that is trained on.
        """

    @abstractmethod
    def __call__(self, x: Float[Tensor, "b c h w"], here: float, crossing: Any, cond: Cond) -> Cond:
        """`cond` with `low` at the next resolution, and how noisy it is; x stands at `here`."""


bridges: Registry[Bridge] = Registry("bridge", Bridge)


class BridgedDraws(NamedTuple):
    """corners: row and column of each example's crop at the high resolution, or None."""

    draws: Draws
    crossing: Any
    corners: Int[Tensor, "b two"] | None


class Bridged(Diffusion):
    """Diffusion at one resolution, given an image at a lower one that `previous` makes.

    crop: side of the random crops it is trained on (a network without positions then samples at
    the whole side), or None. Everything else as in `Diffusion`.
    """

    def __init__(
        self, *, bridge: Bridge, previous: Diffusion, crop: int | None = None, **parts: Any
    ):
        super().__init__(**parts)
        self.bridge = bridge
        self._before = (previous,)  # in a tuple, so that its parameters stay its own
        side, factor = self.codec.shapes()[0][-1], bridge.high // bridge.low
        if crop is not None and (crop % factor or not 0 < crop <= side):
            raise ValueError(
                f"crop {crop} of {side} px images made from {bridge.low} px: choose a multiple of "
                f"{factor} up to {side}"
            )
        self.crop = crop if crop != side else None
        if self.crop is not None:
            shapes = [(self.codec.shapes()[0][0], self.crop, self.crop)]
            self.denoiser.check(shapes)
            self.objective.check(self.process, shapes=shapes)
        self.name = f"{bridge.low}to{bridge.high}"

    @property
    def previous(self) -> Diffusion:
        return self._before[0]

    @property
    def chain(self) -> tuple[Diffusion, ...]:
        return (*self.previous.chain, self)

    @property
    def identity(self) -> str:
        return f"{super().identity}, {self.bridge!r}"

    def calls(self, stop: float = 0.0) -> tuple[int, ...]:
        before = self.previous.calls(self.bridge.stop(self.bridge.level))
        return (*before, *super().calls(stop))

    def draw(self, batch: Batch, noise: Noise) -> BridgedDraws:
        b, (channels, side, _) = len(batch), self.codec.shapes()[0]
        shape = (b, channels, self.crop or side, self.crop or side)
        draws = self.objective.draw(self.process, [shape], noise)
        crossing = self.bridge.draw((b, channels, self.bridge.low, self.bridge.low), noise)
        corners = None
        if self.crop is not None:
            step = self.bridge.high // self.bridge.low  # crops start at a low-resolution pixel
            places = (side - self.crop) // step + 1
            corners = (torch.stack([uniforms(b, noise) for _ in "yx"], 1) * places).long() * step
        return BridgedDraws(draws, crossing, corners)

    def forward(
        self, batch: Batch, draws: BridgedDraws, turn: str = "denoiser", step: int = 0
    ) -> Loss:
        (x0,) = self.codec.encode(batch.images)
        cond = self.bridge(down(x0, self.bridge.low), CLEAN, draws.crossing, batch.cond)
        if draws.corners is not None and cond.low is not None:
            x0 = cropped(x0, draws.corners, self.crop or 0)
            cond = replace(cond, low=cropped(cond.low, draws.corners, self.crop or 0))
        return self.objective(self.process, self.denoiser, (x0,), cond, draws.draws)

    def complete(self, cond: Cond, n: int) -> Cond:
        cond = super().complete(cond, n)
        if cond.low is None:
            (shape,) = self.codec.shapes()
            cond = replace(cond, low=torch.zeros(n, *shape, device=self.device))
        return cond

    def sample(
        self,
        n: int,
        cond: Cond = NOTHING,
        *,
        noise: Noise,
        steps: int | None = None,
        guidance: Scale | None = None,
        watch: Watch | None = None,
        low: Images | None = None,
        level: float | None = None,
    ) -> Images:
        """Images at this resolution and at those below.

        low: images that stand for those of the earlier stages, at least at the resolution below:
        real ones for the exposure bias, or generated ones kept from another call. level: log_snr of
        the augmentation instead of the bridge's. steps, guidance, watch: of every stage.
        """
        plan: dict[str, Any] = {"steps": steps, "guidance": guidance, "watch": watch}
        return self.handed(n, cond, noise=noise, low=low, level=level, **plan)[0]

    @torch.no_grad()
    def handed(
        self,
        n: int,
        cond: Cond = NOTHING,
        stop: float = 0.0,
        *,
        noise: Noise,
        steps: int | None = None,
        guidance: Scale | None = None,
        watch: Watch | None = None,
        low: Images | None = None,
        level: float | None = None,
    ) -> tuple[Images, Levels]:
        level = self.bridge.level if level is None else level
        side = self.bridge.low
        crossing = self.bridge.fixed((n, self.codec.shapes()[0][0], side, side), noise, level)
        plan: dict[str, Any] = {"steps": steps, "guidance": guidance, "watch": watch}
        if low is None:
            halt = self.bridge.stop(level)
            low, (x, *_) = self.previous.handed(n, cond, halt, noise=noise, **plan)
            here = level if halt else CLEAN
        else:
            x, here = low[side].to(self.device), CLEAN
        told = self.bridge(x, here, crossing, self.complete(cond, n))
        made, state = super().handed(n, told, stop, noise=noise, **plan)
        return {**made, **low}, state

    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """Real low-resolution images stand in where the stages before are not trained."""
        if self.previous.ready:
            return super().preview(cond, batch, noise)
        side = self.bridge.low
        return self.sample(
            len(batch), batch.cond, noise=noise, low={side: down(batch.images, side)}
        )


def cropped(
    x: Float[Tensor, "b c h w"], corners: Int[Tensor, "b two"], side: int
) -> Float[Tensor, "b c s s"]:
    """The square of `side` whose first pixel is at `corners` (row, column), for each example."""
    span = torch.arange(side, device=x.device)
    rows, columns = corners[:, 0, None] + span, corners[:, 1, None] + span
    examples = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, -1)[examples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
