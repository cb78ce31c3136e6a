"""Local wavelet-conditional models: a global denoiser of a coarse image, local ones of its details.

Kadkhodaie, Guth, Mallat and Simoncelli, arXiv 2303.02984: p(x) is the product of p(coarsest image)
and, level by level, p(Haar details | next coarser image). The first needs the whole image; of the
others the paper claims that a few pixels around each suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from typing_extensions import override

from baselines.cascaded import (
    build_stage,
    check_options,
    common_options,
    merged,
    parts_of,
)
from hierdiff.bands import Details, check_halves
from hierdiff.batch import Batch, Cond
from hierdiff.codec import Codec
from hierdiff.denoisers import Denoiser
from hierdiff.levels import Levels, down
from hierdiff.methods import Diffusion, Method, Sampling, methods
from hierdiff.methods.bridge import Bridge, Handover
from hierdiff.methods.bridged import Bridged
from hierdiff.methods.diffusion import diffusion
from hierdiff.objective import Objective
from hierdiff.options import Count, Natural, Positive
from hierdiff.registry import Later
from hierdiff.resolution import Resolution, Resolutions, Sides, check_resolutions, sides_of
from hierdiff.schedules import Schedule


@dataclass(frozen=True)
class LowBand(Bridge):
    """The image of the stage before is seen by the network, and decoded with the details.

    codec: of that stage.
    """

    codec: Codec = field(repr=False)

    @override
    def __call__(self, x: Levels, here: float, crossing: Any, cond: Cond) -> Handover:
        (image,) = self.codec.decode(x).values()
        return Handover(replace(cond, low=image), beside=(image,))


class DetailStage(Bridged):
    """Diffusion of the details of an image, given the image of half its side.

    The limit of pixels (thresholds of the sampler) is one of the image that both make.
    """

    codec: Details

    @property
    @override
    def identity(self) -> str:
        return f"{super().identity}, details x {self.codec.gain:g}"

    @override
    def handed_over(self) -> Sequence[tuple[int, ...]]:
        return (*self.shapes(), (self.codec.channels, *sides_of(self.codec.low)))

    @override
    def state(self, batch: Batch) -> Levels:
        return (*self.encode(batch.images), down(batch.images, self.codec.low))

    @override
    def limited(self, x0: Levels, limit: Any, cond: Cond) -> Levels:
        assert isinstance(cond.low, Tensor)
        return self.codec.limited((*x0, cond.low), limit)[:1]


@methods.register("local")
class LocalConditional(Method):
    """A stage for the coarsest resolution, then one for the details of each finer one.

    resolutions: finest first, each half the one before; with one alone this is `end_to_end`.
    denoiser: of the coarsest image. details: of the details, `local` by default, whose receptive
    field `receptive` is in pixels of the bands: of 2 x 2 of the image. gain: of the details over
    orthonormal ones, so that the schedule, which is made for images, hides them as late. stages:
    what differs, coarsest first, as in `Cascaded`. reference: resolution at which the schedule
    stands unshifted, None: no shift. channels, classes, text_width, text_length: of the data.

    Raises:
        ValueError: for resolutions that are not each half the one before, another number of stages,
            and parts that do not fit each other.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        details: Later[Denoiser] | None = None,
        gain: Positive = 4.0,
        stages: Sequence[Mapping[str, Any]] | None = None,
        schedule: Later[Schedule] | None = None,
        reference: Count | Sides | None = None,
        process: str = "variance_preserving",
        objective: Later[Objective] | None = None,
        sampling: Later[Sampling] | None = None,
        batch_size: Count | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        sides = check_resolutions(resolutions)
        check_halves(sides)
        own = list(stages or [{}] * len(sides))
        if len(own) != len(sides):
            raise ValueError(
                f"{len(own)} stages for the resolutions {list(sides[::-1])}: give one for each, "
                f"coarsest first"
            )
        for place, options in enumerate(own):
            check_options(options, place)
        facts = {"channels": channels, "classes": classes}
        facts |= {"text_width": text_width, "text_length": text_length}
        common = common_options(schedule, reference, process, objective, sampling, batch_size)
        coarse = merged({**common, "denoiser": denoiser, "bridge": None}, own[0])
        built = [build_stage(sides[-1], coarse, facts, None)]
        common["denoiser"] = details or {"name": "local"}
        for side, options in zip(sides[-2::-1], own[1:], strict=True):
            built.append(_details(side, gain, merged(common, options), facts, built[-1]))
        super().__init__(sides, built)


def _details(
    side: Resolution,
    gain: float,
    options: Mapping[str, Any],
    facts: Mapping[str, int],
    previous: Diffusion,
) -> Diffusion:
    parts = parts_of(options, side, "a stage of details", ("bridge", "crop"))
    return diffusion(
        codec=Details(side, facts["channels"], gain=gain),
        facts={**facts, "low_channels": facts["channels"]},
        stage=DetailStage,
        bridge=LowBand(previous.codec),
        previous=previous,
        **parts,
    )
