"""Matryoshka diffusion, the method under study (Gu et al., arXiv 2310.15111).

All resolutions diffuse jointly under one time, each on its own shifted schedule, in one nested
network; with growth the coarse levels are trained first and their weights stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hierdiff.bands import BASES
from hierdiff.denoisers import Denoiser
from hierdiff.methods.diffusion import diffusion
from hierdiff.methods.method import Method, methods
from hierdiff.methods.sampling import Sampling
from hierdiff.objective import Objective, ScoreMatching
from hierdiff.options import Count, Natural, Positive, Share, check_fields
from hierdiff.registry import Later, single
from hierdiff.resolution import Resolutions, Sides, check_resolutions
from hierdiff.schedules import Cosine, Interval, Schedule, Shifted


@single("growth stage")
@dataclass(frozen=True)
class Growth:
    """A stage of the coarse levels alone.

    share: of the training budget. batch_size: images in a step, None for that of the method or the
    trainer. lr: over the trainer's learning rate.
    """

    share: Share
    batch_size: Count | None = None
    lr: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "growth")


@methods.register("mdm")
class Matryoshka(Method):
    """Joint levels at `resolutions`, finest first.

    shift: exponent p, log_snr of a level lower by p ln(ratio of sides) than that of a coarser one
    (1 at 256 and 2 at 1024 in the official configurations); None or 0: all levels on one schedule.
    reference: None, and the coarsest level has `schedule` itself, as in the official code; or, as
    in `end_to_end`, the resolution at which the finest level has it: log_snr of the finest is lower
    by 2 ln(finest / reference). basis: of the levels, see `hierdiff.bands`: the images themselves,
    the residuals of a Laplacian pyramid under the coarsest, or Haar bands, whose networks have
    `channels` 3 c and, the innermost, 4 c. times: "joint", or "staggered": level i of n, finest
    first, has all of its schedule in the times from i / (n + 1) to (i + 2) / (n + 1), half of it
    beside the next one, so that coarse levels are made first (LapFlow, arXiv 2602.19461, whose own
    intervals were not read). fractions: see `Diffusion`. growth: shares of the
    budget spent on the 1, 2, ... coarsest levels alone before all are trained together, each a
    number or the options of a `Growth`. keep_moments: the stages after the first go on with the
    optimizer's moments of the weights that they share with the one before (the learning rate warms
    up again in every stage); by default each stage has a new optimizer. channels, classes,
    text_width, text_length: of the data.

    Raises:
        ValueError: for resolutions that are no pyramid, shares of growth that are not positive or
            sum to 1 or more, and parts that do not fit each other.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        schedule: Schedule = Cosine(),
        shift: float | None = 1.0,
        reference: Count | Sides | None = None,
        basis: Literal["pyramid", "laplacian", "haar"] = "pyramid",
        times: Literal["joint", "staggered"] = "joint",
        process: str = "variance_preserving",
        objective: Objective = ScoreMatching(),
        sampling: Sampling = Sampling(),
        fractions: Sequence[Share] | None = None,
        growth: Sequence[Share | Growth] = (),
        keep_moments: bool = False,
        batch_size: Count | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        sides = check_resolutions(resolutions)
        level, base = sides[-1], schedule  # the level that has the schedule `base`
        if reference is not None:
            level, base = sides[0], Shifted(schedule, sides[0], reference)
        schedules = [Shifted(base, side, level, shift) if shift else base for side in sides]
        if times == "staggered":
            n = len(sides) + 1
            schedules = [
                Interval(one, i / n, min(1.0, (i + 2) / n)) for i, one in enumerate(schedules)
            ]
        whole = diffusion(
            codec=BASES[basis](sides, channels),
            schedules=schedules,
            denoiser=denoiser,
            process=process,
            objective=objective,
            sampling=sampling,
            fractions=fractions,
            batch_size=batch_size,
            facts={
                "channels": channels,
                "classes": classes,
                "text_width": text_width,
                "text_length": text_length,
            },
        )
        early = [one if isinstance(one, Growth) else Growth(float(one)) for one in growth]
        shares = [one.share for one in early]
        if len(early) >= len(sides) or sum(shares) >= 1 or any(s <= 0 for s in shares):
            raise ValueError(
                f"growth {shares} for {len(sides)} levels: give a positive share "
                f"for each number of levels below all, together less than 1"
            )
        grown = []
        for n, one in enumerate(early, start=1):
            stage = whole.tail(n, share=one.share)
            stage.batch_size, stage.lr = one.batch_size or stage.batch_size, one.lr
            grown.append(stage)
        for stage in [*grown, whole][1:]:
            stage.keeps_moments = keep_moments
        whole.share = 1 - sum(shares)
        super().__init__(sides, [*grown, whole])
