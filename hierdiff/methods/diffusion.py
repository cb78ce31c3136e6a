"""`Diffusion`: one stage over joint levels, a codec, a process, an objective and a denoiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import UNCONDITIONAL, Batch, Cond
from hierdiff.codec import Codec
from hierdiff.denoisers import Denoiser, protocol
from hierdiff.denoisers.protocol import Reads
from hierdiff.guidance import (
    Carry,
    Denoise,
    Denoised,
    check_scale,
    guided,
    is_off,
    thresholded,
)
from hierdiff.levels import Levels
from hierdiff.methods.bridge import Handover
from hierdiff.methods.generator import DECODER, Generator, Part, Request
from hierdiff.methods.method import check_cond
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images, Stage
from hierdiff.noise import Noise
from hierdiff.objective import Draws, Loss, Objective, ScoreMatching
from hierdiff.process import GaussianProcess, Moment, processes
from hierdiff.registry import Later
from hierdiff.resolution import Resolution, joint_text, sides_of
from hierdiff.samplers import integrate
from hierdiff.samplers.integrate import Watch, check_times
from hierdiff.schedules import Schedule
from hierdiff.solve import solve


class Diffusion(Generator):
    """One network over joint levels; with one level this is plain diffusion.

    fractions: part of a training batch that has each level, finest first, ending in 1
    (mixed-resolution batches; a level's loss is the mean over its own rows, so it stays unbiased).
    codec: if no stage trains its network, the network is frozen here and saved with the weights.
    facts: of the data (classes, text_width, text_length), to complete the conditions that a caller
    leaves out. trainer: options of `trainer` that this stage has otherwise.

    Raises:
        ValueError: where denoiser, codec, process, objective and sampling do not fit each other.
    """

    sampling: Sampling

    def __init__(
        self,
        *,
        codec: Codec,
        process: GaussianProcess,
        objective: Objective,
        denoiser: Denoiser,
        sampling: Sampling,
        facts: Mapping[str, int],
        fractions: Sequence[float] | None = None,
        share: float = 1.0,
        batch_size: int | None = None,
        weights: str | None = None,
        trainer: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        levels = len(codec.shapes())
        if denoiser.levels != levels:
            raise ValueError(
                f"a denoiser of {denoiser.levels} level(s) for {levels} resolutions "
                f"{list(codec.resolutions)}: nest one network for each"
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
        self._codecs: dict[tuple[int, ...], Codec] = {}  # of other sides of batches
        self._of_frames = codec.of_frames()
        if self.images_beside:
            if self._of_frames is None:
                raise ValueError(
                    f"stills {self.images_beside:g} of {joint_text(codec.resolutions)}: images are "
                    f"trained beside clips, at levels that differ in height and width: leave it out"
                )
            denoiser.check(self._of_frames.shapes())
        self.makes_images, self.lossy = codec.makes_images, codec.lossy
        self.denoiser = denoiser
        self.frozen: nn.Module | None = None  # the codec's network, if no stage trains it
        if codec.stage is None and codec.network is not None:
            self.frozen = codec.network.eval().requires_grad_(False)
        self.sampling = sampling
        self.resolutions = tuple(codec.resolutions)
        self.level_names = codec.names()
        names = self.resolutions if self.makes_images else self.level_names
        self.name = joint_text(names)
        self.facts, self.notes = dict(facts), denoiser.notes
        self.fractions = _check_fractions(fractions, levels)
        self.share, self.batch_size, self.weights = share, batch_size, weights
        self.trainer = dict(trainer or {})
        self.teacher = objective.teacher_file
        if self.teacher is not None:
            distilled = f"distilled from the network of another run ({self.teacher})"
            self.notes = (*self.notes, distilled)
        self._teacher: tuple[Diffusion, ...] = ()  # in a tuple: not a submodule of this stage
        self._pupil_of: tuple[Diffusion, ...] = ()  # who teaches it, if not the stage before

    @property
    @override
    def images_beside(self) -> float:
        return self.objective.images_beside

    @property
    @override
    def identity(self) -> str:
        noise = f"{type(self.process).__name__}{self.process.schedules}"
        return f"{self.codec.identity}, {noise}, {self.objective.parameterization}"

    @property
    @override
    def loss_identity(self) -> tuple[Any, ...]:
        return (*super().loss_identity, self.codec.shapes(), self.objective)

    @property
    @override
    def networks(self) -> tuple[nn.Module, ...]:
        return (self,) if self.codec.network is None else (self, self.codec.network)

    @override
    def shapes(self) -> Sequence[tuple[int, ...]]:
        return self.codec.shapes()

    @torch.no_grad()
    @override
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        return self.codec.encode(images)

    @torch.no_grad()
    @override
    def decode(self, x: Levels) -> Images:
        return self.codec.decode(x)

    @override
    def tail(self, n: int, *, share: float = 1.0) -> Diffusion:
        """The stage of the n coarsest levels, holding the same objects; growth starts with it.

        share: of the training budget, for the new stage.
        """
        scale = self.sampling.guidance
        if isinstance(scale, Sequence):
            scale = scale[-n:]
        return Diffusion(
            codec=self.codec.tail(n),
            process=self.process.tail(n),
            objective=self.objective.tail(n),
            denoiser=self.denoiser.tail(n),
            sampling=replace(self.sampling, guidance=scale),
            facts=self.facts,
            fractions=self.fractions[-n:],
            share=share,
            batch_size=self.batch_size,
            trainer=self.trainer,
        )

    def pupil(
        self,
        objective: Objective,
        sampling: Sampling,
        *,
        name: str,
        previous: Generator | None = None,
        **changed: Any,
    ) -> Diffusion:
        """A stage like this one with a network of its own, which this one teaches.

        Everything but the network is the same object. objective, sampling, name: of the pupil.
        previous: the stage that it continues from, None for that of this one. changed: further
        attributes of a `Stage`, such as share and lr.

        Raises:
            ValueError: where the objective needs no teacher or does not fit, and for a `previous`
                of a stage that continues from none.
        """
        if not objective.needs_teacher:
            raise ValueError(f"{type(objective).__name__} learns from no teacher: take another")
        if previous is not None:
            raise ValueError(f"stage {self.name} stands on no other: leave `previous` out")
        objective.check(self.process, self.denoiser, self.shapes_in_training())
        pupil = copy.copy(self)
        pupil._modules = dict(self._modules)  # else a network would be set in both
        pupil.denoiser = copy.deepcopy(self.denoiser)
        for part in pupil.denoiser.modules():
            if isinstance(part, Denoiser):
                part.weights = None  # it starts from its teacher
        pupil.objective, pupil.sampling, pupil.name = objective, sampling, name
        pupil.weights = pupil.origin = pupil.teacher = None
        pupil._teacher, pupil._pupil_of = (), (self,)
        for attribute, value in changed.items():
            setattr(pupil, attribute, value)
        return pupil

    @override
    def check(self, previous: Stage | None = None) -> None:
        """As in `Stage`.

        Raises:
            ValueError: where the objective needs a teacher, and has neither a file nor a `previous`
                stage of the same network.
        """
        teacher = self._pupil_of[0] if self._pupil_of else previous
        if self.objective.needs_teacher and self.teacher is None and not self._is_as(teacher):
            raise ValueError(
                f"stage {self.name} has no teacher: give objective.teacher, the weights of another "
                f"run, or put it behind a stage of the same network and process"
            )

    def _is_as(self, other: Stage | None) -> bool:
        """Whether another stage has the same identity and a network of the same shapes."""
        if not isinstance(other, Diffusion) or other.identity != self.identity:
            return False
        pair = (self.denoiser.state_dict(), other.denoiser.state_dict())
        mine, their = ({name: part.shape for name, part in state.items()} for state in pair)
        return mine == their

    @override
    def start(self, previous: Stage | None, data: Any) -> Any:
        if self.objective.needs_teacher and self.teacher is None:
            self.check(previous)
            self.learn_from(cast(Stage, self._pupil_of[0] if self._pupil_of else previous))
        return data

    @property
    @override
    def lacks_teacher(self) -> bool:
        return self.objective.needs_teacher and not self._teacher

    @override
    def learn_from(self, teacher: Stage) -> None:
        """As in `Stage`; starts from the teacher's weights (arXiv 2202.00512, algorithm 2)."""
        self.load_state_dict(teacher.state_dict())
        self._teacher = (cast(Diffusion, teacher).eval(),)

    @override
    def start_untrained(self) -> None:
        if self.objective.needs_teacher:  # a network like this one costs as much
            self._teacher = (self,)

    @override
    def train(self, mode: bool = True) -> Diffusion:
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        return self

    @override
    def draw(self, batch: Batch, noise: Noise) -> Any:
        # scalars and vectors may be for another stage: `Method.check_facts` knows all of them
        check_cond(replace(batch.cond, scalars={}, vectors={}), self.denoiser.reads)
        b = len(batch)
        rows = [math.ceil(fraction * b) for fraction in self.fractions]
        own = self._codec_of(batch.images)
        whole = self.shapes_in_training() if own is self.codec else own.shapes()
        shapes = [(n, *shape) for n, shape in zip(rows, whole, strict=True)]
        return self.objective.draw(self.process, shapes, noise)

    @override
    def forward(self, batch: Batch, draws: Any, turn: str = "denoiser", step: int = 0) -> Loss:
        x0, cond, own = self.inputs(batch, draws)
        teacher = self._teacher[0].denoise if self._teacher else None
        return self.objective(
            *(self.process, self.denoiser, x0, cond, own), teacher=teacher, names=self.level_names
        )

    def shapes_in_training(self) -> Sequence[tuple[int, ...]]:
        """Shape of each level in training without the batch: `shapes()`, or smaller for crops."""
        return self.shapes()

    def inputs(self, batch: Batch, draws: Any) -> tuple[Levels, Cond, Draws]:
        """Clean levels, conditions and draws, as the objective takes them.

        Level i has the first b_i rows of the batch alone, as many as its noise in `draws`.
        """
        levels = self._levels_of(batch.images)
        x0 = tuple(level[: len(eps)] for level, eps in zip(levels, draws.eps, strict=True))
        return x0, batch.cond, draws

    def denoise(self, cond: Cond) -> Denoise:
        """The network under `cond` as a denoise function (x, t, carry) -> `Denoised`.

        cond: a row for each example; the network's `prepare` runs once, here.
        """
        return self._denoise(self.denoiser.prepare(cond))

    def _denoise(self, prepared: Cond) -> Denoise:
        parameterization = self.objective.parameterization

        def denoise(x: Levels, t: Moment, carry: Carry = None) -> Denoised:
            x0, _, out = solve(self.denoiser, parameterization, x, t, prepared, carry)
            return Denoised(x0, out.carry, out.variance)

        return denoise

    def denoise_for(self, request: Request, cond: Cond) -> Denoise:
        """`denoise` under `cond`, with the request's guidance and the stage's threshold around it.

        cond: complete, a row for each of the request's n images. The weak pass of guidance has no
        label and caption, or those of `request.negative`. Guidance outside of its interval, scale
        1, and guidance of a network that reads nothing it could drop cost nothing.
        """
        plan = self._plan(request)
        prepared = self.denoiser.prepare(cond)
        denoise = self._denoise(prepared)
        if self._guides(plan):
            everything = torch.ones(request.n, dtype=torch.bool, device=self.device)
            without = cond.dropped(everything)
            if request.negative is not None:
                other = self.complete(request.negative, request.n)
                without = replace(
                    without,
                    labels=other.labels,
                    tokens=other.tokens,
                    mask=other.mask,
                    vectors={**without.vectors, **other.vectors},
                )
            weak = self.denoiser.prepare(without)
            joint = plan.together and prepared.is_like(weak)
            denoise = guided(
                *(denoise, self._denoise(weak), plan.guidance),
                both=self._denoise(prepared.cat(weak)) if joint else None,
                channels=slice(plan.channels),
                interval=plan.interval,
                shared_carry=plan.shared_carry,
            )
        limit = plan.thresholding()
        return thresholded(denoise, lambda x0: self.limited(x0, limit, cond))

    def limited(self, x0: Levels, limit: Callable[[Levels], Levels], cond: Cond) -> Levels:
        """Predicted clean levels, kept in range by `limit`, under the conditions of the network."""
        return self.codec.limited(x0, limit)

    @override
    def state(self, batch: Batch) -> Levels:
        return self._levels_of(batch.images)

    def _levels_of(self, images: Tensor) -> Levels:
        """The levels of images of its own sides, of those of a bucket, or of frames of clips."""
        own = self._codec_of(images)
        return self.encode(images) if own is self.codec else own.encode(images)

    def _codec_of(self, images: Tensor) -> Codec:
        """That of the sides of a batch: its own, that of a bucket, or that of frames of clips."""
        if self._of_frames is not None and images.ndim == 4:
            return self._of_frames
        return self._codecs.get(images.shape[2:], self.codec) if self._codecs else self.codec

    @override
    def fit(self, resolutions: Sequence[Resolution]) -> None:
        own = sides_of(self.resolutions[0])
        codecs = {sides_of(one): self.codec.resized(one) for one in resolutions}
        for codec in codecs.values():
            self.denoiser.check(codec.shapes())
        self._codecs = {sides: codec for sides, codec in codecs.items() if sides != own}

    @override
    def resized(self, resolution: Resolution, previous: Generator | None = None) -> Diffusion:
        """As in `Generator`; the process stays, which suits a state of as many pixels."""
        codec = self.codec.resized(resolution)
        self.denoiser.check(codec.shapes())
        other = copy.copy(self)
        other.codec, other._codecs, other._of_frames = codec, {}, codec.of_frames()
        other.resolutions, other.level_names = tuple(codec.resolutions), codec.names()
        return other

    @override
    def complete(self, cond: Cond, n: int) -> Cond:
        """As in `Stage`, and with "none" for the vectors and scalars that the network reads.

        "none" is zeros for a vector and NaN for a scalar.
        """
        cond = super().complete(cond, n)
        reads = self.denoiser.reads or Reads()
        vectors = {
            name: torch.zeros(n, size, device=self.device) for name, size in reads.vectors.items()
        }
        scalars = {name: torch.full((n,), torch.nan, device=self.device) for name in reads.scalars}
        return replace(
            cond, vectors={**vectors, **cond.vectors}, scalars={**scalars, **cond.scalars}
        )

    @override
    def sample(self, request: Request) -> Images:
        return self.hand_over(request)[1]

    @override
    def hand_over(self, request: Request, stop: float = 0.0) -> tuple[Levels, Images]:
        with torch.no_grad():
            opening, images = self.opening(request)
            state, own = self.finish(request, opening, stop)
        return state, {**own, **images}

    @torch.no_grad()
    @override
    def run(
        self,
        request: Request,
        start: Levels | None = None,
        start_t: float = 1.0,
        stop: float = 0.0,
        *,
        wrap: Callable[[Denoise], Denoise] = lambda denoise: denoise,
    ) -> Levels:
        """As in `Generator`.

        The times are those of the whole grid between start_t and stop; guidance, its interval and
        the threshold act as they do in the whole trajectory. wrap: applied to the denoise function,
        for example `inpainted`.

        Raises:
            ValueError: for a `start_t` without a state, and for a state of other shapes.
        """
        if start is None and start_t != 1:
            raise ValueError(f"start_t={start_t} without a state: give it as `start`")
        shapes = [(request.n, *shape) for shape in self.shapes()]
        if start is not None and [tuple(level.shape) for level in start] != shapes:
            raise ValueError(
                f"a state of {[tuple(level.shape) for level in start]} to start from, where stage "
                f"{self.name} has {shapes}"
            )
        opening, _ = self.opening(replace(request, resolutions=()))
        if start is not None:
            start = tuple(level.to(self.device) for level in start)
            opening = opening._replace(start=start, start_t=start_t)
        return self._integrated(request, opening, self._first(request, opening), stop, wrap=wrap)

    def opening(self, request: Request) -> tuple[Handover, Images]:
        """The conditions and start of its trajectory, and requested images of earlier stages."""
        return Handover(self.complete(request.cond, request.n)), {}

    def example(self, n: int, noise: Noise) -> Handover:
        """An opening like that of a sample of n images, for counting and timing."""
        return Handover(self.complete(UNCONDITIONAL, n))

    def finish(
        self, request: Request, opening: Handover, stop: float = 0.0
    ) -> tuple[Levels, Images]:
        """The state at `stop` with what is beside it, and this stage's images if some are wanted.

        Only for images is the trajectory continued below `stop`.
        """
        x = state = self._first(request, opening)
        if not any(map(request.wants, self.resolutions)):
            return (*self._integrated(request, opening, x, stop), *opening.beside), {}

        def watch(i: int, s: float, x: Levels) -> None:
            nonlocal state
            state = x[: len(self.shapes())] if s >= stop else state
            if request.watch is not None:
                request.watch(i, s, x)

        x = self._integrated(replace(request, watch=watch), opening, x, through=stop)
        return (*state, *opening.beside), self.codec.decode((*x, *opening.beside))

    @override
    def parts(self, stop: float = 0.0) -> tuple[Part, ...]:
        start = self.example(1, lambda shape: torch.zeros(tuple(shape), device=self.device))
        plain, extra = self._calls(start, stop)
        network = Part(f"stage {self.name}", self._network, plain)
        parts = [network]
        reads = self.denoiser.reads
        if reads is None or reads.text_width or reads.vectors:  # else there is nothing to compute
            passes = 1 + self._guides(self.sampling)
            name = f"conditions {self.name}"
            parts.insert(0, Part(name, self._conditions, passes, is_evaluation=False))
        if extra:
            parts.append(network._replace(name=f"guidance {self.name}", calls=extra))
        if self.codec.network is not None and not stop:
            parts.append(Part(DECODER, self._decoder, 1, is_evaluation=False))
        return tuple(parts)

    def _network(self, n: int, noise: Noise) -> Callable[[], object]:
        """One call in the middle of a trajectory."""
        x = tuple(noise((n, *shape)) for shape in self.shapes())
        denoise = self.denoise(self.example(n, noise).cond)
        return lambda: denoise(x, self.process.trajectory([0.5], x)[0], None)

    def _conditions(self, n: int, noise: Noise) -> Callable[[], object]:
        """What the network computes of its conditions once for a trajectory."""
        cond = self.example(n, noise).cond
        return lambda: self.denoiser.prepare(cond)

    def _decoder(self, n: int, noise: Noise) -> Callable[[], object]:
        x = tuple(noise((n, *shape)) for shape in self.shapes())
        beside = self.example(n, noise).beside
        return lambda: self.codec.decode((*x, *beside))

    def _plan(self, request: Request) -> Sampling:
        """How the request is sampled."""
        own = self.sampling
        steps = own.steps if request.steps is None else request.steps
        scale = own.guidance if request.guidance is None else request.guidance
        check_scale(scale, len(self.shapes()))
        return replace(own, steps=steps, guidance=scale)

    def _first(self, request: Request, opening: Handover) -> Levels:
        plan = self._plan(request)  # raises before noise is drawn
        if opening.start is not None:
            return opening.start
        _, sigma = self.process.alpha_sigma(torch.ones(1, dtype=torch.float64))
        if plan.prior == "unit":
            sigma = torch.ones_like(sigma)
        return tuple(
            float(std) * request.noise((request.n, *shape))
            for std, shape in zip(sigma[0], self.shapes(), strict=True)
        )

    def _integrated(
        self,
        request: Request,
        opening: Handover,
        x: Levels,
        stop: float = 0.0,
        *,
        through: float = 0.0,
        wrap: Callable[[Denoise], Denoise] = lambda denoise: denoise,
    ) -> Levels:
        """The state x taken from the opening's time to `stop`; a step ends exactly at `through`."""
        plan, watch = self._plan(request), request.watch
        times = window(plan.grid(plan.steps, self.process), opening, stop, through)
        if watch is not None and opening.beside:

            def watch_all(i: int, s: float, x: Levels, watch: Watch = watch) -> None:
                watch(i, s, (*x, *opening.beside))

            watch = watch_all
        training = self.training
        self.eval()
        try:
            return integrate(
                plan.rule,
                wrap(self.denoise_for(request, opening.cond)),
                self.process,
                x,
                times,
                request.noise,
                watch=watch,
                what=f"stage {self.name}",
            )
        finally:
            self.train(training)

    def _calls(self, opening: Handover, stop: float) -> tuple[int, int]:
        """Network calls from the opening to `stop`, and those that guidance adds."""
        plan, each = self.sampling, self.sampling.rule.calls_per_step
        times = window(plan.grid(plan.steps, self.process), opening, stop).tolist()
        calls = [when for t, s in pairwise(times) for when in (t, *[s] * (each - 1))]
        if calls and times[-1] == 0:  # the last step is of first order
            calls = calls[: len(calls) - each + 1]
        low, high = plan.interval
        extra = sum(low <= t <= high for t in calls) if self._guides(plan) else 0
        return len(calls), extra

    def _guides(self, plan: Sampling) -> bool:
        """Whether guidance has a second pass: the network reads what it leaves out."""
        reads = self.denoiser.reads
        drops = reads is None or reads.classes or reads.text_width or reads.vectors
        return bool(drops) and not is_off(plan.guidance)


def window(
    times: Float[Tensor, " k"], opening: Handover, stop: float = 0.0, through: float = 0.0
) -> Float[Tensor, " m"]:
    """The part of a time grid that a trajectory from `opening` to `stop` visits.

    times: of the whole grid, falling. The result falls from the opening's time to `stop` and
    includes both, and `through`; `stop` and `through` are left out where the grid ends above them.
    """
    first, last = float(times[0]), float(times[-1])
    if opening.start is not None:
        first = opening.start_t
    marks = {first, *(time for time in (stop, through) if last < time < first)}
    inside = {time for time in times.tolist() if max(stop, last) <= time <= first}
    return times.new_tensor(sorted(marks | inside, reverse=True))


def diffusion(
    *,
    codec: Codec,
    schedules: Sequence[Schedule],
    denoiser: Later[Denoiser],
    process: str,
    objective: Objective = ScoreMatching(),
    sampling: Sampling = Sampling(),
    facts: Mapping[str, Any],
    stage: Callable[..., Diffusion] = Diffusion,
    **more: Any,
) -> Diffusion:
    """A stage over joint levels, those of the codec, which also names its images.

    schedules: one for each level, finest first. process: name in `processes`. facts: of the data.
    stage: the class to build. more: its further options.

    Raises:
        ValueError: where the parts do not fit each other.
    """
    channels, *sides = codec.shapes()[0]
    return stage(
        codec=codec,
        process=processes.build({"name": process, "schedules": schedules}),
        objective=objective,
        denoiser=protocol.build_denoiser(
            denoiser, {**facts, "channels": channels, "sides": tuple(sides)}
        ),
        sampling=sampling,
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
