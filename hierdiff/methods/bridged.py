"""`Bridged`: a diffusion stage that continues from another generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from typing_extensions import override

from hierdiff.batch import Batch, Cond
from hierdiff.levels import Levels
from hierdiff.methods.bridge import CLEAN, Bridge, Handover
from hierdiff.methods.diffusion import Diffusion
from hierdiff.methods.generator import DECODER, Generator, Part, Request
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images
from hierdiff.noise import Noise
from hierdiff.objective import Draws, Objective
from hierdiff.resolution import Resolution, text_of


class BridgedDraws(NamedTuple):
    """Random numbers of one loss.

    draws: of the stage itself. crossing: of its bridge. degraded: the previous stage's state, where
    the bridge makes it.
    """

    draws: Any
    crossing: Any
    degraded: Levels | None = None


class Bridged(Diffusion):
    """Diffusion under the conditions that its `bridge` makes from the state of `previous`.

    Everything else is as in `Diffusion`.
    """

    def __init__(self, *, bridge: Bridge, previous: Generator, **parts: Any):
        super().__init__(**parts)
        if self.images_beside and not bridge.frames:
            raise ValueError(
                f"stills {self.images_beside:g} behind {type(bridge).__name__}, which crosses from "
                f"clips alone: leave it out of this stage"
            )
        self._bridge = bridge
        self._previous = (previous,)  # in a tuple, so that its parameters stay its own
        self.name = "to".join(
            text_of((stage.resolutions if stage.makes_images else stage.level_names)[0])
            for stage in (previous, self)
        )

    @property
    @override
    def bridge(self) -> Bridge:
        return self._bridge

    @property
    @override
    def previous(self) -> Generator:
        return self._previous[0]

    @property
    @override
    def chain(self) -> tuple[Generator, ...]:
        return (*self.previous.chain, self)

    @property
    @override
    def identity(self) -> str:
        return f"{super().identity}, {self.bridge!r}"

    @override
    def pupil(
        self,
        objective: Objective,
        sampling: Sampling,
        *,
        name: str,
        previous: Generator | None = None,
        **changed: Any,
    ) -> Bridged:
        pupil = cast(Bridged, super().pupil(objective, sampling, name=name, **changed))
        pupil._previous = self._previous if previous is None else (previous,)
        return pupil

    @override
    def fit(self, resolutions: Sequence[Resolution]) -> None:
        if self.bridge.any_size:
            super().fit(resolutions)
        else:
            Generator.fit(self, resolutions)

    @override
    def resized(self, resolution: Resolution, previous: Generator | None = None) -> Bridged:
        if not self.bridge.any_size:
            return cast(Bridged, Generator.resized(self, resolution))
        other = cast(Bridged, super().resized(resolution))
        other._previous = self._previous if previous is None else (previous,)
        return other

    @override
    def draw(self, batch: Batch, noise: Noise) -> Any:
        draws = super().draw(batch, noise)
        sides = batch.images.ndim - 2
        shapes = [(*shape[:2], *shape[2:][-sides:]) for shape in self._crossed(len(batch))]
        crossing = self.bridge.draw(shapes, noise)
        return BridgedDraws(draws, crossing, self.bridge.degraded(batch.images, noise))

    @override
    def inputs(self, batch: Batch, draws: Any) -> tuple[Levels, Cond, Draws]:
        x0, cond, own = super().inputs(batch, draws.draws)
        x = draws.degraded
        if x is None:
            x = self.previous.state(batch)
        return x0, self.bridge(x, CLEAN, draws.crossing, cond).cond, own

    @override
    def opening(self, request: Request) -> tuple[Handover, Images]:
        log_snr = self.bridge.output_log_snr
        crossing = self.bridge.draw_at(self._crossed(request.n), request.noise, log_snr)
        names = dict.fromkeys(name for stage in self.previous.chain for name in stage.resolutions)
        below = [name for name in names if name not in self.resolutions and request.wants(name)]
        stop = self.bridge.stop(log_snr)
        x, images = self.previous.hand_over(replace(request, resolutions=below), stop)
        cond = self.complete(request.cond, request.n)
        return self.bridge(x, log_snr if stop else CLEAN, crossing, cond), images

    @override
    def example(self, n: int, noise: Noise) -> Handover:
        shapes, log_snr = self._crossed(n), self.bridge.output_log_snr
        x, crossing = tuple(map(noise, shapes)), self.bridge.draw_at(shapes, noise, log_snr)
        return self.bridge(x, CLEAN, crossing, super().example(n, noise).cond)

    @torch.no_grad()
    @override
    def follow(self, request: Request, x: Levels, log_snr: float | None = None) -> Images:
        log_snr = self.bridge.output_log_snr if log_snr is None else log_snr
        crossing = self.bridge.draw_at(self._crossed(request.n), request.noise, log_snr)
        x = tuple(level.to(self.device) for level in x)
        cond = self.complete(request.cond, request.n)
        return self.finish(request, self.bridge(x, CLEAN, crossing, cond))[1]

    @override
    def parts(self, stop: float = 0.0) -> tuple[Part, ...]:
        before = self.previous.parts(self.bridge.stop(self.bridge.output_log_snr))
        return (*(part for part in before if part.name != DECODER), *super().parts(stop))

    @override
    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """As in `Generator`, but from real images where the stages before are not trained."""
        if self.previous.ready:
            return super().preview(cond, batch, noise)
        x = self.previous.state(batch)
        images = self.follow(Request(len(batch), batch.cond, noise=noise), x)
        return {**images, **self.previous.decode(x)}

    def _crossed(self, n: int) -> list[tuple[int, ...]]:
        """Shapes of what the previous stage hands over."""
        return [(n, *shape) for shape in self.previous.handed_over()]
