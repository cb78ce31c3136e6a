"""What a method costs: cases in processes of their own, asked in turn, and reasons for failures."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import yaml
from torch import get_num_threads

from benchmarks.cost import work, worker
from benchmarks.cost.__main__ import main
from benchmarks.cost.again import time_again
from benchmarks.cost.cases import Case, by_resolution, cases_of, trajectories
from benchmarks.cost.sampling import SamplingTimer, flops_of_sample
from benchmarks.cost.work import serve, untrained_stage
from benchmarks.cost.worker import CaseFailure, Worker, best_batch, costs
from benchmarks.settings import TimingOptions
from benchmarks.tables.table import tabulate
from hierdiff.config import from_yaml, to_yaml
from hierdiff.files.atomic import write
from hierdiff.files.lock import Busy, worked_in
from hierdiff.inputs import inputs
from hierdiff.methods import Request, methods
from hierdiff.results.cost import BatchTrial, Cost
from hierdiff.results.record import Record
from hierdiff.training import Recipe, train
from hierdiff.training.step import TrainingStep
from hierdiff.training.untrained import ShapeFabric, UntrainedSteps
from tests import tiny
from tests.benchmarks.rows import cells, record
from tests.training import runs

CASE = Case(
    method=tiny.method_node("mdm"),
    facts=tiny.facts("class"),
    trajectory=[16, 8],
    what="sample",
    batches=[4],
    precision="32-true",
    device="cpu",
    repeats=2,
)


class Asked(Worker):
    """In place of a process: takes as long as it is told, and fails where it is told."""

    log: list[tuple[int, str, str]] = []
    seconds: dict[int, float] = {}  # of a batch
    fails: dict[tuple[int, str], str] = {}  # batch and call

    def __init__(self, case: Case, batch: int):
        self.case, self.batch = case, batch
        self.times: dict[str, list[float]] = {}
        self._did("start")

    def _did(self, what: str) -> None:
        Asked.log.append((self.case.finest, self.case.what, what))
        if (self.batch, what) in Asked.fails:
            raise CaseFailure(Asked.fails[self.batch, what])

    @property
    def images_per_s(self) -> float:
        return self.batch / Asked.seconds.get(self.batch, 1.0)

    def repeat(self) -> None:
        self._did("repeat")

    def memory(self) -> dict[str, Any]:
        self._did("memory")
        return {f"{self.case.what}_memory_mib": 10.0 * self.batch}

    def row(self) -> dict[str, Any]:
        self._did("row")
        return {f"{self.case.what}_images_per_s": self.images_per_s}

    def close(self) -> None:
        Asked.log.append((self.case.finest, self.case.what, "close"))


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(worker, "Worker", Asked)
    Asked.log, Asked.seconds, Asked.fails = [], {}, {}
    return Asked


# ---------------------------------------------------------------- who asks


def test_the_batch_size_with_the_best_throughput_is_kept(asked):
    asked.seconds = {1: 1.0, 2: 1.0, 4: 1.2, 8: 4.0}
    worker, tried = best_batch(replace(CASE, batches=[1, 2, 4, 8]))
    assert worker is not None and worker.batch == 4
    assert [row.images_per_s for row in tried] == pytest.approx([1, 2, 4 / 1.2, 2])
    assert [row.memory_mib for row in tried] == [10, 20, 40, 80]
    closed = [what for *_, what in asked.log].count("close")
    assert closed == 3  # all but the one that is kept


@pytest.mark.parametrize("when", ["start", "repeat", "memory"])
def test_memory_that_runs_out_ends_the_search_and_is_told(asked, when):
    asked.fails = {(4, when): "out of memory at batch 4"}
    worker, tried = best_batch(replace(CASE, batches=[1, 2, 4, 8]))
    assert worker is not None and worker.batch == 2
    assert tried[-1] == BatchTrial("batch 4", failure="out of memory at batch 4")


def test_a_case_that_never_fits_is_a_row_with_its_reason(asked):
    asked.fails = {(4, "start"): "out of memory at batch 4"}
    (row,) = costs([CASE])
    assert row == replace(CASE.conditions, sample_failure="out of memory at batch 4")
    assert row.device == "cpu" and row.dtype == "32-true" and row.threads == 1


def test_a_row_whose_samples_did_not_fit_shares_a_table_with_others(asked):
    cases = [replace(CASE, what="train"), replace(CASE, batches=[2])]
    whole = by_resolution(costs(cases))
    asked.fails = {(2, "start"): "out of memory at batch 2"}
    table = tabulate(
        [record("a", cost=tuple(whole)), record("b", cost=tuple(by_resolution(costs(cases))))]
    )
    assert table.words[table.column("16 px", "sample img/s")] == {"b": "OOM"}
    assert cells(table).loc["b", ("16 px", "train img/s ↑")] == 4


def test_a_case_that_fails_late_does_not_take_the_others_along(asked):
    asked.fails = {(4, "row"): "error: no luck"}
    other = replace(CASE, what="train", batches=[2])
    failed, made = costs([CASE, other])
    assert failed.sample_failure == "error: no luck"
    assert made.train_images_per_s == 2
    assert [what for *_, what in asked.log].count("close") == 2


def test_repeats_are_interleaved_backwards_and_forwards(asked):
    cases = [replace(CASE, trajectory=[side], repeats=3) for side in (1, 2, 3)]
    costs(cases)
    order = [side for side, _, what in asked.log if what == "repeat"]
    assert order == [1, 2, 3] + [3, 2, 1] + [1, 2, 3]


def test_the_cost_of_a_trajectory_is_a_row_at_each_resolution_that_it_makes():
    joint = Cost(16, (16, 8))
    alone = Cost(8, (8,), "alone", latency_s=2.0)
    rows = [replace(joint, compile_s=0.0), alone, replace(joint, latency_s=3.0)]
    both = replace(joint, compile_s=0.0, latency_s=3.0)
    assert by_resolution(rows) == [both, replace(both, level=8), alone]


@pytest.mark.parametrize(
    ("name", "options", "together"),
    [
        ("mdm", {}, [(16, 8)]),
        ("mdm", {"growth": [0.5]}, [(16, 8)]),
        ("mdm", {"fractions": [0.5, 1]}, [(16, 8)]),
        ("cascaded", {}, [(16,), (8,)]),
        ("end_to_end", {}, [(16,)]),
    ],
)
def test_each_resolution_costs_what_makes_the_images_that_are_measured_there(
    name, options, together
):
    method = tiny.method(name, **options)
    assert trajectories(method) == together
    for sides in together:
        case = replace(CASE, method=tiny.method_node(name, **options), trajectory=sides)
        images = untrained_stage(case).sample(Request(2, noise=tiny.noise()))
        sampled = method.sample(Request(2, noise=tiny.noise()))  # as the harness measures them
        assert {*sides} <= {*images} <= {*sampled}


def test_a_coarse_image_of_joint_levels_costs_the_whole_trajectory():
    method = methods.build(CASE.method, offered=CASE.facts)
    whole, coarse = (flops_of_sample(method.at(side)) for side in (16, 8))
    alone = flops_of_sample(untrained_stage(replace(CASE, trajectory=[8], alone=True)))
    assert whole == coarse > 1.1 * alone > 0


def test_a_part_alone_is_measured_only_where_it_is_asked_for_and_is_a_part():
    trainer = {"precision": "32-true", "channels_last": False, "compile": False}
    config = {"method": CASE.method, "facts": CASE.facts, "text": None, "trainer": trainer}

    def cases(trajectories: Any, alone: bool = False) -> list[tuple[list[int], bool]]:
        found = cases_of(config, trajectories, TimingOptions([4], None, 1, alone), "cpu")
        return [(list(case.trajectory), case.alone) for case in found[::2]]

    assert cases([(16, 8)]) == [([16, 8], False)]
    assert cases([(16, 8)], alone=True) == [([16, 8], False), ([8], True)]
    assert cases([(16,), (8,)], alone=True) == [([16], False), ([8], False)]


def test_a_cascade_is_counted_down_to_the_handover():
    """One image at the finest resolution needs no more of the stage before."""
    bridge = {"name": "augmented", "truncated": True, "log_snr": 1.0}
    stage = untrained_stage(replace(CASE, method=tiny.method_node("cascaded", bridge=bridge)))
    counted = [0, 0]
    for i, part in enumerate(stage.chain):
        part.denoiser.register_forward_hook(lambda *_, i=i: counted.__setitem__(i, counted[i] + 1))
    stage.sample(Request(1, noise=tiny.noise(), resolutions=[16]))
    assert counted == [part.calls for part in stage.parts()] == [2, 3]
    assert sum(counted) == stage.evaluations < stage.previous.evaluations + 3


# ---------------------------------------------------------------- finished runs again


@pytest.fixture
def finished(tmp_path):
    """Two runs and one that failed, as a sweep leaves them."""
    for name in ("a", "b"):
        folder = tmp_path / name
        trainer = {"precision": "32-true", "channels_last": False, "compile": False}
        kept = {"method": CASE.method, "facts": CASE.facts, "text": None, "trainer": trainer}
        write(folder / "config.yaml", to_yaml(json.loads(json.dumps(kept))))
        options = {"cost": {"batches": [4], "repeats": 0, "memory_cap": None}}
        record(name, resolutions=(16, 8), config=options).write(folder)
    record("c", failure="no luck").write(tmp_path / "c")
    return tmp_path


def test_finished_runs_are_timed_together_and_their_records_say_so(finished, asked):
    time_again([str(finished)], {"repeats": 2, "batches": None, "memory_cap": None})
    for name in ("a", "b"):
        found = Record.read(finished / name)
        assert [row.resolution for row in found.cost] == [16, 8] and not found.edited
        timed = {"train_images_per_s": 4.0, "sample_images_per_s": 4.0}
        about = replace(CASE, trajectory=[16], threads=get_num_threads()).conditions
        assert found.cost[0] == replace(about, **timed)
        assert found.provenance["cost"]["together"] == ["a", "b"]
        assert found.provenance["machine"] == {"cpu": "Abacus 1"}  # of its training
    order = [(what, side) for side, what, call in asked.log if call == "repeat"]
    one = [("train", 16), ("train", 8)] * 2
    assert order[:8] == one + one[::-1]  # both runs, forwards and backwards
    time_again([str(finished)], {"repeats": 1, "batches": None, "memory_cap": None})
    assert found.cost[1].trajectory == (8,)  # an older record does not say what goes together


def test_what_one_trajectory_makes_is_timed_once_again(finished, asked):
    for name in ("a", "b"):
        found = Record.read(finished / name)
        rows = by_resolution([CASE.conditions])
        replace(found, cost=tuple(rows)).write(finished / name)
    time_again([str(finished)], {"repeats": 1, "batches": None, "memory_cap": None})
    assert [(what, side) for side, what, call in asked.log if call == "row"] == [
        ("train", 16), ("train", 16), ("sample", 16), ("sample", 16),
    ]  # fmt: skip
    assert [row.resolution for row in Record.read(finished / "a").cost] == [16, 8]
    assert Record.read(finished / "c").failure == "no luck"


def test_what_was_timed_together_is_left_alone_unless_asked(finished, asked):
    wanted = {"repeats": 1, "batches": None, "memory_cap": None}
    time_again([str(finished)], wanted)
    before, calls = (finished / "a" / "record.json").read_bytes(), len(asked.log)
    time_again([str(finished)], wanted)
    assert (finished / "a" / "record.json").read_bytes() == before and len(asked.log) == calls
    time_again([str(finished)], wanted, anew=True)
    assert len(asked.log) == 2 * calls
    time_again([str(finished)], {**wanted, "memory_cap": 100.0})  # another question
    assert len(asked.log) == 3 * calls


def test_a_run_that_is_worked_on_is_not_timed(finished, asked):
    with worked_in(finished / "b"), pytest.raises(Busy, match="another process works in"):
        time_again([str(finished)], {"repeats": 1, "batches": None, "memory_cap": None})
    assert not asked.log


def test_a_record_changed_by_hand_keeps_its_times_and_its_mark(finished, asked):
    path = finished / "b" / "record.json"
    path.write_text(path.read_text().replace("critters", "Critters"))
    time_again([str(finished)], {"repeats": 1, "batches": None, "memory_cap": None})
    assert Record.read(path).edited and not Record.read(path).cost
    assert Record.read(finished / "a").provenance["cost"]["together"] == ["a"]


def test_a_run_made_from_what_has_changed_since_keeps_its_times(finished, asked, caplog):
    """The code that is there now would be timed beside the quality of another."""
    code, config = finished / "code.txt", finished / "b" / "config.yaml"
    code.write_text("old")
    config.write_text(f"{config.read_text()}\ndata: {{captions: {code}}}\n")
    path = finished / "b" / "record.json"
    made_of = inputs(from_yaml(config))
    before = Record.read(path)
    replace(before, provenance={**before.provenance, "inputs": made_of}).write(path)
    wanted = {"repeats": 1, "batches": None, "memory_cap": None}
    time_again([str(finished)], wanted)
    assert Record.read(path).provenance["cost"]["together"] == ["a", "b"]
    kept = path.read_bytes()
    code.write_text("new")
    time_again([str(finished)], wanted, anew=True)
    assert path.read_bytes() == kept and "another content of data.captions" in caplog.text
    assert Record.read(finished / "a").provenance["cost"]["together"] == ["a"]


def test_a_run_that_joined_later_makes_all_of_them_be_timed_again(finished, asked):
    wanted = {"repeats": 1, "batches": None, "memory_cap": None}
    time_again([str(finished / "a")], wanted)
    asked.log.clear()
    time_again([str(finished)], wanted)
    assert {call for *_, call in asked.log} >= {"start", "row"}
    assert Record.read(finished / "a").provenance["cost"]["together"] == ["a", "b"]


def refused(*words: str) -> None:
    """The command ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1


