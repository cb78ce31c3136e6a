"""Progressive distillation: the target, its optimal student, whom the gradient reaches, a run."""

import math

import pytest
import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.exact import Pixel
from hierdiff.guidance import Denoised
from hierdiff.levels import spread
from hierdiff.noise import from_generator, from_tensors
from hierdiff.objective import ProgressiveDistillation, objectives
from hierdiff.objective.distillation import two_steps
from hierdiff.objective.weights import EDMWeight, TruncatedSNR
from hierdiff.parameterization import Parameterization, target
from hierdiff.process import Flow, Moment, VarianceExploding, VariancePreserving
from hierdiff.samplers import integrate, samplers
from hierdiff.schedules import Cosine, LinearFlow, Power, Shifted
from hierdiff.solve import solve

N, VARIANCE = 4, 0.3
PROCESSES = {
    "vp": VariancePreserving([Shifted(Cosine(), 4, 2, 1.0), Cosine()]),
    "vp to the end": VariancePreserving([LinearFlow(), LinearFlow()]),  # infinite at 0 and 1
    "flow": Flow([LinearFlow(), LinearFlow()]),
    "ve": VarianceExploding([Power(), Power()]),
}
PROCESS = PROCESSES["vp"]
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def noise(seed=0):
    return from_generator(torch.Generator().manual_seed(seed), dtype=torch.float64)


def shapes(b=N):
    return [(b, 2, 4, 4), (b, 2, 2, 2)]


def problem(objective, process, b=N):
    x0 = tuple(VARIANCE**0.5 * level for level in map(noise(1), shapes(b)))
    return x0, objective.draw(process, shapes(b), noise(2))


def ends(process, x_t, denoise, times):
    """DDIM over `times`."""
    grid = torch.tensor(times, dtype=torch.float64)
    return integrate(
        samplers.build({"name": "ddim"}), denoise, process, x_t, grid, from_tensors([])
    )


class Student(Denoiser):
    """v of the x0 which two steps of the oracle lead to, in closed form, times a factor."""

    levels = 2

    def __init__(self, process, kind="v"):
        super().__init__()
        self.process, self.kind = process, kind
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        i = (self.process.schedules[1].inverse(log_snr[:, 1]) * N).round()
        t, middle, s = (self.process.moment((i - back) / N) for back in (0, 0.5, 1))
        first, second = (
            m.alpha * VARIANCE / (m.alpha**2 * VARIANCE + m.sigma**2) for m in (t, middle)
        )
        at_middle = middle.alpha * first + middle.sigma * (1 - t.alpha * first) / t.sigma
        gain = second * at_middle
        finite = s.sigma > 0
        r_t, r_middle, r_s = (m.alpha / m.sigma for m in (t, middle, s))
        share = torch.where(finite, (r_middle - r_t) / (r_s - r_t), 0.0)
        gain = self.factor * (share * first + (1 - share) * gain)
        parts = zip(x_t, *(spread(c, x_t) for c in (gain, t.alpha, t.sigma)), strict=True)
        return Prediction(
            tuple(
                target(self.kind, g * x, (x - a * g * x) / sigma, a, sigma)
                for x, g, a, sigma in parts
            )
        )


def at_angle(degrees: float) -> Moment:
    """The variance-preserving moment of alpha = cos, sigma = sin, for one example and level."""
    angle = torch.tensor([[math.radians(degrees)]], dtype=torch.float64)
    return Moment(0.5, 2 * (1 / angle.tan()).log(), angle.cos(), angle.sin())


def test_known_answers_of_data_of_unit_variance():
    """From 60 degrees by two steps of 15, x_t = 1, where the oracle's x0 is alpha x."""
    t, middle, s = map(at_angle, (60, 45, 30))
    x_t = (torch.ones(1, 1, 1, 1, dtype=torch.float64),)

    def oracle(x, moment, carry):
        return Denoised((moment.alpha[..., None, None] * x[0],))

    assert float(oracle(x_t, t, None).x0[0]) == pytest.approx(0.5)
    (found,) = two_steps(lambda cond: oracle, x_t, t, middle, s, Cond())
    assert float(found) == pytest.approx(0.6160254038, abs=1e-10)
    one = torch.ones_like(t.log_snr)
    assert float(TruncatedSNR()(t.log_snr, one)) == 1
    assert float(EDMWeight(sigma_data=1.0)(t.log_snr, one)) == pytest.approx(4 / 3)


