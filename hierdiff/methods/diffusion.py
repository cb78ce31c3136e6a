"""`Diffusion`: one stage over joint levels, a codec, a process, an objective and a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hierdiff.batch import NOTHING, Batch, Cond
from hierdiff.codec import Codec, Pyramid
from hierdiff.denoisers import Denoiser, protocol
from hierdiff.denoisers.protocol import Reads
from hierdiff.guidance import (
    Carry,
    Denoise,
    Denoised,
    Scale,
    check_scale,
    guided,
    is_off,
    thresholded,
)
from hierdiff.levels import Levels, Name, Resolution, joined
from hierdiff.methods.method import check_cond, check_labels
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images, Stage
from hierdiff.noise import Noise
from hierdiff.objective import Loss, Objective, objectives
from hierdiff.process import GaussianProcess, Moment, processes
from hierdiff.registry import Node, build
from hierdiff.samplers import integrate
from hierdiff.samplers.integrate import Watch, check_times
from hierdiff.schedules import Schedule
from hierdiff.solve import solve


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
        resolutions: Sequence[Name],
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
        check_times(sampling.grid(sampling.steps, process))
        if sampling.rule.uses_variance and not denoiser.learns_variance:
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
        self.level_names = codec.names()
        self.name = joined(resolutions)
        self.facts, self.notes = dict(facts), denoiser.notes
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
        # scalars and vectors may be for another stage: `Method.check_given` knows all of them
        check_cond(replace(batch.cond, scalars={}, vectors={}), self.denoiser.reads)
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
        given = self.denoiser.prepare(cond)
        parameterization = self.objective.parameterization

        def denoise(x: Levels, t: Moment, carry: Carry = None) -> Denoised:
            x0, _, out = solve(self.denoiser, parameterization, x, t, given, carry)
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
        times = through(plan.grid(plan.steps, self.process), stop)
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
                plan.rule,
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
        times = through(plan.grid(plan.steps, self.process), stop).tolist()
        calls = [t for step in pairwise(times) for t in step[: plan.rule.calls_per_step]]
        calls = calls[: len(calls) - plan.rule.calls_per_step + 1]
        low, high = plan.interval
        guided = 0 if is_off(plan.guidance) else sum(low <= t <= high for t in calls)
        return (len(calls) + guided,)

    def complete(self, cond: Cond, n: int) -> Cond:
        """`cond` on this device, with "none" for the labels and text that the data has, and for the
        vectors and scalars that the network reads. Error: ValueError where a condition is not given
        for n images."""
        classes, width = self.facts.get("classes", 0), self.facts.get("text_width", 0)
        cond = cond.map(lambda tensor: tensor.to(self.device))
        parts = {"labels": cond.labels, "captions": cond.tokens, **cond.vectors, **cond.scalars}
        for name, part in parts.items():
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
        reads = self.denoiser.reads or Reads()
        vectors = {
            name: torch.zeros(n, size, device=self.device) for name, size in reads.vectors.items()
        }
        scalars = {name: torch.full((n,), torch.nan, device=self.device) for name in reads.scalars}
        return replace(
            cond, vectors={**vectors, **cond.vectors}, scalars={**scalars, **cond.scalars}
        )


def through(times: Float[Tensor, " k"], stop: float) -> Float[Tensor, " m"]:
    """Falling times, `stop` among them if they pass it."""
    if stop in times or not times[-1] < stop < times[0]:
        return times
    return torch.cat([times[times > stop], times.new_tensor([stop]), times[times < stop]])


def diffusion(
    *,
    resolutions: Sequence[Resolution],
    schedules: Sequence[Schedule],
    denoiser: Denoiser | Node,
    process: str,
    objective: Objective | Node | None,
    sampling: Sampling | Node | None,
    facts: Mapping[str, Any],
    codec: Codec | None = None,
    stage: Callable[..., Diffusion] = Diffusion,
    **more: Any,
) -> Diffusion:
    """A stage over joint levels from parts or their nodes, in pixels if no codec is given.

    `more`: options of the stage.
    """
    codec = codec or Pyramid(resolutions, facts["channels"])
    channels, *sides = codec.shapes()[0]
    return stage(
        codec=codec,
        process=processes.build({"name": process, "schedules": schedules}),
        objective=objectives.build(objective or {}),
        denoiser=protocol.built(denoiser, {**facts, "channels": channels, "sides": tuple(sides)}),
        sampling=build(Sampling, sampling or {}),
        resolutions=resolutions,
        facts=facts,
        **more,
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