@pytest.mark.parametrize(
    "place",
    ["method.denoiser", "method.denoiser.inner", "method.schedule", "method.sampling.rule", "text"],
)
def test_a_shared_run_cannot_run_code(finished, asked, monkeypatch, capsys, place):
    """Refused before an import; the owner of the code opens it by its path."""
    payload = finished / "b" / "payload.py"
    marker = f"import pathlib\npathlib.Path({str(finished / 'executed')!r}).touch()\n"
    payload.write_text(f"{marker}class X: ...\n")
    for module in ("b", "b.payload"):  # which the last of these cases imports in the end
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.chdir(finished)
    monkeypatch.syspath_prepend(finished)
    config = yaml.safe_load((finished / "b" / "config.yaml").read_text())
    *parts, last = place.split(".")
    inside = config
    for part in parts:
        inside = inside.setdefault(part, {})
    inside[last] = {"name": "b.payload:X"}
    write(finished / "b" / "config.yaml", to_yaml(config))
    kept = (finished / "a" / "record.json").read_bytes()
    for trust in ((), ("--trust", "b"), ("--trust", "b.payload")):
        refused(str(finished), *trust)
        said = capsys.readouterr().err
        assert "b/config.yaml wants to import 'b.payload:X'" in said and str(payload) in said
    assert not asked.log and not (finished / "executed").exists()
    assert (finished / "a" / "record.json").read_bytes() == kept
    with suppress(SystemExit):  # X is nothing that a run could use
        main([str(finished), "--trust", str(payload), "--repeats", "1"])
    assert "wants to import" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch executed']",
        "method: !!python/name:os.system",
        "method: &a [1, 2]\nfacts: {x: *a}",
        "method: " + "[" * 5000 + "]" * 5000,
        "method: " + "{a: " * 80 + "1" + "}" * 80 + "\nfacts: {}\ntrainer: {}",
        "a: " + "x" * (1 << 24),
        "[1, 2]",
        "facts: {}",
        "\x00",
        "",
    ],
    ids=["call", "name", "alias", "deep", "deeper", "large", "list", "lacks", "zero", "empty"],
)
def test_a_config_that_is_none_is_one_sentence(finished, asked, monkeypatch, capsys, text):
    monkeypatch.chdir(finished)
    (finished / "b" / "config.yaml").write_text(text)
    refused(str(finished))
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "b/config.yaml" in said
    assert not asked.log and not (finished / "executed").exists()