@each_process
def test_the_target_is_that_of_algorithm_2(process):
    """Written with the states, as in the paper, where sigma_s is above 0."""
    x_t = tuple(map(noise(3), shapes(3)))
    i = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    t, middle, s = (process.moment((i - back) / N) for back in (0, 0.5, 1))
    oracle = Pixel(process, VARIANCE)
    found = two_steps(lambda cond: oracle, x_t, t, middle, s, Cond())

    def step(x, here, there):
        x0 = oracle(x, here).x0
        coefficients = (spread(c, x) for c in (here.alpha, here.sigma, there.alpha, there.sigma))
        return tuple(
            a_s * clean + b_s / b * (level - a * clean)
            for level, clean, a, b, a_s, b_s in zip(x, x0, *coefficients, strict=True)
        )

    z = step(step(x_t, t, middle), middle, s)
    coefficients = (spread(c, x_t) for c in (t.alpha, t.sigma, s.alpha, s.sigma))
    for level, x, x_s, a, b, a_s, b_s in zip(found, x_t, z, *coefficients, strict=True):
        torch.testing.assert_close(level, (x_s - b_s / b * x) / (a_s - b_s / b * a))


@each_process
def test_the_optimal_student_has_no_loss_and_makes_the_teachers_two_steps_in_one(process):
    objective, student = ProgressiveDistillation(steps=N), Student(process)
    oracle = Pixel(process, VARIANCE)
    x0, draws = problem(objective, process)
    with torch.no_grad():
        loss = objective(process, student, x0, Cond(), draws, lambda cond: oracle)
    assert float(loss.total) < 1e-18 and list(loss.logs) == ["loss/4", "loss/2"]

    def one(x, t, carry):
        return Denoised(solve(student, Parameterization("v"), x, t, Cond()).x0)

    x_t = tuple(map(noise(4), shapes(3)))
    wanted = ends(process, x_t, oracle, [1 - i / (2 * N) for i in range(2 * N + 1)])
    with torch.no_grad():
        found = ends(process, x_t, one, [1 - i / N for i in range(N + 1)])
    for level, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(level, other)
    with pytest.raises(AssertionError):  # N steps of the teacher end elsewhere
        plain = ends(process, x_t, oracle, [1 - i / N for i in range(N + 1)])
        torch.testing.assert_close(found[0], plain[0])


def test_any_other_student_has_a_loss_and_its_gradient_reaches_it_alone():
    class Learnable(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def __call__(self, x, t, carry=None):
            out = Pixel(PROCESS, VARIANCE)(x, t)
            return Denoised(tuple(self.scale * level for level in out.x0))

    objective, student, teacher = ProgressiveDistillation(steps=N), Student(PROCESS), Learnable()
    student.factor.data += 0.1
    x0, draws = problem(objective, PROCESS)
    loss = objective(PROCESS, student, x0, Cond(), draws, lambda cond: teacher)
    loss.total.backward()
    assert float(loss.total.detach()) > 0 and float(student.factor.grad) > 0
    assert teacher.scale.grad is None


def test_the_loss_is_the_square_of_the_x0_error_by_the_truncated_snr_and_the_level():
    objective = ProgressiveDistillation(steps=N, level_weights=[3, 1])
    student, oracle = Student(PROCESS), Pixel(PROCESS, VARIANCE)
    x0, draws = problem(objective, PROCESS)
    with torch.no_grad():
        t = PROCESS.moment(draws.t)
        x_t = PROCESS.corrupt(x0, draws.eps, draws.t)
        perfect = solve(student, Parameterization("v"), x_t, t, Cond()).x0
        student.factor += 0.5
        loss = objective(PROCESS, student, x0, Cond(), draws, lambda cond: oracle)
    snr = t.log_snr.exp().clamp(min=1)
    wanted = [
        (snr[:, i, None, None, None] * (0.5 * level) ** 2).mean() for i, level in enumerate(perfect)
    ]
    torch.testing.assert_close(list(loss.logs.values()), wanted)
    torch.testing.assert_close(loss.total, 3 * wanted[0] + wanted[1])


def test_times_are_those_of_the_students_steps_each_as_often():
    objective = ProgressiveDistillation(steps=N)
    t = objective.draw(PROCESS, shapes(40), noise()).t
    assert sorted((t * N).tolist()) == [i for i in (1, 2, 3, 4) for _ in range(10)]


def test_the_teacher_is_given_the_conditions_that_the_student_sees():
    seen = []

    def teacher(cond):
        seen.append(cond.labels.tolist())
        return Pixel(PROCESS, VARIANCE)

    objective = ProgressiveDistillation(steps=N, drop=1.0)
    x0, draws = problem(objective, PROCESS)
    objective(PROCESS, Student(PROCESS), x0, Cond(labels=torch.arange(N)), draws, teacher)
    assert seen == [[-1] * N]


def test_distillation_without_a_teacher_or_steps_is_refused():
    objective = ProgressiveDistillation(steps=N)
    x0, draws = problem(objective, PROCESS)
    with pytest.raises(ValueError, match=r"has no teacher.*objective.teacher"):
        objective(PROCESS, Student(PROCESS), x0, Cond(), draws)
    with pytest.raises(ValueError, match=r"needs the option 'steps'"):
        objectives.build({"name": "progressive_distillation"})
