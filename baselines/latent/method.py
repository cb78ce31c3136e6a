"""Latent diffusion: an autoencoder, then diffusion in its latents (arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.latent.codec import AutoencoderCodec
from baselines.latent.stage import LatentDiffusion
from hierdiff.codec import Codec, codecs
from hierdiff.denoisers import Denoiser
from hierdiff.methods import Diffusion, Method, Sampling, methods
from hierdiff.methods.diffusion import diffusion
from hierdiff.objective import Objective, ScoreMatching
from hierdiff.options import Count, Natural, NonNegative
from hierdiff.registry import Later
from hierdiff.resolution import Resolutions, Sides, check_resolutions, resolution_of
from hierdiff.schedules import Cosine, Schedule, Shifted


@methods.register("latent")
class Latent(Method):
    """One resolution, reached through a codec.

    codec: a codec or its node; `identity` diffuses pixels and is `end_to_end`. reference: sides
    of the latents at which the schedule stands unshifted, None: no shift. trainer: options of
    `trainer` that the diffusion stage has otherwise, such as lr. channels, classes, text_width,
    text_length: of the data.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        codec: Later[Codec] | None = None,
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
                f"latent has one resolution, got {[side, *coarser]}: "
                f"give the finest, coarser images are pooled from it"
            )
        offered = {"resolution": side, "channels": channels}
        built = codecs.build(codec or {"name": "identity"}, offered=offered)
        latents = resolution_of(built.shapes()[0][1:])
        stage = diffusion(
            codec=built,
            schedules=[Shifted(schedule, latents, reference or latents)],
            denoiser=denoiser,
            process=process,
            objective=objective,
            sampling=sampling,
            facts={
                "channels": channels,
                "classes": classes,
                "text_width": text_width,
                "text_length": text_length,
            },
            stage=LatentDiffusion if isinstance(built, AutoencoderCodec) else Diffusion,
            batch_size=batch_size,
            share=share,
            trainer=trainer,
        )
        before = [] if built.stage is None else [built.stage]
        super().__init__([side], [*before, stage])