def test_costs_that_all_fail_do_not_replace_good_ones(finished, asked, capsys):
    main([str(finished), "--repeats", "1"])
    kept = {name: (finished / name / "record.json").read_bytes() for name in "ab"}
    asked.fails = {(4, "start"): "no module payload"}
    refused(str(finished), "--repeats", "1", "--anew")
    assert "stay as they were" in (said := capsys.readouterr().err) and "no module payload" in said
    assert kept == {name: (finished / name / "record.json").read_bytes() for name in "ab"}


def test_where_nothing_is_finished_there_is_nothing_to_time(tmp_path, capsys):
    record("c", failure="no luck").write(tmp_path / "c")
    refused(str(tmp_path))
    assert "no finished run under" in capsys.readouterr().err


@pytest.mark.parametrize("batches", [[], [0, 4]])
def test_batch_sizes_that_are_none_are_refused(finished, batches):
    with pytest.raises(ValueError, match=r"cost.batches=.*whole numbers of 1 or more"):
        time_again([str(finished)], {"batches": batches, "repeats": 1, "memory_cap": None})


# ---------------------------------------------------------------- the process of a case


def answers(case: Case, *lines: str, batch: int = 2) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    given = io.StringIO("\n".join([json.dumps(asdict(case)), str(batch), *lines]) + "\n")
    serve(given, lambda answer: found.append(json.loads(json.dumps(answer))))
    return found


