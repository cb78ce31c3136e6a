"""A method that is distilled into few steps: `python -m benchmarks.run method=distilled of=RUN`.

Progressive distillation, Salimans & Ho, arXiv 2202.00512: in each round a student learns to do in
one step what two steps of its teacher do, and teaches the next. The teacher is any diffusion of a
run: one level, joint levels, latents, or a cascade, of which each stage is distilled. Guidance may
be distilled in before (Meng et al., arXiv 2210.03142). All networks stay in the run, so that the
quality can be told over the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from typing_extensions import override

from hierdiff.files.weights import weights_of
from hierdiff.guidance import Scale, check_scale
from hierdiff.methods import Diffusion, Generator, Method, methods
from hierdiff.objective import GuidanceDistillation, Objective, ProgressiveDistillation, Weight
from hierdiff.objective.weights import TruncatedSNR
from hierdiff.options import Count, Natural, Positive
from hierdiff.resolution import Name
from hierdiff.samplers.ddim import DDIM
from hierdiff.samplers.grids import UniformGrid
from hierdiff.training.published import FILES, published

NAME = "distilled"
FILES[NAME] = "of"
STEPS = (16, 8, 4, 2, 1)


@methods.register(NAME)
class Distilled(Method):
    """Students of the method in a file, a round for each of `steps`, each half of the one before.

    of: weights.safetensors of a run, or its folder. steps: of the students, each of whom learns
    from two steps of the one before and the first from two DDIM steps of the teacher; none, and the
    method is the teacher. weight: of the squared error of x0, None for max(SNR, 1). guidance: a
    scale that is distilled in by a round before the others; None, and students are guided as the
    teacher is. lr: over the trainer's learning rate. The rounds of all stages share the budget's
    steps evenly. config: method and facts of the file, None to read them. sampling: options of the
    sampler of the teacher; its `steps` choose a student, by default the last, and students take
    `ddim` on a uniform grid whatever it says. channels, classes, text_width: of the data.

    Raises:
        ValueError: for steps that do not halve, a teacher that predicts eps or whose images are not
            made by diffusion, and a bridge that stops the stage before it early.
    """

    def __init__(
        self,
        *,
        of: str,
        steps: Sequence[Count] | None = None,
        weight: Weight | None = None,
        guidance: Scale | None = None,
        lr: Positive = 1.0,
        config: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
    ):
        rounds = list(STEPS if steps is None else steps)
        _check_rounds(rounds)
        if guidance is not None:
            check_scale(guidance)
            if not rounds or not (classes or text_width):
                raise ValueError(
                    f"guidance={guidance} is distilled in by a round before others, from data with "
                    f"classes or captions: leave it out, or name steps and take such data"
                )
        given = {name: value for name, value in (sampling or {}).items() if value is not None}
        wanted = given.get("steps")
        if rounds and wanted is not None and wanted not in rounds:
            raise ValueError(
                f"sampling.steps={wanted}: the students are of {rounds} steps, choose one of them"
            )
        teacher = published(
            checkpoint=weights_of(of),
            config=config,
            sampling={k: v for k, v in given.items() if k != "steps" or not rounds},
            channels=channels,
            classes=classes,
            text_width=text_width,
        )
        finest = teacher.at(teacher.resolutions[0])
        students = (
            _students(finest, rounds, weight or TruncatedSNR(), guidance, lr) if rounds else {}
        )
        trained = [stage for chain in zip(*students.values(), strict=True) for stage in chain]
        super().__init__(teacher.resolutions, [*teacher.stages, *trained])
        self._teacher = (finest,)
        self._students = {n: chain for n, chain in students.items() if n}
        self._chosen = wanted or min(rounds, default=0)
        self.few_steps = tuple(sorted(rounds)) or Method.few_steps

    @property
    @override
    def contrasts(self) -> Mapping[str, Method | Generator]:
        """The students and, under its own sampler, their teacher."""
        teacher = self._teacher[0]
        return {"student": self, "teacher": teacher} if self._students else {"teacher": teacher}

    @override
    def at(self, name: Name, steps: int | None = None) -> Generator:
        """As in `Method`; a number of steps that no student has is taken by the chosen one."""
        chain = self._students.get(steps or 0) or self._students.get(self._chosen, [])
        makers = [stage for stage in chain if stage.makes_images and name in stage.resolutions]
        return makers[-1] if makers else super().at(name)


def _students(
    finest: Generator,
    rounds: Sequence[int],
    weight: Weight,
    guidance: Scale | None,
    lr: float,
) -> dict[int, list[Diffusion]]:
    """The chain of students for each number of steps, coarsest first, with 0 for the round of the
    guidance."""
    if not rounds:
        return {}
    teachers = [_checked(stage) for stage in finest.chain]
    plan = ([] if guidance is None else [0]) + list(rounds)
    found: dict[int, list[Diffusion]] = {}
    for n in plan:
        chain: list[Diffusion] = []
        for place, teacher in enumerate(teachers):
            learnt = guidance if n == 0 else None
            sampling = replace(
                teacher.sampling,
                rule=DDIM(),
                grid=UniformGrid(),
                steps=n or 2 * rounds[0],
            )
            if guidance is not None:
                sampling = replace(sampling, guidance=1.0)
            name = finest.chain[place].name
            words = f"{n} step{'s' if n > 1 else ''}" if n else "one call a step"
            notes = (f"{name} distilled into {_listed(rounds)} steps",)
            student = teacher.pupil(
                _objective(teacher, n or 2 * rounds[0], weight, learnt, guidance),
                sampling,
                name=f"{name} in {words}",
                previous=chain[-1] if chain else None,
                share=1 / (len(plan) * len(teachers)),
                lr=lr,
                tied=False,
                notes=notes if n == rounds[-1] else (),
            )
            chain.append(student)
        found[n], teachers = chain, chain
    return found


def _listed(rounds: Sequence[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(str, rounds[:-1])), str(rounds[-1]))))


def _objective(
    teacher: Diffusion, n: int, weight: Weight, learnt: Scale | None, guidance: Scale | None
) -> Objective:
    """That of a student of n steps. learnt: the scale that it learns in this round; guidance: that
    of the whole distillation, which leaves nothing to drop conditions for. It acts at the times and
    on the channels of the teacher's."""
    before, sampling = teacher.objective, teacher.sampling
    common: dict[str, Any] = {
        "parameterization": before.parameterization,
        "level_weights": before.level_weights,
        "stratified": before.stratified,
        "drop": before.drop if guidance is None else 0.0,
        "weight": weight,
        "steps": n,
    }
    if learnt is not None:
        common |= {"interval": sampling.interval, "channels": sampling.channels}
        return GuidanceDistillation(**common, guidance=learnt)
    return ProgressiveDistillation(**common)


def _check_rounds(rounds: Sequence[int]) -> None:
    for before, after in pairwise(rounds):
        if before != 2 * after:
            raise ValueError(
                f"steps={list(rounds)}: a student takes half the steps of the one before, such as "
                f"{list(STEPS)}, and {after} is not half of {before}"
            )


def _checked(stage: Generator) -> Diffusion:
    if not isinstance(stage, Diffusion):
        raise ValueError(
            f"stage {stage.name} makes its images without steps, and there is nothing to distil: "
            f"give `of` a run of diffusion"
        )
    if stage.objective.parameterization.prediction == "eps":
        raise ValueError(
            f"the network of stage {stage.name} predicts eps, which says nothing about x0 where "
            f"the one step of a student begins: train a teacher of prediction v or x0"
        )
    if stage.bridge is not None and stage.bridge.stop(stage.bridge.output_log_snr):
        raise ValueError(
            f"the bridge of stage {stage.name} stops the stage before it between two steps of a "
            f"student: take a cascade of truncated=false"
        )
    return stage
