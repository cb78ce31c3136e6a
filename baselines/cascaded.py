"""Cascaded diffusion: a base and upsamplers, each a model of its own, trained by itself.

CDM, Ho et al., arXiv 2106.15282; Imagen, Saharia et al., arXiv 2205.11487; unCLIP, Ramesh et al.,
arXiv 2204.06125. The augmentation of the low-resolution image is always stated as a log-SNR: the
same "level 0.2" means noise of 0.57, 0.3 or 0.2 in three code bases.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from baselines.degradation import Degradation
from baselines.keyframes import Keyframes
from hierdiff.batch import Batch, Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser
from hierdiff.levels import Levels, down
from hierdiff.methods import Diffusion, Method, Sampling, methods
from hierdiff.methods.bridge import CLEAN, Bridge, Handover, bridges
from hierdiff.methods.bridged import Bridged, BridgedDraws
from hierdiff.methods.diffusion import diffusion
from hierdiff.noise import Noise
from hierdiff.objective import Draws, Objective, objectives, uniforms
from hierdiff.options import (
    Count,
    Length,
    Limit,
    Natural,
    NonNegative,
    Pair,
    Share,
    check_fields,
)
from hierdiff.process import GaussianProcess
from hierdiff.registry import Later, Node, build, check_node, suggest
from hierdiff.resolution import (
    Resolution,
    Resolutions,
    Sides,
    check_resolutions,
    resolution_of,
    sides_of,
    text_of,
)
from hierdiff.schedules import Schedule, Shifted, schedules

log = logging.getLogger(__name__)
Shares = Annotated[Sequence[NonNegative], Length(1, more=True)]
RESIZES = ("bilinear", "bicubic", "nearest")
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by number of sides


class Crossing(NamedTuple):
    """log_snr: after the augmentation; eps: its noise; blur: standard deviation of the blur
    in low-resolution pixels, 0 for none."""

    log_snr: Float[Tensor, " b"]
    eps: Float[Tensor, "b c *sides"]
    blur: Float[Tensor, " b"]


@bridges.register("augmented")
@dataclass(frozen=True)
class Augmented(Bridge):
    """Blur, noise and resize, in this order, or resize before noise.

    log_snr_range: of the noise in training (CDM's amortised augmentation: the step of the
    low model's own process is uniform), None for no noise. log_snr: in sampling, inside that
    range. noise_at: "low" (CDM: noise becomes blocks) or "high" (Imagen's code and DeepFloyd IF:
    white noise after the resize). resize: bilinear (of clips along frames too), bicubic (of images
    alone) or nearest. truncated: the low sampler
    stops where its own noise is `log_snr` and that state is handed over; else its clean image is
    noised again. blur: range of the 3x3 Gaussian's standard deviation in low-resolution pixels,
    for `blur_share` of the training examples and for none in sampling. degradation: of the image
    in training, instead of the mean of its pixels, and none in sampling. process: of the low model.
    """

    low: Count | Sides
    high: Count | Sides
    process: GaussianProcess = field(repr=False)
    log_snr_range: Annotated[Sequence[Limit], Length(2)] | None = (-5.0, 15.0)
    log_snr: Limit = field(default=3.0, repr=False)
    noise_at: str = "low"
    resize: str = "bilinear"
    truncated: bool = field(default=False, repr=False)
    blur: Pair | None = None
    blur_share: Share = 0.5
    degradation: Degradation | None = field(default=None, repr=False)

    frames = True

    def __post_init__(self) -> None:
        check_fields(self, "bridge")
        for name, known in (("noise_at", ("low", "high")), ("resize", RESIZES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"unknown {name} {value!r}{suggest(str(value), known) or ','} "
                    f"choose from {', '.join(known)}"
                )
        if self.degradation is not None and len(sides_of(self.high)) != 2:
            raise ValueError(
                f"a degradation of {text_of(self.high)}: it is for images alone, leave it out"
            )
        if self.resize == "bicubic" and len(sides_of(self.high)) != 2:
            raise ValueError(
                f"resize=bicubic to {text_of(self.high)}: it is for images alone, take bilinear"
            )
        if self.truncated and self.noise_at == "high":
            raise ValueError(
                "truncated with noise_at=high is undefined: the low sampler's own noise lies at "
                "the low resolution; take noise_at=low or truncated=false"
            )
        if self.truncated and self.log_snr_range is None:
            raise ValueError("truncated without noise: give log_snr_range, or take truncated=false")
        if self.log_snr_range and not self.log_snr_range[0] < self.log_snr_range[1]:
            raise ValueError(f"log_snr_range {list(self.log_snr_range)}: give [lowest, highest]")
        if self.blur is not None and not 0 < self.blur[0] <= self.blur[1]:
            raise ValueError(f"blur {list(self.blur)}: give [least, largest] standard deviation")
        self._check(self.output_log_snr)

    @property
    @override
    def output_log_snr(self) -> float:
        return CLEAN if self.log_snr_range is None else self.log_snr

    @override
    def stop(self, log_snr: float) -> float:
        if not self.truncated:
            return 0.0
        return float(self._schedule.inverse(torch.tensor(log_snr, dtype=torch.float64)))

    @override
    def draw(self, shapes: Sequence[Sequence[int]], noise: Noise) -> Crossing:
        shape = shapes[0]
        b = shape[0]
        blur = torch.zeros_like(noise((b,)))
        if self.blur is not None:
            chosen = uniforms(b, noise) < self.blur_share
            width = self.blur[0] + (self.blur[1] - self.blur[0]) * uniforms(b, noise)
            blur = chosen * width
        if self.log_snr_range is None:
            return Crossing(torch.full_like(blur, CLEAN), torch.zeros(tuple(shape)).to(blur), blur)
        ends = torch.tensor(self.log_snr_range, dtype=torch.float64)
        late, early = self._schedule.inverse(ends).clamp(0, 1).tolist()
        log_snr = self._schedule(early + (late - early) * uniforms(b, noise, stratified=True))
        return Crossing(log_snr, noise(self._noise_shape(shape)), blur)

    @override
    def draw_at(self, shapes: Sequence[Sequence[int]], noise: Noise, log_snr: float) -> Crossing:
        self._check(log_snr)
        eps = noise(self._noise_shape(shapes[0]))
        return Crossing(eps.new_full((len(eps),), log_snr), eps, eps.new_zeros(len(eps)))

    @torch.no_grad()
    @override
    def degraded(self, images: Float[Tensor, "b c *sides"], noise: Noise) -> Levels | None:
        if self.degradation is None:
            return None
        high = down(images, resolution_of(self.high))
        return (self.degradation(high, sides_of(self.low), noise),)

    @override
    def __call__(self, levels: Levels, here: float, crossing: Crossing, cond: Cond) -> Handover:
        x = blurred(levels[0], crossing.blur) if self.blur is not None else levels[0]
        if self.noise_at == "low":
            x = self._resized(self._noised(x, here, crossing))
        else:
            x = self._noised(self._resized(x), here, crossing)
        scalars = {**cond.scalars, "augmentation": crossing.log_snr}
        return Handover(replace(cond, low=x, scalars=scalars))

    def _noised(self, x: Tensor, here: float, crossing: Crossing) -> Tensor:
        if self.log_snr_range is None:
            return x
        there = crossing.log_snr[:, None]
        (x,) = self.process.renoise((x,), torch.full_like(there, here), there, (crossing.eps,))
        return x

    def _resized(self, x: Tensor) -> Tensor:
        corners = None if self.resize == "nearest" else False
        mode = LINEAR[x.ndim - 2] if self.resize == "bilinear" else self.resize
        size = list(sides_of(self.high)[2 - x.ndim :])
        return F.interpolate(x, size=size, mode=mode, align_corners=corners)

    def _noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        sides = sides_of(self.low if self.noise_at == "low" else self.high)
        return (*shape[:2], *sides[2 - len(shape) :])

    @property
    def _schedule(self) -> Schedule:
        return self.process.schedules[0]

    def _check(self, log_snr: float) -> None:
        if self.log_snr_range is None:
            if log_snr != CLEAN:
                raise ValueError(f"log_snr {log_snr} without noise: give log_snr_range first")
            return
        low, high = self.log_snr_range
        if not low <= log_snr <= high:
            raise ValueError(
                f"augmentation to log_snr {log_snr} is outside of the range it is trained on, "
                f"{low:g} to {high:g}: choose one inside, or widen log_snr_range"
            )


def blurred(
    x: Float[Tensor, "b c *frames h w"], std: Float[Tensor, " b"]
) -> Float[Tensor, "b c *frames h w"]:
    """3x3 Gaussian of its own standard deviation for each example; 0 leaves it as it is."""
    side = torch.exp(-0.5 / std.clamp(min=1e-3) ** 2).to(x)  # over the centre
    side = side.reshape(-1, *[1] * (x.ndim - 1))
    for dim in (-2, -1):
        pads = ((0, 0, 1, 1) if dim == -2 else (1, 1, 0, 0), (0, 0) * (x.ndim - 4))
        wide = F.pad(x, sum(pads, ()), mode="replicate")
        n = x.shape[dim]
        x = (x + side * (wide.narrow(dim, 0, n) + wide.narrow(dim, 2, n))) / (1 + 2 * side)
    return x


class UpsamplerDraws(NamedTuple):
    """corners: row and column of each example's crop at the high resolution."""

    draws: BridgedDraws
    corners: Int[Tensor, "b two"]


class Upsampler(Bridged):
    """Diffusion at one resolution, given the image of the stage below.

    crop: side of the random crops it is trained on (a network without positions then samples at
    the whole side), or None. Everything else as in `Bridged`.
    """

    def __init__(self, *, crop: int | None = None, **parts: Any):
        super().__init__(**parts)
        low, side = self.previous.shapes()[0][-1], self.shapes()[0][-1]
        self.factor = side // low  # crops start at a low-resolution pixel
        if crop is not None and len(self.shapes()[0]) != 3:
            raise ValueError(f"crop {crop} of clips: it is for images alone, leave it out")
        if crop is not None and (crop % self.factor or not 0 < crop <= side):
            raise ValueError(
                f"crop {crop} of {side} px images made from {low} px: choose a multiple of "
                f"{self.factor} up to {side}"
            )
        self.crop = crop if crop != side else None
        if self.crop is not None:
            self.denoiser.check(self.shapes_in_training())
            self.objective.check(self.process, shapes=self.shapes_in_training())

    @override
    def shapes_in_training(self) -> Sequence[tuple[int, ...]]:
        if self.crop is None:
            return self.shapes()
        return [(self.shapes()[0][0], self.crop, self.crop)]

    @override
    def draw(self, batch: Batch, noise: Noise) -> Any:
        draws = super().draw(batch, noise)
        if self.crop is None:
            return draws
        places = (self.shapes()[0][-1] - self.crop) // self.factor + 1
        corners = torch.stack([uniforms(len(batch), noise) for _ in "yx"], 1) * places
        return UpsamplerDraws(draws, corners.long() * self.factor)

    @override
    def inputs(self, batch: Batch, draws: Any) -> tuple[Levels, Cond, Draws]:
        if self.crop is None:
            return super().inputs(batch, draws)
        (x0,), cond, own = super().inputs(batch, draws.draws)
        low = None if cond.low is None else cropped(cond.low, draws.corners, self.crop)
        return (cropped(x0, draws.corners, self.crop),), replace(cond, low=low), own


def cropped(
    x: Float[Tensor, "b c h w"], corners: Int[Tensor, "b two"], side: int
) -> Float[Tensor, "b c s s"]:
    """The square of `side` whose first pixel is at `corners` (row, column), for each example."""
    span = torch.arange(side, device=x.device)
    rows, columns = corners[:, 0, None] + span, corners[:, 1, None] + span
    examples = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, -1)[examples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@methods.register("cascaded")
class Cascaded(Method):
    """One stage for each resolution, coarsest first, each given the image of the one before.

    resolutions: finest first. denoisers: {resolution: network}, which replaces the one for all.
    split: the share of the budget's steps of each stage, coarsest first, instead of those that the
    stages state; a table names it. stages: one mapping for each, coarsest first, of options that
    differ from those given here for all: denoiser, schedule, reference, process, objective,
    sampling, bridge, crop (not of the first), share (of the budget's steps; each stage may have all
    of them), batch_size, weights (a file of another run of the same chain; with share 0 the stage
    is used as it is), trainer (options of `trainer` that differ, such as lr). Mappings are merged,
    a part with a `name` replaces the other, and a denoiser of null is the one for all. reference:
    resolution at which the schedule stands unshifted, None: no shift. frames: what a stage of fewer
    frames than the data draws, the "mean" of neighbouring ones or "every" second, third ... one.
    channels, classes, text_width, text_length: of the data.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser] | None = None,
        denoisers: Mapping[str | int, Later[Denoiser]] | None = None,
        stages: Sequence[Mapping[str, Any]] | None = None,
        split: Shares | None = None,
        bridge: Later[Bridge] | None = None,
        schedule: Later[Schedule] | None = None,
        reference: Count | Sides | None = None,
        process: str = "variance_preserving",
        objective: Later[Objective] | None = None,
        sampling: Later[Sampling] | None = None,
        batch_size: Count | None = None,
        frames: Literal["mean", "every"] = "mean",
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        codec = Keyframes if frames == "every" else Pyramid
        sides = check_resolutions(resolutions)[::-1]
        if stages is not None and len(stages) != len(sides):
            raise ValueError(
                f"{len(stages)} stages for the resolutions {list(sides)}: give one for each, "
                f"coarsest first"
            )
        networks = {str(name): node for name, node in (denoisers or {}).items()}
        for name in networks:
            if name not in map(text_of, sides):
                raise ValueError(
                    f"a denoiser of {name} px in a cascade of {', '.join(map(text_of, sides))}: "
                    f"leave it out"
                )
        if split is not None and len(split) != len(sides):
            raise ValueError(
                f"split {list(split)} for {len(sides)} stages: give a share for each, coarsest "
                f"first"
            )
        common = common_options(schedule, reference, process, objective, sampling, batch_size)
        common |= {"denoiser": denoiser, "bridge": bridge or {"name": "augmented"}}
        facts = {
            "channels": channels,
            "classes": classes,
            "text_width": text_width,
            "text_length": text_length,
        }
        built: list[Diffusion] = []
        for side, own in zip(sides, stages or [{}] * len(sides), strict=True):
            check_options(own, len(built))
            own = {
                name: value for name, value in own.items() if (name, value) != ("denoiser", None)
            }
            network = networks.get(text_of(side), denoiser)
            options = merged({**common, "denoiser": network}, own)
            if split is not None:
                options["share"] = split[len(built)]
            built.append(build_stage(side, options, facts, built[-1] if built else None, codec))
        if split is not None:
            shares = ", ".join(
                f"{stage.name} {share:g}" for stage, share in zip(built, split, strict=True)
            )
            built[0].notes = (*built[0].notes, f"split of the budget's steps: {shares}")
        super().__init__(sides[::-1], built)
        say_whose(denoiser, stages or [], [stage.name for stage in built])


def common_options(
    schedule: Later[Schedule] | None,
    reference: Count | Sides | None,
    process: str,
    objective: Later[Objective] | None,
    sampling: Later[Sampling] | None,
    batch_size: Count | None,
) -> dict[str, Any]:
    """Options of all stages of a method, over which each may have its own (`merged`)."""
    return {
        "schedule": schedule or {"name": "cosine"},
        "reference": reference,
        "process": process,
        "objective": objective or {},
        "sampling": sampling or {},
        "batch_size": batch_size,
    }


def build_stage(
    side: Resolution,
    options: Mapping[str, Any],
    facts: Mapping[str, int],
    previous: Diffusion | None,
    codec: type[Pyramid] = Pyramid,
) -> Diffusion:
    """The base (`previous` None), or the upsampler that stands on `previous`.

    Raises:
        ValueError: where the options give the stage no denoiser, or a bridge of given frames stands
            on means of frames.
    """
    if options["denoiser"] is None:
        raise ValueError(f"stage {side} of the cascade has no denoiser: give one, or one for all")
    parts = parts_of(options, side)
    bridge, crop = parts.pop("bridge"), parts.pop("crop", None)
    if previous is not None:
        low = previous.resolutions[0]
        ends = {"low": low, "high": side, "process": previous.process}
        built = bridges.build(bridge, offered=ends)
        if built.masks and codec is not Keyframes:
            raise ValueError(
                f"the stage of {text_of(side)} is given single frames, and that below draws means "
                f"of neighbouring ones: set method.frames=every"
            )
        facts = {**facts, "low_channels": facts["channels"] + built.masks}
        parts |= {"bridge": built, "previous": previous, "crop": crop}
    return diffusion(
        codec=codec([side], facts["channels"]),
        facts=facts,
        stage=Diffusion if previous is None else Upsampler,
        **parts,
    )


def parts_of(
    options: Node, side: Resolution | None, stage: str = "", without: Sequence[str] = ()
) -> dict[str, Any]:
    """Options of `diffusion` for a stage at `side`, None where its schedule is not shifted.

    stage: whose options they are. without: options that it does not have.

    Raises:
        ValueError: for an option that such a stage does not have.
    """
    parts = dict(options)
    for name in without:
        if parts.pop(name, None) is not None:
            raise ValueError(f"option {name!r} of {stage}: leave it out")
    base, reference = schedules.build(parts.pop("schedule")), parts.pop("reference")
    parts["schedules"] = [base if side is None else Shifted(base, side, reference or side)]
    parts["objective"] = objectives.build(parts["objective"])
    parts["sampling"] = build(Sampling, parts["sampling"])
    return parts


def say_whose(
    denoiser: Later[Denoiser] | None, stages: Sequence[Node], names: Sequence[str]
) -> None:
    """Warns that the denoiser for all is not that of stages which name another one."""
    if not isinstance(denoiser, Mapping):
        return
    for place, (own, stage) in enumerate(zip(stages, names, strict=False)):
        other = own.get("denoiser")
        name = other.get("name") if isinstance(other, Mapping) else None
        if name is not None and name != denoiser.get("name"):
            log.warning(
                "denoiser %s is not that of stage %s, which has one of its own, %s: "
                "method.stages.%d.denoiser=null gives it the same",
                *(denoiser.get("name"), stage, name, place),
            )


@dataclass(frozen=True)
class StageOptions:
    """What a stage may say of itself; see `Cascaded`."""

    denoiser: Later[Denoiser] | None = None
    bridge: Later[Bridge] | None = None
    schedule: Later[Schedule] | None = None
    reference: Count | Sides | None = None
    process: str = "variance_preserving"
    objective: Later[Objective] | None = None
    sampling: Later[Sampling] | None = None
    batch_size: Count | None = None
    share: NonNegative = 1.0
    weights: str | None = None
    trainer: Mapping[str, Any] | None = None
    crop: Count | None = None


def check_options(options: Mapping[str, Any], place: int) -> None:
    """Checks what stage `place` of a cascade, counted from 0, says of itself.

    Raises:
        TypeError: for an unknown option, or a value of another type.
        ValueError: for a value out of range, and for an option that the first stage cannot have.
    """
    check_node(StageOptions, options, "a stage of the cascade", f"method.stages.{place}")
    for name in ("bridge", "crop"):
        if not place and options.get(name) is not None:
            raise ValueError(f"the first stage of a cascade stands on nothing: leave out {name!r}")


def merged(common: Any, own: Any) -> Any:
    """`own` over `common`, option by option; a part with a name of its own replaces the other."""
    both = isinstance(common, Mapping) and isinstance(own, Mapping)
    if not both or own.get("name", common.get("name")) != common.get("name"):
        return own
    return {**common, **{k: merged(common.get(k), v) for k, v in own.items()}}
