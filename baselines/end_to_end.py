"""End-to-end pixel diffusion at one resolution, the schedule shifted by it.

Simple diffusion, Hoogeboom et al., arXiv 2301.11093.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser
from hierdiff.methods import Method, Sampling, methods
from hierdiff.methods.diffusion import diffusion
from hierdiff.objective import Objective, ScoreMatching
from hierdiff.options import Count, Natural, NonNegative
from hierdiff.registry import Later
from hierdiff.resolution import Resolutions, Sides, check_resolutions
from hierdiff.schedules import Cosine, Schedule, Shifted


@methods.register("end_to_end")
class EndToEnd(Method):
    """One level.

    reference: resolution at which the schedule stands unshifted; log_snr is lower by
    2 ln(resolution / reference). None: no shift. share: of the budget's steps. trainer: options
    of `trainer` that it has otherwise, such as lr. channels, classes, text_width, text_length: of
    the data.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        schedule: Schedule = Cosine(),
        reference: Count | Sides | None = None,
        process: str = "variance_preserving",
        objective: Objective = ScoreMatching(),
        sampling: Sampling = Sampling(),
        batch_size: Count | None = None,
        share: NonNegative = 1.0,
        trainer: Mapping[str, Any] | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        side, *coarser = check_resolutions(resolutions)
        if coarser:
            raise ValueError(
                f"end_to_end has one resolution, got {[side, *coarser]}: "
                f"give the finest, coarser images are pooled from it"
            )
        stage = diffusion(
            codec=Pyramid([side], channels),
            schedules=[Shifted(schedule, side, reference or side)],
            denoiser=denoiser,
            process=process,
            objective=objective,
            sampling=sampling,
            batch_size=batch_size,
            share=share,
            trainer=trainer,
            facts={
                "channels": channels,
                "classes": classes,
                "text_width": text_width,
                "text_length": text_length,
            },
        )
        super().__init__([side], [stage])
