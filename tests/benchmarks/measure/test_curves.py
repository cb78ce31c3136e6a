"""A learning curve says what every snapshot was worth, and what had been spent by then."""

from __future__ import annotations

import pytest
import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.curves import learning_curves, loss_identity, validation_loss
from benchmarks.measure.kept import Kept
from benchmarks.measure.samples import Draw
from benchmarks.measure.scale import real_references
from benchmarks.measure.stream import Gauge
from benchmarks.plan.plan import Plan, StagePlan
from benchmarks.settings import Curve
from hierdiff.metrics.extractors import RandomConv
from hierdiff.training.format import unpacked, write_packed
from hierdiff.training.run import SNAPSHOTS
from tests.training.runs import GROWN, NODE, built, images, run

WANTED = Curve(samples=6, metrics=["fd", "kd"], loss=10)
STAGES = [StagePlan("4", 4, 0.0, [(5, 10.0)]), StagePlan("8x4", 4, 0.0, [(7, 100.0)])]
PLAN = Plan({}, 12, 2, STAGES, 0.0)


def curves(folder, method, plan, wanted, data, gauge):
    draw = Draw(method, EvaluationConditions(data), 0, "32-true")
    return learning_curves(folder, method, draw, gauge, plan=plan, wanted=wanted, kept=Kept())


def losses_alone(folder, plan):
    gauge = Gauge(RandomConv(width=4), {})
    return curves(folder, built(), plan, Curve(0, [], 10), images(), gauge)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Of a network that grows from 4 px to 8 px: two snapshots in each stage, two averages."""
    folder = tmp_path_factory.mktemp("run")
    run(folder, GROWN, snapshots=2)
    data, extractor = images(), RandomConv(width=4)
    references = real_references(data, extractor, (8, 4), folder)
    return curves(folder, built(GROWN), PLAN, WANTED, data, Gauge(extractor, references))


def test_every_snapshot_and_average_has_its_losses(rows):
    losses = [row for row in rows if row.metric == "validation loss"]
    places = [(row.step, row.half_life, row.resolution) for row in losses]
    low = [(step, half, 4) for step in (2, 5) for half in (0, 16)]
    both = [(step, half, side) for step in (9, 12) for half in (0, 16) for side in (8, 4)]
    assert places == low + both


def test_what_was_spent_stands_beside_each_point(rows):
    spent = {row.step: (row.images, row.flops, row.stage) for row in rows}
    assert spent == {
        2: (8, 20.0, "4"), 5: (20, 50.0, "4"), 9: (36, 450.0, "8x4"), 12: (48, 750.0, "8x4")
    }  # fmt: skip
    seconds = [row.seconds for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_stage_of_the_low_level_is_measured_there_alone(rows):
    seen = {(row.step, row.resolution, row.view) for row in rows if row.metric.startswith("FD")}
    low = {(step, 4, "native") for step in (2, 5)}
    whole = [(8, "native"), (4, "native"), (4, "pooled")]
    assert seen == low | {(step, *place) for step in (9, 12) for place in whole}


def test_a_snapshot_is_measured_with_its_own_weights(rows):
    losses = [row for row in rows if row.metric == "validation loss"]
    for half in (0, 16):
        for side, count in ((8, 2), (4, 4)):
            own = [r.value for r in losses if (r.half_life, r.resolution) == (half, side)]
            assert len(set(own)) == len(own) == count


def test_the_validation_loss_is_the_same_at_every_look():
    stage = built(NODE).stages[0]
    looks = [list(validation_loss(stage, images(), 10, "32-true")) for _ in range(2)]
    assert looks[0] == looks[1]
    torch.manual_seed(1)  # the noise is none of the process's
    assert list(validation_loss(stage, images(), 10, "32-true")) == looks[0]


def test_a_student_whose_teacher_is_not_there_has_no_validation_loss(tmp_path, caplog):
    """Its snapshots are measured by their samples, and the log says why the loss is left out."""
    folder = tmp_path / "run"
    teacher = run(tmp_path / "teacher", steps=2).weights
    objective = {"name": "progressive_distillation", "steps": 4, "teacher": str(teacher)}
    node = {**NODE, "objective": objective}
    run(folder, node, snapshots=1, steps=2)
    data, extractor = images(), RandomConv(width=4)
    gauge = Gauge(extractor, real_references(data, extractor, (8, 4), tmp_path))
    rows = curves(folder, built(node), Plan({}, 2, 2, STAGES[1:], 0.0), WANTED, data, gauge)
    assert rows and all(row.metric != "validation loss" for row in rows)
    assert "its teacher is not kept with it" in caplog.text


def test_losses_of_other_processes_are_other_quantities():
    one, same = (loss_identity(built(NODE).stages[0], 10, 20) for _ in range(2))
    shifted = loss_identity(built({**NODE, "shift": 2.0}).stages[0], 10, 20)
    other = loss_identity(built({**NODE, "objective": {"loss_space": "v"}}).stages[0], 10, 20)
    assert one == same and len({one, shifted, other}) == 3


def test_without_samples_the_loss_alone_is_measured(tmp_path):
    run(tmp_path, snapshots=1)
    rows = losses_alone(tmp_path, Plan({}, 12, 2, STAGES[1:], 0.0))
    assert {row.metric for row in rows} == {"validation loss"}


def test_operations_that_are_unknown_are_none(tmp_path):
    run(tmp_path, snapshots=1)
    stages = [StagePlan("8x4", 4, 0.0, [(12, None)])]
    rows = losses_alone(tmp_path, Plan({}, 12, 2, stages, None))
    assert {row.flops for row in rows} == {None} and rows[-1].images == 48


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def without(name):
    def damage(path):
        tensors, facts = unpacked(path)
        taken = {key: value for key, value in facts["taken"].items() if key != name}
        write_packed(path, tensors, {**facts, "taken": taken})

    return damage


def of_another_stage(path):
    tensors, facts = unpacked(path)
    write_packed(path, tensors, {**facts, "taken": {**facts["taken"], "stage": 7}})


@pytest.mark.parametrize("damage", [cut, without("stage"), without("seconds"), of_another_stage])
def test_a_damaged_snapshot_is_left_out_and_named(damage, tmp_path, caplog):
    run(tmp_path, snapshots=2)
    first = min((tmp_path / SNAPSHOTS).glob("step_*_ema_0.safetensors"))
    damage(first)
    with caplog.at_level("WARNING"):
        rows = losses_alone(tmp_path, Plan({}, 12, 2, STAGES[1:], 0.0))
    assert {row.step for row in rows if row.half_life == 0} == {12}
    assert f"leaves out {first}" in caplog.text
