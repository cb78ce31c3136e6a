"""Score matching: time density, prediction space, loss space, weight of log-SNR, level weights.

Prediction and loss space are separate options: MDM predicts v and compares in eps space (arXiv
2310.15111, official code). A weight acts on the squared error of x0, whatever the loss space; only
`constant` means a plain mean square in the loss space itself. A learned variance has a term of its
own, without a gradient to the mean (iDDPM, arXiv 2102.09672, section 3.1).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import Denoiser, Prediction
from hierdiff.levels import Levels, down, spread
from hierdiff.noise import Noise
from hierdiff.objective.base import Objective, Teacher, objectives
from hierdiff.objective.bound import variational_bound
from hierdiff.objective.loss import DISTANCES, Draws, Loss
from hierdiff.objective.times import TimeDensity, Uniform, uniforms
from hierdiff.options import Between, Count, NonNegative, Share
from hierdiff.parameterization import check_kind, error_ratio, target
from hierdiff.process import GaussianProcess
from hierdiff.resolution import level_names, resolution_of, text_of
from hierdiff.solve import solve

log = logging.getLogger(__name__)


@objectives.register("score")
@dataclass(frozen=True)
class ScoreMatching(Objective):
    """Denoising score matching over joint levels (MDM, arXiv 2310.15111).

    loss_space: a row of `PREDICTIONS`. distance: "square", or "absolute" (LDM, arXiv 2112.10752,
    code: `loss_type: l1`, in which its LSUN churches were trained). time: density of the training
    times.

    multiscale: sides s, the level's own among them, for one level only: the mean square is replaced
    by the sum over s of 1 / s times the mean square of the error pooled to s (simple diffusion,
    arXiv 2301.11093, section 3). The log of the level remains the plain mean square.

    self_conditioning: rate at which an example receives the carry of a first pass, through which no
    gradient flows (RIN, arXiv 2212.11972); the others receive zeros.

    stills: images that are trained beside each clip of a batch: single frames, each of a clip of
    its own that is drawn from the data (joint training of images and clips, arXiv 2204.03458).

    vlb: weight of `variational_bound`, which trains only a learned variance, over a chain of
    vlb_steps steps. It is 1 at 1000 steps in DiT (unscaled), and vlb_steps / 1000 in iDDPM (0.001
    times the sum over the chain). Both are for uniform times.

    Raises:
        ValueError: for an unknown loss space and options out of range.
    """

    learns_edges: ClassVar[bool] = False  # whether `Prediction.edges` have a loss

    loss_space: str = "eps"
    distance: Literal["square", "absolute"] = "square"
    time: TimeDensity = Uniform()
    multiscale: Sequence[Count] = ()
    self_conditioning: Share = 0.0
    stills: NonNegative = 0.0
    vlb: NonNegative = 0.0
    vlb_steps: Annotated[int, Between(2)] = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.loss_space)

    @property
    @override
    def images_beside(self) -> float:
        return self.stills

    @override
    def check(
        self,
        process: GaussianProcess,
        denoiser: Denoiser | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """As in `Objective`; warns of a learned variance and of guesses that have no loss.

        Raises:
            ValueError: also for sides that the state does not have, and for a carry or a variance
                that the network does not have.
        """
        super().check(process, denoiser, shapes)
        if self.multiscale and len(process.schedules) != 1:
            raise ValueError(
                f"multiscale {list(self.multiscale)} for {len(process.schedules)} levels: it is "
                f"the loss of one level, weigh joint levels by level_weights"
            )
        if shapes is not None:
            self._check_sides(shapes[-1][1:])
        self.time(torch.tensor([0.5], dtype=torch.float64, device="cpu"), process)
        if self.self_conditioning and denoiser is not None and not denoiser.carries:
            raise ValueError(
                f"self_conditioning {self.self_conditioning} with {type(denoiser).__name__}, which "
                f"carries nothing from call to call: choose 0, or a denoiser that carries (rin)"
            )
        if self.vlb and denoiser is not None and not denoiser.learns_variance:
            raise ValueError(
                f"vlb {self.vlb} with {type(denoiser).__name__}, which learns no variance: "
                f"choose 0, or a denoiser that does (dit with learned_variance: true)"
            )
        if not self.vlb and denoiser is not None and denoiser.learns_variance:
            log.warning(
                "%s learns a variance, which vlb 0 leaves untrained: set objective.vlb (1 in DiT) "
                "or learned_variance: false, and sample by no rule with variance: learned",
                type(denoiser).__name__,
            )
        if denoiser is not None and denoiser.guesses_edges and not self.learns_edges:
            log.warning(
                "%s guesses edges, which this objective leaves untrained: choose the objective "
                "edge_supervised, or edges: false",
                type(denoiser).__name__,
            )

    def _check_sides(self, shape: Sequence[int]) -> None:
        sides, side = list(self.multiscale), resolution_of(shape)
        if sides and not isinstance(side, int):
            raise ValueError(f"multiscale {sides} at {text_of(side)} px: it is for square images")
        repeated = len(set(sides)) != len(sides)
        if sides and (repeated or side not in sides or any(side % s for s in sides)):
            raise ValueError(
                f"multiscale {sides} at {side} px: name divisors of {side}, each once and {side} "
                f"itself among them"
            )

    @override
    def draw(
        self, process: GaussianProcess, shapes: Sequence[Sequence[int]], noise: Noise
    ) -> Draws:
        b = shapes[-1][0]
        u = uniforms(b, noise, stratified=self.stratified)
        drop = self.draw_drop(b, noise)
        eps = tuple(noise(shape) for shape in shapes)
        again = None
        if self.self_conditioning:
            again = torch.special.ndtr(noise((b,))) < self.self_conditioning
        return Draws(self.time(u, process), eps, drop, again)

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
        parameterization = self.parameterization
        t = process.moment(draws.t)
        x_t = process.corrupt(x0, draws.eps, draws.t)
        prepared = denoiser.prepare(cond.dropped(draws.drop))
        carry = None
        if draws.again is not None:
            with torch.no_grad():
                first = solve(denoiser, parameterization, x_t, t, prepared)
            carry = masked(first.prediction.carry, draws.again)
        clean, eps, prediction = solve(denoiser, parameterization, x_t, t, prepared, carry)
        logs: dict[str, Tensor] = {}
        names = names or level_names([resolution_of(level.shape[2:]) for level in x0])
        total = x0[-1].new_zeros(())
        shares = self.level_factors(x0)
        columns = zip(*(spread(v, x0) for v in (t.alpha, t.sigma, t.log_snr)), strict=True)
        sigma_data, distance = parameterization.sigma_data, DISTANCES[self.distance]
        for i, (a, s, log_snr) in enumerate(columns):
            goal = target(self.loss_space, x0[i], draws.eps[i], a, s, sigma_data)
            guess = target(self.loss_space, clean[i], eps[i], a, s, sigma_data)
            ratio = error_ratio(self.loss_space, a, s, sigma_data)
            weight = self.weight(log_snr, ratio) / ratio
            error = guess - goal
            loss = distance(weight, error).mean()
            logs[f"loss/{names[i]}"] = loss
            if self.multiscale:
                pooled = {s: distance(weight, down(error, s)).mean() for s in self.multiscale}
                logs |= {f"multiscale/{s}": value for s, value in pooled.items()}
                loss = sum((value / s for s, value in pooled.items()), start=torch.zeros_like(loss))
            total = total + shares[i] * loss
        if self.vlb:
            assert prediction.variance is not None  # `predict` raises if it is missing
            means = tuple(level.detach() for level in clean)
            bounds = variational_bound(
                process, x0, x_t, means, prediction.variance, draws.t, self.vlb_steps
            )
            for share, name, bound in zip(shares, names, bounds, strict=True):
                total = total + self.vlb * share * bound.mean()
                logs[f"vlb/{name}"] = bound.mean()
        for name, value in self.terms(prediction, x0, draws).items():
            total = total + value.mean()
            logs[f"loss/{name}"] = value.mean()
        return Loss(total, {**logs, **(prediction.logs or {})})

    def terms(
        self, prediction: Prediction, x0: Levels, draws: Draws
    ) -> Mapping[str, Float[Tensor, " b"]]:
        """Losses beside those of the levels, by name: here those that the network gives."""
        return prediction.losses or {}


def masked(carry: Any, again: Bool[Tensor, " b"]) -> Any:
    """A tree of batch-first tensors, zero in the rows where `again` is False."""

    def rows_of(part: Tensor) -> Tensor:
        rows = again[: len(part)].reshape(-1, *[1] * (part.ndim - 1))
        return torch.where(rows, part, 0.0)

    return pytree.tree_map(rows_of, carry)