def test_a_sample_is_timed_in_a_batch_and_alone_and_told_by_its_parts():
    ready, repeat, memory, told = answers(CASE, "repeat", "memory", "describe 0.5")
    assert ready == {} and set(repeat) == {"seconds", "latency"}
    assert memory["host"] > 0 and memory["allocated"] is None
    assert told["batch"] == 2 and told["evaluations"] == 3 and told["energy_j"] is None
    assert told["flops_per_image"] == 3 * told["flops_per_call"] > 0
    names = [part["name"] for part in told["breakdown"]]
    assert names == ["stage 16x8", "rest"]
    assert told["breakdown"][0]["flops"] == told["flops_per_image"]


def test_a_step_of_training_is_timed(monkeypatch):
    ready, repeat, told = answers(replace(CASE, what="train"), "repeat", "describe 0.5")
    assert repeat["seconds"] > 0 and told == {"train_batch": 2, "compile_s": None}


TRAINER = {
    **{"steps": 9, "batch_size": 4, "accumulate": 2, "optimizer": "lamb", "lr": 0.5, "clip": 0.25},
    **{"optimizer_options": {"eps": 1e-3}, "weight_decay": 0.1},
    **{"ema": [8, 0, 16], "precision": "64-true", "channels_last": True, "compile": False},
}


