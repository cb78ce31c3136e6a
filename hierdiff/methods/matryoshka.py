"""Matryoshka diffusion, the method under study (Gu et al., arXiv 2310.15111).

All resolutions diffuse jointly under one time, each on its own shifted schedule, in one nested
network; with growth the coarse levels are trained first and their weights stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from hierdiff.denoisers import Denoiser
from hierdiff.levels import Resolutions, Sides, check_resolutions
from hierdiff.methods.diffusion import diffusion
from hierdiff.methods.method import Method, methods
from hierdiff.methods.sampling import Sampling
from hierdiff.objective import Objective, ScoreMatching
from hierdiff.options import Count, Natural, Share
from hierdiff.registry import Later
from hierdiff.schedules import Cosine, Schedule, Shifted


@methods.register("mdm")
class Matryoshka(Method):
    """Joint levels at `resolutions`, finest first.

    shift: exponent p, log_snr of a level lower by p ln(resolution / reference) (1 at 256 and 2 at
    1024 in the official configurations). reference: the unshifted resolution, by default the
    coarsest. fractions: see `Diffusion`. growth: shares of the budget spent on the 1, 2, ...
    coarsest levels alone before all are trained together. channels, classes, text_width,
    text_length: of the data.

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
        shift: float = 1.0,
        reference: Count | Sides | None = None,
        process: str = "variance_preserving",
        objective: Objective = ScoreMatching(),
        sampling: Sampling = Sampling(),
        fractions: Sequence[Share] | None = None,
        growth: Sequence[Share] = (),
        batch_size: Count | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        sides = check_resolutions(resolutions)
        low = reference or sides[-1]
        whole = diffusion(
            resolutions=sides,
            schedules=[Shifted(schedule, side, low, shift) for side in sides],
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
        if len(growth) >= len(sides) or sum(growth) >= 1 or any(s <= 0 for s in growth):
            raise ValueError(
                f"growth {list(growth)} for {len(sides)} levels: give a positive share "
                f"for each number of levels below all, together less than 1"
            )
        grown = [whole.tail(n, share=share) for n, share in enumerate(growth, start=1)]
        whole.share = 1 - sum(growth)
        super().__init__(sides, [*grown, whole])
