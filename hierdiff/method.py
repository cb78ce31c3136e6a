"""Method, stage, and `Diffusion`: one stage over joint levels.

A method is one or more stages; trainer and benchmark see nothing but the method. A stage is a
codec, a process, an objective and a denoiser, and says how it is trained and sampled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hierdiff.batch import NOTHING, Batch, Cond
from hierdiff.codec import Codec
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import LOG_SNR_LIMIT, Reads, predicted
from hierdiff.guidance import (
    THRESHOLDS,
    Carry,
    Denoise,
    Denoised,
    Scale,
    check_scale,
    guided,
    is_off,
    thresholded,
)
from hierdiff.levels import Levels, level_names
from hierdiff.noise import Noise
from hierdiff.objective import Loss, Objective
from hierdiff.options import Count, Length, Share, check_fields
from hierdiff.process import GaussianProcess, Moment
from hierdiff.registry import Node, Registry, checked, suggest
from hierdiff.samplers import Sampler, grids, integrate, samplers
from hierdiff.samplers.grids import Grid
from hierdiff.samplers.integrate import Watch, check_times

Images = dict[int, Float[Tensor, "n c _h _w"]]


class Turn(NamedTuple):
    """One optimizer's part of a step: the module whose parameters it moves, and its learning rate
    over the trainer's."""

    name: str
    module: nn.Module
    lr: float = 1.0


