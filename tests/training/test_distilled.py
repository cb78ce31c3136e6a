"""Distillation as a method: each kind of diffusion, rounds, guidance, resuming, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.files.weights import weights_of
from hierdiff.methods import Method, Request, methods, on_shapes
from hierdiff.noise import per_example
from hierdiff.samplers.ddim import DDIM
from hierdiff.training import check_run, load_method
from hierdiff.training.bounds import tensors_of
from hierdiff.training.format import save_weights
from hierdiff.training.published import completed
from hierdiff.training.run import stage_steps
from tests import tiny
from tests.training.runs import INNER, NESTED, built, config, recipe, run

FACTS = {"channels": 3, "classes": 4}
FLAT = {"name": "end_to_end", "resolutions": [8], "denoiser": INNER, "sampling": {"steps": 2}}
KINDS = {
    "end_to_end": FLAT,
    "latent": {**FLAT, "name": "latent"},
    "mdm": {**FLAT, "name": "mdm", "resolutions": [8, 4], "denoiser": NESTED},
    "cascaded": {**FLAT, "name": "cascaded", "resolutions": [8, 4], "stages": [{}, {}]},
}
each = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The weights of a method of each kind, as a run leaves them, with moved weights."""
    folder = tmp_path_factory.mktemp("teachers")
    for kind, node in KINDS.items():
        save(folder / kind / "weights.safetensors", node)
    return {kind: folder / kind for kind in KINDS}


def save(path: Path, node: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, tensors_of(tiny.randomised(built(node))), config(node))
    return path


def node_of(of: Path, **options: object) -> dict:
    return completed({"name": "distilled", "of": str(of), "steps": [2, 1], **options})


def ready(of: Path, **options: object) -> Method:
    """With the weights that a run starts from, learnt by each student from its teacher."""
    method = methods.build(node_of(of, **options), offered=FACTS)
    teacher, _ = load_method(of / "weights.safetensors")
    for stage, other in zip(method.stages, teacher.stages, strict=False):
        stage.load_state_dict(other.state_dict())
    for before, stage in zip([None, *method.stages], method.stages, strict=False):
        if stage.share:
            stage.start(before, None)
    return method


def request(n: int = 2, **options: object) -> Request:
    cond = Cond(labels=torch.arange(n) % 4)
    return Request(n, cond, noise=per_example(list(range(n))), **options)


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


@each
def test_no_round_is_the_teacher_bit_for_bit(kind: str, files: dict[str, Path]):
    method = methods.build(node_of(files[kind], steps=[]), offered=FACTS)
    teacher, _ = load_method(files[kind] / "weights.safetensors")
    method.load_state_dict(teacher.state_dict())
    assert stage_steps(method, 10) == [0] * len(teacher.stages)
    assert same(method.sample(request()), teacher.sample(request()))


@each
def test_each_stage_of_the_teacher_has_a_student_for_each_number_of_steps(
    kind: str, files: dict[str, Path]
):
    method = ready(files[kind])
    chain = method.contrasts["teacher"].chain
    rest = [stage for stage in method.stages if stage.share]
    assert [stage.name for stage in rest] == [
        f"{one.name} in {words}" for one in chain for words in ("2 steps", "1 step")
    ]
    assert sum(stage.share for stage in rest) == pytest.approx(1)
    finest = method.at(8)
    assert finest is rest[-1] and finest.evaluations == len(chain)
    assert method.at(8, 2).evaluations == 2 * len(chain)
    assert [one.sampling.steps for one in method.at(8, 2).chain] == [2] * len(chain)
    for stage in rest:
        assert isinstance(stage.sampling.rule, DDIM)
        assert stage.denoiser is not stage._pupil_of[0].denoiser
    images = method.sample(request(steps=2))
    assert same(images, method.at(8, 2).sample(request(steps=2)))
    assert list(images) == list(method.resolutions)


@each
def test_students_that_have_learnt_nothing_are_their_teacher_under_ddim(
    kind: str, files: dict[str, Path]
):
    method = ready(files[kind])
    sampling = {"steps": 2, "rule": {"name": "ddim"}}
    plain = ready(files[kind], steps=[], sampling=sampling)
    assert same(method.sample(request(steps=2)), plain.sample(request()))


@each
def test_a_step_moves_the_student_alone(kind: str, files: dict[str, Path]):
    method = ready(files[kind])
    student = method.at(8, 2)
    kept = {name: part.clone() for name, part in method.state_dict().items()}
    batch = tiny.batch("class", side=8)
    loss = student(batch, student.draw(batch, tiny.noise()))
    assert {f"loss/{name}" for name in student.level_names} <= set(loss.logs)
    loss.total.backward()
    own = {id(parameter) for parameter in student.denoiser.parameters()}
    assert all((p.grad is not None) == (id(p) in own) for p in method.parameters())
    assert all(torch.equal(part, kept[name]) for name, part in method.state_dict().items())