def test_the_step_that_is_timed_is_the_trainers_own(monkeypatch, tmp_path):
    """Optimizer, its options, micro batches, precision, clipping and averages are compared where
    the trainer and the harness make the same object."""
    seen: list[dict[str, Any]] = []
    original = TrainingStep.__call__

    def spied(self: TrainingStep, step: int, chunks: Any, lr: float) -> Any:
        (player,) = self.players
        groups = [{k: v for k, v in g.items() if k not in ("params", "lr")}
                  for g in player.optimizer.param_groups]  # fmt: skip
        layouts = {p.is_contiguous(memory_format=torch.channels_last)
                   for p in player.parameters if p.ndim == 4}  # fmt: skip
        seen.append({
            "optimizer": (type(player.optimizer), groups),
            "chunks": [(number, batch.images.shape, batch.images.dtype,
                        batch.images.is_contiguous(memory_format=torch.channels_last))
                       for number, batch in chunks],
            "averages": (self.ema.half_lives, self.ema.ramp, len(self.ema.state())),
            "weights": ({p.dtype for p in player.parameters}, layouts),
            "recipe": (self.recipe.clip, self.recipe.precision),
            "precision": type(self.fabric._precision),
        })  # fmt: skip
        return original(self, step, chunks, lr)

    monkeypatch.setattr(TrainingStep, "__call__", spied)
    node = runs.NODE
    options = {**TRAINER, "accelerator": "cpu", "sheet_images": 1, "progress": False}
    train(runs.built(node), runs.images(), tmp_path, Recipe(**{**options, "steps": 1}))
    config = {"method": node, "facts": runs.images().facts, "text": None, "trainer": options}
    case, _ = cases_of(config, [(8, 4)], TimingOptions([2], None, 1), "cpu")
    assert answers(case, "describe 0.5")[1]["train_batch"] == 4  # of a step: two micro batches of 2
    trainers, harness, _ = seen
    assert trainers == harness