class Stage(nn.Module, ABC):
    """Trained on its own share of the budget (0: not trained), then kept with its EMA weights.

    `forward` is the loss, so that a wrapper for many devices wraps the loss.
    """

    name: str
    share: float = 1.0
    batch_size: int | None = None  # None: the trainer's
    steps: int = 0  # of its training, told by the trainer before the first
    weights: str | None = None  # file of another run whose stage of this name it starts from
    compiles: bool = True  # may its loss be compiled as one graph
    notes: tuple[str, ...] = ()  # what a reader of its row must know
    tied: bool = True  # are its weights of use for the data that it was trained on alone
    resolutions: tuple[int, ...]
    level_names: tuple[str, ...] = ()  # of the levels in its log, finest first

    @property
    def ready(self) -> bool:
        """Will it have been trained when the run has ended, here or elsewhere?"""
        return self.share > 0 or self.weights is not None

    @property
    def identity(self) -> str:
        """What its weights mean, apart from their shapes: stages of two runs that agree in it can
        stand for each other."""
        return type(self).__name__

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", self),)

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps of its training, `steps` in all, from which on a step does other work: what plans
        of a budget must know."""
        return ()

    def start(self, previous: Stage | None, data: Any) -> Any:
        """Once, before the first step: carries weights over, measures statistics."""
        return data

    def check(self) -> None:
        """Refuses, before compute, what `start` would: files that are not there."""

    @abstractmethod
    def draw(self, batch: Batch, noise: Noise) -> Any:
        """All randomness of one loss, made eagerly and outside of anything compiled."""

    @abstractmethod
    def forward(self, batch: Batch, draws: Any, turn: str = "denoiser", step: int = 0) -> Loss: ...

    @abstractmethod
    def sample(
        self,
        n: int,
        cond: Cond = NOTHING,
        *,
        noise: Noise,
        steps: int | None = None,
        guidance: Scale | None = None,
        watch: Watch | None = None,
    ) -> Images:
        """n images in [-1, 1] at every resolution of this stage."""

    def fed(self, batch: Batch) -> Batch:
        """What its data (`start`) gives for a batch of images."""
        return batch

    def untrained(self) -> None:
        """Stands in for what `start` would measure: weights as drawn are timed, not looked at."""

    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """Samples for a sheet under `cond`; `batch` holds as many real examples."""
        return self.sample(len(batch), cond, noise=noise)


class Method(nn.Module, ABC):
    """`stages` are trained in order; the last one makes the images, or `sample` says which."""

    resolutions: tuple[int, ...]
    stages: Sequence[Stage]

    def sample(
        self,
        n: int,
        cond: Cond = NOTHING,
        *,
        noise: Noise,
        steps: int | None = None,
        guidance: Scale | None = None,
        watch: Watch | None = None,
    ) -> Images:
        """n images in [-1, 1] at every resolution. Error: ValueError where a stage is untrained, or
        no network reads a condition."""
        self.check_ready()
        check_cond(cond, self.reads)
        return self.stages[-1].sample(
            n, cond, noise=noise, steps=steps, guidance=guidance, watch=watch
        )

    @property
    def reads(self) -> Reads | None:
        """Of all its networks together; None where one of them does not say."""
        whole = Reads()
        for network in self.modules():
            if isinstance(network, Denoiser):
                if network.reads is None:
                    return None
                whole = whole | network.reads
        return whole

    def check_given(self, facts: Mapping[str, Any]) -> None:
        """Refuses data of these facts that gives texts or scalars which no network reads, or none
        of the scalars that one asks for (but `scale`, whose default stands for itself)."""
        if self.reads is None:
            return
        given = frozenset(facts.get("scalars", ()))
        if unread := sorted(given - self.reads.scalars):
            raise ValueError(
                f"data.scalars={sorted(given)}: no network of the method reads {unread[0]!r}, "
                f"leave it out or name it in the denoiser's `scalars`"
            )
        if missing := sorted(self.reads.scalars - given - {"scale"}):
            raise ValueError(
                f"the denoiser reads the scalar {missing[0]!r}, which the data does not give: "
                f"leave it out of its `scalars`"
            )
        if facts.get("text_width", 0) and not self.reads.text_width:
            raise ValueError(
                "data.text gives captions that no network of the method reads: leave it out, or "
                "take a denoiser with a text_width"
            )

    def check_ready(self) -> None:
        """Refuses to sample what nobody trains, before compute."""
        for place, stage in enumerate(self.stages):
            if not stage.ready:
                raise ValueError(
                    f"stage {stage.name} is sampled before it is trained (share 0, no weights): "
                    f"give method.stages.{place}.share or method.stages.{place}.weights"
                )

    @abstractmethod
    def at(self, resolution: int) -> Stage:
        """The stage whose samples hold the method's own images at `resolution`, the same object
        for all that one trajectory makes: what a cost is taken of."""


methods: Registry[Method] = Registry("method", Method)


def on_shapes(node: Node, **options: Any) -> Method:
    """`methods.build` on the meta device, where the method takes no memory and nothing can be
    computed with it; as usual where one of its parts needs numbers to be built."""
    try:
        with torch.device("meta"):
            return methods.build(node, **options)
    except (NotImplementedError, RuntimeError, TypeError):
        return methods.build(node, **options)


@dataclass(frozen=True)
class Sampling:
    """How a stage is sampled.

    rule: a sampler. steps: of the grid, the last one to t = 0. guidance: scale of classifier-free
    guidance, 1 is none, one number or one for each level. interval: times at which it acts.
    channels: it acts on the first so many only (DiT: 3 of the 4 of its latents), None for all.
    threshold: {name: none | static | dynamic, ...}, applied to each level's x0.
    """

    rule: Sampler | Node = field(default_factory=lambda: {"name": "dpmpp_2m"})
    grid: Grid | Node = field(default_factory=lambda: {"name": "uniform"})
    steps: Count = 25
    guidance: Scale = 1.0
    interval: Annotated[Sequence[Share], Length(2)] = (0.0, 1.0)
    channels: Count | None = None
    threshold: Node = field(default_factory=lambda: {"name": "static"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", samplers.build(self.rule))
        object.__setattr__(self, "grid", grids.build(self.grid))
        check_fields(self, "sampling")
        low, high = self.interval
        if low > high:
            raise ValueError(
                f"guidance in the interval {[low, high]}: write the smaller time first"
            )
        name = self.threshold.get("name")
        if not isinstance(name, str) or name not in THRESHOLDS:
            raise ValueError(
                f"unknown threshold {name!r}{suggest(str(name), THRESHOLDS) or ','} "
                f"known: {', '.join(THRESHOLDS)}"
            )
        self.thresholding()

    def thresholding(self) -> Callable[[Levels], Levels]:
        """The function that keeps x0 in range. ValueError where its options are none."""
        entry = THRESHOLDS[self.threshold["name"]]
        return entry(**checked(entry, self.threshold, f"threshold {self.threshold['name']!r}"))


class Diffusion(Stage):
    """One network over joint levels, and with one level plain diffusion.

    fractions: part of a training batch that has each level, finest first, ending in 1
    (mixed-resolution batches; a level's loss is the mean over its own rows, so it stays unbiased).
    codec: the network of one that no stage trains is frozen here, and is kept with the weights.
    facts: of the data (classes, text_width, text_length), to complete the conditions that a caller
    leaves out.
    """

    def __init__(
        self,
        *,
        codec: Codec,
        process: GaussianProcess,
        objective: Objective,
        denoiser: Denoiser,
        sampling: Sampling,
        resolutions: Sequence[int],
        facts: Mapping[str, int],
        fractions: Sequence[float] | None = None,
        share: float = 1.0,
        batch_size: int | None = None,
        weights: str | None = None,
    ):
        super().__init__()
        levels = len(codec.shapes())
        if denoiser.levels != levels:
            raise ValueError(
                f"a denoiser of {denoiser.levels} level(s) for {levels} resolutions "
                f"{list(resolutions)}: nest one network for each"
            )
        denoiser.check(codec.shapes())
        if denoiser.reads is not None:
            denoiser.reads.check(facts)
        for clock, schedule in zip(denoiser.clocks, process.schedules, strict=False):
            if clock is not None:
                clock.check(schedule)
        objective.check(process, denoiser, codec.shapes())
        check_scale(sampling.guidance, levels)
        check_times(sampling.grid(sampling.steps, process))  # type: ignore[operator]
        if sampling.rule.uses_variance and not denoiser.learns_variance:  # type: ignore[union-attr]
            raise ValueError(
                f"the sampler takes a learned variance, and {type(denoiser).__name__} learns none: "
                f"choose variance small or large, or a denoiser of learned_variance: true"
            )
        fewest = min(shape[0] for shape in codec.shapes())
        if sampling.channels is not None and sampling.channels > fewest:
            raise ValueError(
                f"guidance of {sampling.channels} channels where the state has {fewest}: "
                f"name {fewest} or fewer, null for all"
            )
        self.codec, self.process, self.objective = codec, process, objective
        self.denoiser = denoiser
        self.frozen: nn.Module | None = None  # of the codec
        if codec.stage is None and codec.network is not None:
            self.frozen = codec.network.eval().requires_grad_(False)
        self.sampling = sampling
        self.resolutions = tuple(resolutions)
        self.level_names = level_names([shape[-1] for shape in codec.shapes()])
        self.name = "x".join(str(side) for side in resolutions)
        self.facts = dict(facts)
        self.fractions = _check_fractions(fractions, levels)
        self.share, self.batch_size, self.weights = share, batch_size, weights

    @property
    def chain(self) -> tuple[Diffusion, ...]:
        """The stages that one of its samples goes through."""
        return (self,)

    @property
    def identity(self) -> str:
        parameterization = self.objective.parameterization
        return f"{type(self.process).__name__}{self.process.schedules}, {parameterization}"

    def tail(self, n: int, *, share: float = 1.0) -> Diffusion:
        """The stage of the n coarsest levels, holding the same objects: growth starts there."""
        scale = self.sampling.guidance
        if isinstance(scale, Sequence):
            scale = scale[-n:]
        return Diffusion(
            codec=self.codec.tail(n),
            process=self.process.tail(n),
            objective=self.objective.tail(n),
            denoiser=self.denoiser.tail(n),
            sampling=replace(self.sampling, guidance=scale),
            resolutions=self.resolutions[-n:],
            facts=self.facts,
            fractions=self.fractions[-n:],
            share=share,
            batch_size=self.batch_size,
        )

    def train(self, mode: bool = True) -> Diffusion:
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        return self

    def draw(self, batch: Batch, noise: Noise) -> Any:
        # scalars may be for another stage: `Method.check_given` knows all of them
        check_cond(replace(batch.cond, scalars={}), self.denoiser.reads)
        b = len(batch)
        rows = [math.ceil(fraction * b) for fraction in self.fractions]
        shapes = [(n, *shape) for n, shape in zip(rows, self.codec.shapes(), strict=True)]
        return self.objective.draw(self.process, shapes, noise)

    def forward(self, batch: Batch, draws: Any, turn: str = "denoiser", step: int = 0) -> Loss:
        with torch.no_grad():
            levels = self.codec.encode(batch.images)
        x0 = tuple(level[: len(eps)] for level, eps in zip(levels, draws.eps, strict=True))
        return self.objective(self.process, self.denoiser, x0, batch.cond, draws)

    def denoise(self, cond: Cond) -> Denoise:
        """The denoise function of the network under `cond`, as samplers see it."""
        told = self.denoiser.prepare(cond)
        parameterization = self.objective.parameterization

        def denoise(x: Levels, t: Moment, carry: Carry = None) -> Denoised:
            seen = parameterization.scaled(x, t.alpha, t.sigma)  # type: ignore[union-attr]
            limited = t.log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
            out = predicted(self.denoiser, seen, limited, told, carry)
            x0, _ = parameterization.x0_eps(out.levels, x, t.alpha, t.sigma)  # type: ignore[union-attr]
            return Denoised(x0, out.carry, out.variance)

        return denoise

    def sample(
        self,
        n: int,
        cond: Cond = NOTHING,
        *,
        noise: Noise,
        steps: int | None = None,
        guidance: Scale | None = None,
        watch: Watch | None = None,
    ) -> Images:
        return self.handed(n, cond, noise=noise, steps=steps, guidance=guidance, watch=watch)[0]

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
    ) -> tuple[Images, Levels]:
        """Images, and the state that their trajectory passed at time `stop`."""
        plan = self.sampling if steps is None else replace(self.sampling, steps=steps)
        scale = plan.guidance if guidance is None else guidance
        check_scale(scale, len(self.codec.shapes()))
        cond = self.complete(cond, n)
        denoise = self.denoise(cond)
        if not is_off(scale):
            everything = torch.ones(n, dtype=torch.bool, device=self.device)
            weak = self.denoise(cond.dropped(everything))
            denoise = guided(
                denoise, weak, scale, channels=slice(plan.channels), interval=plan.interval
            )
        denoise = thresholded(denoise, plan.thresholding())
        _, start = self.process.alpha_sigma(torch.ones(1, dtype=torch.float64))
        x = tuple(
            float(std) * noise((n, *shape))
            for std, shape in zip(start[0], self.codec.shapes(), strict=True)
        )
        times = through(plan.grid(plan.steps, self.process), stop)  # type: ignore[operator]
        passed = x

        def watched(i: int, s: float, x: Levels) -> None:
            nonlocal passed
            passed = x if s >= stop else passed
            if watch is not None:
                watch(i, s, x)

        training = self.training
        self.eval()
        try:
            x = integrate(
                plan.rule,  # type: ignore[arg-type]
                denoise,
                self.process,
                x,
                times,
                noise,
                watch=watched,
                what=f"stage {self.name}",
            )
        finally:
            self.train(training)
        return self.codec.decode(x), passed

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def evaluations(self) -> int:
        """Network calls of this stage for one image; where guidance acts there are two."""
        return self.calls()[-1]

    def calls(self, stop: float = 0.0) -> tuple[int, ...]:
        """Network calls for one image of each stage of the chain; the last one's trajectory also
        passes the time `stop`."""
        plan = self.sampling
        times = through(plan.grid(plan.steps, self.process), stop).tolist()  # type: ignore[operator]
        calls = [t for step in pairwise(times) for t in step[: plan.rule.calls_per_step]]  # type: ignore[union-attr]
        calls = calls[: len(calls) - plan.rule.calls_per_step + 1]  # type: ignore[union-attr]
        low, high = plan.interval
        guided = 0 if is_off(plan.guidance) else sum(low <= t <= high for t in calls)
        return (len(calls) + guided,)

    def complete(self, cond: Cond, n: int) -> Cond:
        """`cond` on this device, with "none" for the labels and text that the data has."""
        classes, width = self.facts.get("classes", 0), self.facts.get("text_width", 0)
        cond = cond.map(lambda tensor: tensor.to(self.device))
        for name, part in (("labels", cond.labels), ("captions", cond.tokens)):
            if part is not None and len(part) != n:
                raise ValueError(f"{len(part)} {name} for {n} images: give one for each")
        if classes and cond.labels is None:
            cond = replace(cond, labels=torch.full((n,), -1, device=self.device))
        if classes and cond.labels is not None and not cond.labels.is_meta:
            check_labels(cond.labels, classes)
        if width and cond.tokens is None:
            length = self.facts["text_length"]
            tokens = torch.zeros(n, length, width, device=self.device)
            mask = torch.zeros(n, length, dtype=torch.bool, device=self.device)
            cond = replace(cond, tokens=tokens, mask=mask)
        return cond


def through(times: Float[Tensor, " k"], stop: float) -> Float[Tensor, " m"]:
    """Falling times, `stop` among them if they pass it."""
    if stop in times or not times[-1] < stop < times[0]:
        return times
    return torch.cat([times[times > stop], times.new_tensor([stop]), times[times < stop]])


def check_cond(cond: Cond, reads: Reads | None) -> None:
    """ValueError for a condition that nothing reads; labels and texts may be left unread."""
    if reads is None:
        return
    unread = {f"scalars[{name!r}]": True for name in cond.scalars if name not in reads.scalars}
    unread |= {
        "pooled": cond.pooled is not None and not reads.pooled,
        "low": cond.low is not None and not reads.low_channels,
    }
    for name, is_unread in unread.items():
        if is_unread:
            raise ValueError(f"no network of the method reads cond.{name}: leave it out")


def check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= classes:
        raise ValueError(
            f"label {low if low < -1 else high} is out of range: the model knows classes "
            f"0 to {classes - 1}, and -1 for none"
        )


def _check_fractions(fractions: Sequence[float] | None, levels: int) -> list[float]:
    shares = [1.0] * levels if fractions is None else [float(f) for f in fractions]
    rising = all(a <= b for a, b in zip(shares, shares[1:], strict=False))
    if len(shares) != levels or shares[-1] != 1 or shares[0] <= 0 or not rising:
        raise ValueError(
            f"fractions {shares} for {levels} levels: give one for each, finest first, above 0, "
            f"not falling, the last 1"
        )
    return shares
