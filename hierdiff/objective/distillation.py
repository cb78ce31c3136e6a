"""Distillation into few steps: a student whose one step does what several calls of a teacher do.

Progressive distillation, Salimans & Ho, arXiv 2202.00512, section 3 and algorithm 2: one step for
two. Guidance distilled in, Meng et al., arXiv 2210.03142: one call for the two of guidance. The
teacher is a frozen stage of the same network, from whose weights the student starts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import Denoiser
from hierdiff.guidance import Scale, check_scale, guided
from hierdiff.levels import Levels, spread
from hierdiff.noise import Noise
from hierdiff.objective.base import Objective, Teacher, objectives
from hierdiff.objective.loss import Draws, Loss
from hierdiff.objective.times import uniforms
from hierdiff.objective.weights import TruncatedSNR, Weight
from hierdiff.options import Count, Length, Share
from hierdiff.process import GaussianProcess, Moment
from hierdiff.resolution import level_names, resolution_of
from hierdiff.samplers.integrate import eps_of
from hierdiff.solve import solve


@dataclass(frozen=True)
class Distillation(Objective):
    """The x0 of a student is compared with one that a teacher's calls give, in `targets`.

    steps: of the student, N; it is trained only at the times i / N, i = 1 .. N, and is sampled by
    `ddim` on the uniform grid of N steps. teacher: file of weights of another run, whose stage of
    the same name teaches; None: the previous stage teaches, and must have the same network. The
    loss is the weighted squared error of x0; the default weight is max(SNR, 1).
    """

    weight: Weight = TruncatedSNR()
    steps: Count = field(kw_only=True)
    teacher: str | None = None

    needs_teacher: ClassVar[bool] = True

    @property
    @override
    def teacher_file(self) -> str | None:
        return self.teacher

    @override
    def draw(
        self, process: GaussianProcess, shapes: Sequence[Sequence[int]], noise: Noise
    ) -> Draws:
        b = shapes[-1][0]
        u = uniforms(b, noise, stratified=self.stratified)
        drop = self.draw_drop(b, noise)
        return Draws((u * self.steps).ceil() / self.steps, tuple(map(noise, shapes)), drop)

    @abstractmethod
    def targets(
        self,
        process: GaussianProcess,
        teacher: Teacher,
        x_t: Levels,
        i: Float[Tensor, " b"],
        cond: Cond,
    ) -> Levels:
        """The x0 that the student shall give for x_t, at its times i / N."""

    @override
    def __call__(
        self,
        process: GaussianProcess,
        denoiser: Denoiser,
        x0: Levels,
        cond: Cond,
        draws: Draws,
        teacher: Teacher | None = None,
        names: Sequence[str] = (),
    ) -> Loss:
        """As in `Objective`.

        Raises:
            ValueError: without a teacher.
        """
        if teacher is None:
            raise ValueError(
                "distillation has no teacher here: train the stage, or give objective.teacher, "
                "the weights of another run"
            )
        i = (draws.t * self.steps).round()
        t = process.moment(i / self.steps)
        x_t = process.corrupt(x0, draws.eps, i / self.steps)
        cond = cond.dropped(draws.drop)
        with torch.no_grad():
            targets = self.targets(process, teacher, x_t, i, cond)
        clean, _, prediction = solve(
            denoiser, self.parameterization, x_t, t, denoiser.prepare(cond)
        )
        weights = (self.weight(column, torch.ones_like(column)) for column in spread(t.log_snr, x0))
        errors = (a - b for a, b in zip(clean, targets, strict=True))
        losses = [(w * e**2).mean() for w, e in zip(weights, errors, strict=True)]
        shares = self.level_factors(x0)
        parts = (share * loss for share, loss in zip(shares, losses, strict=True))
        total = sum(parts, start=torch.zeros_like(losses[0]))
        names = names or level_names([resolution_of(level.shape[2:]) for level in x0])
        logs = {f"loss/{name}": loss for name, loss in zip(names, losses, strict=True)}
        for name, value in (prediction.losses or {}).items():
            total, logs[f"loss/{name}"] = total + value.mean(), value.mean()
        return Loss(total, {**logs, **(prediction.logs or {})})


@objectives.register("progressive_distillation")
@dataclass(frozen=True)
class ProgressiveDistillation(Distillation):
    """One step of the student does what two DDIM steps of its teacher do (arXiv 2202.00512).

    Options as in `Distillation`.
    """

    @override
    def targets(
        self,
        process: GaussianProcess,
        teacher: Teacher,
        x_t: Levels,
        i: Float[Tensor, " b"],
        cond: Cond,
    ) -> Levels:
        t, middle, s = (process.moment((i - back) / self.steps) for back in (0, 0.5, 1))
        return two_steps(teacher, x_t, t, middle, s, cond)


@objectives.register("guidance_distillation")
@dataclass(frozen=True)
class GuidanceDistillation(Distillation):
    """One call of the student does what both calls of its guided teacher do (arXiv 2210.03142).

    guidance: the scale, one number or one for each level; the student knows this one alone, where
    the paper's reads any as a condition. interval, channels: times at which it acts, and how many
    of the first channels it acts on, as in `Sampling`. Other options as in `Distillation`.

    Raises:
        ValueError: for a scale that is no number.
    """

    guidance: Scale = field(kw_only=True)
    interval: Annotated[Sequence[Share], Length(2)] = (0.0, 1.0)
    channels: Count | None = None

    @override
    def check(
        self,
        process: GaussianProcess,
        denoiser: Denoiser | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().check(process, denoiser, shapes)
        check_scale(self.guidance, len(process.schedules))

    @override
    def targets(
        self,
        process: GaussianProcess,
        teacher: Teacher,
        x_t: Levels,
        i: Float[Tensor, " b"],
        cond: Cond,
    ) -> Levels:
        without = cond.dropped(torch.ones_like(i, dtype=torch.bool))
        time = i / self.steps
        t = process.moment(time)
        strong, weak = (teacher(one)(x_t, t, None) for one in (cond, without))
        both = guided(
            *(lambda *_: strong, lambda *_: weak, self.guidance), channels=slice(self.channels)
        )
        x0 = both(x_t, t._replace(time=1.0), None).x0  # at any time, each row has its own
        low, high = self.interval
        acts = ((low <= time) & (time <= high)).to(time)[:, None].expand_as(t.alpha)
        rows = zip(x0, strong.x0, spread(acts, x_t), strict=True)
        return tuple(torch.where(inside > 0, level, plain) for level, plain, inside in rows)


def two_steps(
    teacher: Teacher, x_t: Levels, t: Moment, middle: Moment, s: Moment, cond: Cond
) -> Levels:
    """The x0 that takes one DDIM step from t to s where two of the teacher's end, via `middle`.

    The target of algorithm 2 of arXiv 2202.00512, (x_s - sigma_s / sigma_t x_t) / (alpha_s -
    sigma_s / sigma_t alpha_t), is a mean of the teacher's two x0. With r = alpha / sigma the first
    has the weight (r_middle - r_t) / (r_s - r_t), which avoids the difference of states; at
    sigma_s = 0 the target is the second x0.
    """
    denoise = teacher(cond)
    first = denoise(x_t, t, None)
    eps = eps_of(x_t, first.x0, t)
    columns = zip(first.x0, eps, spread(middle.alpha, x_t), spread(middle.sigma, x_t), strict=True)
    second = denoise(tuple(a * x + b * e for x, e, a, b in columns), middle, first.carry)
    r_t, r_middle, r_s = ((m.log_snr.double() / 2).exp() for m in (t, middle, s))
    shares = spread((r_middle - r_t) / (r_s - r_t), x_t)
    parts: zip[tuple[Tensor, Tensor, Tensor]] = zip(first.x0, second.x0, shares, strict=True)
    return tuple(b + share * (a - b) for a, b, share in parts)
