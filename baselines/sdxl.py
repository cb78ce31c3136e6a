"""SDXL: latent diffusion told how each image was made, and a refiner (arXiv 2307.01952).

The base is latent diffusion whose network reads the data's scalars (sizes and corners of crops) and
vectors (a pooled text). The refiner is a second network on the same latents, trained at the least
noisy times alone, which takes over where the base stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from typing_extensions import override

from baselines.latent.codec import AutoencoderCodec
from baselines.latent.method import Latent
from baselines.latent.stage import LatentDiffusion
from hierdiff.batch import Cond
from hierdiff.codec import Codec, codecs
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import build_denoiser
from hierdiff.levels import Levels
from hierdiff.methods import Diffusion, Method, Request, Sampling, methods
from hierdiff.methods.bridge import CLEAN, Bridge, Handover
from hierdiff.methods.bridged import Bridged
from hierdiff.methods.stage import Images
from hierdiff.noise import Noise
from hierdiff.objective import Objective, ScoreMatching
from hierdiff.objective.times import Window
from hierdiff.options import Count, Natural, NonNegative, Share
from hierdiff.process import GaussianProcess
from hierdiff.registry import Later
from hierdiff.resolution import Resolution, Resolutions, Sides, sides_of
from hierdiff.schedules import Cosine, Schedule


@dataclass(frozen=True)
class Takeover(Bridge):
    """The state at time `start`, as it stands: the next stage continues from there.

    A clean state is noised to that time by `process`, which both stages have.
    """

    process: GaussianProcess
    start: float

    any_size = True

    @override
    def stop(self, log_snr: float) -> float:
        return self.start

    @property
    @override
    def output_log_snr(self) -> float:
        return float(self.process.log_snr(torch.tensor([self.start], dtype=torch.float64))[0, 0])

    @override
    def draw_at(self, shapes: Sequence[Sequence[int]], noise: Noise, log_snr: float) -> Any:
        """Drawn where it is needed alone, so that a takeover takes nothing from `noise`."""
        return lambda: tuple(map(noise, shapes))

    @override
    def __call__(self, x: Levels, here: float, crossing: Any, cond: Cond) -> Handover:
        if here == CLEAN and crossing is not None:
            t = x[0].new_full((len(x[0]),), self.start)
            x = self.process.corrupt(x, crossing(), t)
        return Handover(cond, x, self.start)


class Refiner(Bridged):
    """A second network for the end of the trajectory."""

    def __init__(self, **parts: Any):
        super().__init__(**parts)
        self.name = "refiner"


class LatentRefiner(Refiner, LatentDiffusion):
    """A refiner of latents, whose statistics are the base's."""

    def __init__(self, **parts: Any):
        super().__init__(**parts)
        del self.statistics  # they are in the base, whose codec it shares


@methods.register("sdxl")
class SDXL(Method):
    """A base and a refiner in the same latents, both told how an image was made.

    denoiser, refiner: networks of the two, refiner None for a second one like `denoiser`; each is
    offered the names of the data's scalars and the widths of its vectors. refine: time at which the
    refiner takes over, and below which it is trained; 0: there is none, 1: the base does nothing.
    assumed: values of scalars that a request leaves open, {name: value}; those that the data do not
    give are passed over. refiner_share: of the budget's steps, beside `share` of the base. All else
    as in `Latent`. channels, classes, text_width, text_length, scalars, vectors: of the data;
    with `scalars=[]` those of the data are not read.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        refiner: Later[Denoiser] | None = None,
        refine: Share = 0.2,
        assumed: Mapping[str, float] | None = None,
        codec: Later[Codec] | None = None,
        schedule: Schedule = Cosine(),
        reference: Count | Sides | None = None,
        process: str = "variance_preserving",
        objective: Objective = ScoreMatching(),
        sampling: Sampling = Sampling(),
        batch_size: Count | None = None,
        share: NonNegative = 1.0,
        refiner_share: NonNegative = 0.5,
        trainer: Mapping[str, Any] | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
        scalars: Sequence[str] = (),
        vectors: Mapping[str, Count] | None = None,
    ):
        offered = {"resolution": resolutions[0], "channels": channels}
        built = codecs.build(codec or {"name": "identity"}, offered=offered)
        depth, *sides = built.shapes()[0]
        facts = {"classes": classes, "text_width": text_width, "text_length": text_length}
        state = {"channels": depth, "sides": tuple(sides)}
        read = {"scalars": tuple(scalars), "vectors": dict(vectors or {})}

        def network(node: Later[Denoiser]) -> Denoiser:
            return build_denoiser(node, {**facts, **state, **read})

        latent = Latent(
            resolutions=resolutions,
            denoiser=network(denoiser),
            codec=built,
            schedule=schedule,
            reference=reference,
            process=process,
            objective=objective,
            sampling=sampling,
            batch_size=batch_size,
            share=share,
            trainer=trainer,
            channels=channels,
            **facts,
        )
        base = cast(Diffusion, latent.stages[-1])
        stages = list(latent.stages)
        if refine:
            stage: Callable[..., Refiner] = (
                LatentRefiner if isinstance(built, AutoencoderCodec) else Refiner
            )
            stages.append(
                stage(
                    bridge=Takeover(base.process, refine),
                    previous=base,
                    codec=built,
                    process=base.process,
                    objective=_late(objective, refine),
                    denoiser=network(refiner or denoiser),
                    sampling=sampling,
                    facts=base.facts,
                    batch_size=batch_size,
                    share=refiner_share,
                    trainer=trainer,
                )
            )
        super().__init__(latent.resolutions, stages)
        self.reads_scalars = bool(scalars) or self.reads is None or bool(self.reads.scalars)
        self.assumed = {name: float(v) for name, v in (assumed or {}).items() if name in scalars}

    @override
    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """As in `Method`; a method of no scalars leaves those of the data unread."""
        super().check_facts(facts if self.reads_scalars else {**facts, "scalars": ()})

    @override
    def resized(self, resolution: Resolution) -> SDXL:
        """As in `Method`; images are asked for as of that target, cut out of one of its aspect."""
        other = cast(SDXL, super().resized(resolution))
        sides = zip(("height", "width"), sides_of(resolution), strict=True)
        for (name, side), own in zip(sides, sides_of(self.resolutions[0]), strict=True):
            scaled = {f"{of}_{name}": side / own for of in ("original", "target")}
            other.assumed = {key: v * scaled.get(key, 1.0) for key, v in other.assumed.items()}
        return other

    @override
    def sample(self, request: Request) -> Images:
        """As in `Method`, with the assumed scalars where the request has none."""
        scalars = {name: torch.full((request.n,), v) for name, v in self.assumed.items()}
        given = request.cond.scalars if self.reads_scalars else {}
        cond = replace(request.cond, scalars={**scalars, **given})
        return super().sample(replace(request, cond=cond))


def _late(objective: Objective, end: float) -> Objective:
    """The objective at times below `end` alone.

    Raises:
        ValueError: for an objective that draws no times.
    """
    if end == 1:
        return objective
    if not isinstance(objective, ScoreMatching):
        raise ValueError(
            f"a refiner is trained at times below {end:g}, and {type(objective).__name__} draws "
            f"none: set method.refine=0, or an objective of score matching"
        )
    return replace(objective, time=Window(objective.time, high=end))