def test_adamw_is_timed_fused_as_it_is_trained():
    case = replace(CASE, what="train")
    steps = UntrainedSteps(
        ShapeFabric(), untrained_stage(case), case.trainer, facts=case.facts, images=2
    )
    (player,) = steps.step.players
    assert isinstance(player.optimizer, torch.optim.AdamW)
    assert all(group["fused"] for group in player.optimizer.param_groups)


def test_timing_a_step_leaves_the_weights_as_drawn():
    case = replace(CASE, what="train", recipe={"lr": 1e30})
    stage = untrained_stage(case)
    before = [p.detach().clone() for p in stage.parameters()]
    steps = UntrainedSteps(ShapeFabric(), stage, case.trainer, facts=case.facts, images=2)
    for _ in range(3):
        steps()
    assert all(torch.equal(a, b) for a, b in zip(before, stage.parameters(), strict=True))


def test_lack_of_memory_is_an_answer(monkeypatch):
    def full(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(work, "untrained_stage", full)
    assert answers(CASE) == [{"failure": "out of memory at batch 2"}]


def test_other_errors_are_none():
    with pytest.raises(ValueError, match="the method makes no images at 32"):
        answers(replace(CASE, trajectory=[32]))


def test_guidance_and_each_stage_of_a_chain_are_parts():
    node = tiny.method_node("cascaded", sampling={"steps": 3, "guidance": 2.0})
    stage = untrained_stage(replace(CASE, method=node))
    parts = {part["name"]: part for part in SamplingTimer(CASE, stage, 2).parts()}
    assert list(parts) == ["stage 8", "guidance 8", "stage 8to16", "guidance 8to16"]
    assert parts["guidance 8"]["flops"] == parts["stage 8"]["flops"]
    assert sum(part["flops"] for part in parts.values()) == flops_of_sample(stage)


def test_guidance_costs_where_it_acts():
    sampling = {"steps": 4, "guidance": 2.0, "interval": [0.4, 0.8]}
    stage = untrained_stage(replace(CASE, method=tiny.method_node("mdm", sampling=sampling)))
    assert [part.calls for part in stage.parts()] == [4, 2]
    assert stage.evaluations == 4 + 2  # at 0.75 and 0.5 of 1, 0.75, 0.5, 0.25


def test_a_text_encoder_is_part_of_a_sample():
    text = {"name": "vocabulary", "words": ["a", "red", "block"], "width": 6, "length": 4}
    case = replace(CASE, text=text, caption="a red block", facts=tiny.facts("text"))
    sampled = SamplingTimer(case, untrained_stage(case), 2)
    assert "text encoder" in [part["name"] for part in sampled.parts()]
    sampled.sample(2)


# ---------------------------------------------------------------- real processes


@pytest.mark.slow
def test_real_processes_give_rows_and_a_cap_is_kept():
    cases = [replace(CASE, what=what) for what in ("train", "sample")]
    row, coarse = by_resolution(costs(cases))
    assert replace(coarse, level=16) == row
    assert row.train_images_per_s > 0 and row.latency_s > 0 and row.sample_iqr_s >= 0
    assert row.sample_memory_mib >= row.sample_memory_baseline_mib > 0
    capped = replace(CASE, memory_cap=10.0)
    (failed,) = costs([capped])
    assert failed.sample_failure.startswith("out of memory at batch 4: ")
    assert failed.sample_failure.endswith("MiB, the cap is 10")


@pytest.mark.slow
def test_a_process_that_dies_says_why():
    (row,) = costs([replace(CASE, trajectory=[32])])
    assert row.sample_failure == (
        "ValueError: the method makes no images at 32: choose one of [16, 8], "
        "and pool the finest to others"
    )


@pytest.mark.slow
def test_the_time_to_compile_stands_apart():
    case = replace(CASE, what="train", compile=True)
    row = costs([case])[0]
    assert row.compile_s > 10 * 4 / row.train_images_per_s
