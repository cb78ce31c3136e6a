"""A teacher inside the loss: the stage of another run, or the stage before."""

from pathlib import Path

import pytest
import torch

from hierdiff.inputs import inputs
from hierdiff.methods import Method, Request, methods, on_shapes
from hierdiff.metrics.cost import flops
from hierdiff.objective import objectives
from hierdiff.training import check_run, load_method, train
from tests.training.runs import NODE, built, config, images, recipe, run

DISTILLED = {"name": "progressive_distillation", "steps": 4}
FACTS = {"channels": 3, "classes": 4}


def student(teacher: Path | None = None, **options) -> dict:
    objective = DISTILLED if teacher is None else {**DISTILLED, "teacher": str(teacher)}
    return {**NODE, "objective": objective, "sampling": {"rule": {"name": "ddim"}, "steps": 4},
            **options}  # fmt: skip


def distil(folder: Path, node: dict, **options):
    method = built(node, seed=1)
    kept = config(node, inputs=inputs({"method": node}))
    return method, train(method, images(), folder, recipe(**options), seed=1, config=kept)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("teacher"), steps=6).weights


def test_a_student_starts_from_its_teacher_and_ends_elsewhere_with_its_weights_alone(
    tmp_path: Path, teacher: Path
):
    before, _ = load_method(teacher)
    start, _ = distil(tmp_path / "start", student(teacher), lr=0.0, steps=1, warmup=0)
    method, summary = distil(tmp_path / "run", student(teacher))
    wanted = before.state_dict()
    assert all(torch.equal(part, wanted[name]) for name, part in start.state_dict().items())
    assert any(not torch.equal(part, wanted[name]) for name, part in method.state_dict().items())
    assert set(summary.loss) == {"loss", "loss/8", "loss/4"}
    again, _ = load_method(summary.weights)
    assert again.state_dict().keys() == wanted.keys()
    assert len(list(again.parameters())) == len(list(before.parameters()))
    assert again.stages[-1].lacks_teacher and not method.stages[-1].lacks_teacher
    assert not before.stages[-1].lacks_teacher
    assert again.stages[-1].notes == (f"distilled from the network of another run ({teacher})",)


def test_a_student_is_sampled_without_its_teacher(tmp_path: Path):
    weights = run(tmp_path / "teacher", steps=2).weights
    _, summary = distil(tmp_path / "run", student(weights), steps=2)
    weights.unlink()
    method, _ = load_method(summary.weights)
    request = Request(1, noise=lambda shape: torch.ones(tuple(shape)))
    assert method.sample(request)[8].shape == (1, 3, 8, 8)


@pytest.mark.slow
def test_a_distillation_that_stopped_ends_with_the_same_weights(tmp_path: Path, teacher: Path):
    whole, _ = distil(tmp_path / "whole", student(teacher), keep=5)
    distil(tmp_path / "run", student(teacher), keep=5)
    for name in ("step_0000008", "step_0000012"):
        (tmp_path / "run" / "checkpoints" / f"{name}.safetensors").unlink(missing_ok=True)
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.stem for path in kept] == ["step_0000004"]
    (tmp_path / "run" / "weights.safetensors").unlink()
    again, summary = distil(tmp_path / "run", student(teacher), keep=5)
    assert summary.resumed_at == 4
    wanted = whole.state_dict()
    assert all(torch.equal(part, wanted[name]) for name, part in again.state_dict().items())


def test_a_teacher_that_has_changed_is_found_out(tmp_path: Path):
    weights = run(tmp_path / "teacher", steps=2).weights
    other = run(tmp_path / "other", steps=2, seed=1).weights
    distil(tmp_path / "run", student(weights))
    weights.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"another content of method.objective.teacher"):
        distil(tmp_path / "run", student(weights))


def refused(node: dict, folder: Path):
    check_run(on_shapes(node, offered=FACTS), folder, recipe(), config(node))


def test_what_cannot_teach_is_refused_before_compute(tmp_path: Path, teacher: Path):
    refused(student(teacher), tmp_path)
    with pytest.raises(ValueError, match=r"stage 8x4 has no teacher: give objective.teacher"):
        refused(student(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing"):
        refused(student(tmp_path / "missing"), tmp_path)
    with pytest.raises(ValueError, match=r"differs in its meaning"):
        refused(student(teacher, schedule={"name": "sigmoid"}), tmp_path)
    with pytest.raises(ValueError, match=r"differs in its meaning \(Pyramid.*, here Laplacian"):
        refused(student(teacher, basis="laplacian"), tmp_path)


class Halved(Method):
    """A network trained by score matching, then one of the same shapes which it teaches."""

    def __init__(self):
        parts = [methods.build(node, offered=FACTS) for node in (NODE, student())]
        super().__init__(parts[0].resolutions, [part.stages[0] for part in parts])
        for stage, name in zip(self.stages, ("teacher", "student"), strict=True):
            stage.name, stage.share = name, 0.5


def test_the_stage_before_teaches_where_no_file_is_named(tmp_path: Path):
    torch.manual_seed(0)
    method = Halved()
    check_run(method, tmp_path, recipe(), {})
    train(method, images(), tmp_path / "half", recipe(), config={})
    first, second = method.stages
    kept = {name: part.clone() for name, part in first.state_dict().items()}
    assert not any(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(),
                                                     strict=True) if p.ndim == 4)  # fmt: skip
    draws = second.draw(images().batch(torch.arange(4)), lambda shape: torch.randn(tuple(shape)))
    method.zero_grad()
    second(images().batch(torch.arange(4)), draws).total.backward()
    assert all(parameter.grad is None for parameter in first.parameters())
    assert any(parameter.grad is not None for parameter in second.parameters())
    assert all(torch.equal(part, kept[name]) for name, part in first.state_dict().items())


def test_the_work_of_the_teacher_is_counted_in_a_training_step():
    """Two forward passes more than score matching."""

    def work(node) -> tuple[int, int]:
        stage = built(node).stages[-1]
        stage.start_untrained()
        batch = images().batch(torch.arange(4))
        draws = stage.draw(batch, lambda shape: torch.zeros(tuple(shape)))
        with torch.no_grad():
            forward = flops(lambda: stage(batch, draws))
        return forward, flops(lambda: stage(batch, draws).total.backward())

    forward, training = work(NODE)
    assert work(student()) == (3 * forward, training + 2 * forward)
    assert sum(p.numel() for p in on_shapes(student(), offered=FACTS).parameters()) == sum(
        p.numel() for p in on_shapes(NODE, offered=FACTS).parameters()
    )


def test_the_role_lists_both_objectives():
    assert {"score", "progressive_distillation"} <= set(objectives)