def test_guidance_is_learnt_first_and_costs_no_call(files: dict[str, Path]):
    """The target of the first round is the guided x0 at the times that the next one needs."""
    method = ready(files["mdm"], guidance=3.0, sampling={"guidance": 3.0})
    first = method.stages[1]
    assert first.name == "8x4 in one call a step" and first.objective.steps == 4
    assert method.at(8).evaluations == 1 and method.contrasts["teacher"].evaluations == 4
    batch = tiny.batch("class", side=8)
    x0 = first.encode(batch.images)
    i = torch.tensor([1.0, 2, 3, 4])
    teacher = method.stages[0]
    found = first.objective.targets(first.process, teacher.denoise, x0, i, batch.cond)
    without = batch.cond.dropped(torch.ones(4, dtype=torch.bool))
    moment = first.process.moment(i / 4)
    strong, weak = (teacher.denoise(cond)(x0, moment, None).x0 for cond in (batch.cond, without))
    for level, s, w in zip(found, strong, weak, strict=True):
        torch.testing.assert_close(level, w + 3 * (s - w))


@torch.no_grad()
def test_guidance_is_learnt_at_the_times_and_on_the_channels_of_the_teachers(
    files: dict[str, Path],
):
    where = {"interval": [0.3, 0.8], "channels": 2}
    method = ready(files["end_to_end"], guidance=3.0, sampling=where)
    teacher, first = method.stages[:2]
    x0, cond = first.encode(tiny.batch("class", side=8).images), tiny.batch("class", side=8).cond
    i = torch.tensor([1.0, 2, 3, 4])  # of 4: times 0.25, 0.5, 0.75, 1
    (found,) = first.objective.targets(first.process, teacher.denoise, x0, i, cond)
    moment = first.process.moment(i / 4)
    without = cond.dropped(torch.ones(4, dtype=torch.bool))
    ((strong,), (weak,)) = (teacher.denoise(one)(x0, moment, None).x0 for one in (cond, without))
    wanted = strong.clone()
    wanted[1:3, :2] = (weak + 3 * (strong - weak))[1:3, :2]
    assert float((strong - weak).abs().max()) > 1e-3
    torch.testing.assert_close(found, wanted)


def test_the_students_steps_are_chosen_by_the_sampler(files: dict[str, Path]):
    chosen = ready(files["end_to_end"], sampling={"steps": 2, "threshold": {"name": "none"}})
    assert chosen.at(8).evaluations == 2
    assert chosen.at(8).sampling.threshold == {"name": "none"}
    with pytest.raises(ValueError, match=r"sampling.steps=3: the students are of \[2, 1\] steps"):
        ready(files["end_to_end"], sampling={"steps": 3})


def test_a_student_can_be_distilled_on(tmp_path: Path, files: dict[str, Path]):
    node = node_of(files["end_to_end"], steps=[4])
    again = on_shapes(node_of(save(tmp_path / "weights.safetensors", node), steps=[2]),
                      offered=FACTS)  # fmt: skip
    assert [stage.name for stage in again.stages] == [
        "8",
        "8 in 4 steps",
        "8 in 4 steps in 2 steps",
    ]


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_and_stands_alone(tmp_path: Path):
    """Weights are those of a run that did not stop; they are sampled without the teacher's file."""
    weights = save(tmp_path / "teacher" / "weights.safetensors", FLAT)
    node = node_of(weights.parent)
    summary = run(tmp_path / "whole", node, keep=9)
    assert summary.stage_steps == (0, 6, 6)
    run(tmp_path / "run", node, keep=9)
    for path in [*(tmp_path / "run" / "checkpoints").iterdir()]:
        if path.stem > "step_0000008":  # in the second round
            path.unlink()
    (tmp_path / "run" / "weights.safetensors").unlink()
    again = run(tmp_path / "run", node, keep=9)
    assert again.resumed_at == 8
    weights.unlink()
    whole, gone_on = (load_method(one.weights)[0] for one in (summary, again))
    assert all(torch.equal(whole.state_dict()[name], part)
               for name, part in gone_on.state_dict().items())  # fmt: skip
    assert gone_on.sample(request())[8].shape == (2, 3, 8, 8)


def test_what_cannot_be_distilled_is_refused_in_a_sentence(tmp_path: Path, files: dict[str, Path]):
    def refused(of: Path, message: str, **options: object) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            on_shapes(node_of(of, **options), offered=FACTS)

    refused(files["mdm"], r"steps=\[4, 1\]: a student takes half the steps", steps=[4, 1])
    refused(files["mdm"], r"guidance=2.0 is distilled in by a round", guidance=2.0, steps=[])
    with pytest.raises(ValueError, match="of=null: name the run"):
        weights_of(None)
    refused(tmp_path / "nowhere", r"there is no checkpoint .*nowhere")
    eps = {"parameterization": {"prediction": "eps"}}
    schedule = {"name": "cosine"}
    path = save(tmp_path / "eps" / "weights.safetensors",
                {**FLAT, "schedule": schedule, "objective": eps})  # fmt: skip
    refused(path, r"predicts eps, .*train a teacher of prediction v or x0")
    bridge = {"name": "augmented", "truncated": True}
    path = save(tmp_path / "cut" / "weights.safetensors", {**KINDS["cascaded"], "bridge": bridge})
    refused(path, r"stops the stage before it .*truncated=false")
    check_run(on_shapes(node_of(files["mdm"]), offered=FACTS), tmp_path, recipe(), config(FLAT))
