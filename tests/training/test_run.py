from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hierdiff.methods import methods
from hierdiff.registry import build
from hierdiff.training import Recipe, load_method, train
from hierdiff.training.feed import Feed
from hierdiff.training.format import unpacked
from hierdiff.training.interrupt import Interrupted
from hierdiff.training.pictures import smoothed
from hierdiff.training.run import stage_steps
from tests.training.runs import (
    GROWN,
    INNER,
    NODE,
    Line,
    Lines,
    built,
    config,
    images,
    in_process,
    in_processes,
    kept_in_process,
    recipe,
    run,
    server,
    signalled,
)


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("weights.safetensors", "weights_ema_0.safetensors", "log.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_run_leaves_weights_log_sheet_and_curve(tmp_path: Path):
    summary = run(tmp_path, GROWN)
    assert summary.steps == 12 and summary.images == 48 and summary.resumed_at is None
    assert summary.weights.is_file() and summary.sheet.is_file()
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert "name: mdm" in (tmp_path / "config.yaml").read_text()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 5, 6, 9, 12]  # 5 is the end of a stage
    assert [line["stage"] for line in lines] == ["4", "4", "8x4", "8x4", "8x4"]
    assert {"loss", "loss/8", "loss/4", "lr", "grad_norm"} <= lines[-1].keys()
    assert not [p for p in tmp_path.rglob("*.part")]


def test_the_log_holds_means_since_the_last_line(tmp_path: Path):
    each = run(tmp_path / "each", log_every=1)
    run(tmp_path / "third", log_every=3)
    single = [json.loads(x) for x in (each.folder / "log.jsonl").read_text().splitlines()]
    thirds = [json.loads(x) for x in (tmp_path / "third/log.jsonl").read_text().splitlines()]
    for i, line in enumerate(thirds):
        wanted = sum(x["loss"] for x in single[3 * i : 3 * i + 3]) / 3
        assert line["loss"] == pytest.approx(wanted)


def test_training_lowers_the_loss(tmp_path: Path):
    method = Lines([Line()])
    summary = train(method, images(), tmp_path, recipe(steps=60, lr=0.02, ema=[0], log_every=1))
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert summary.loss["loss"] < 0.1 * first["loss"]


def test_the_method_ends_with_the_averaged_weights(tmp_path: Path):
    method = built()
    summary = train(method, images(), tmp_path, recipe(ema=[1e6]), config=config())
    stored, _ = load_method(summary.weights)
    for a, b in zip(method.parameters(), stored.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulated_micro_batches_are_one_large_batch(tmp_path: Path):
    ends = []
    for accumulate in (1, 2, 4):
        method = Lines([Line()])
        torch.manual_seed(1)
        method.stages[0].net.reset_parameters()
        options = recipe(accumulate=accumulate, precision="64-true", clip=0.1, steps=6)
        train(method, images(), tmp_path / str(accumulate), options)
        ends.append(method.stages[0].net.weight.detach().clone())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-11, atol=1e-13)


def test_the_gradient_norm_is_clipped(tmp_path: Path):
    method = Lines([Line()])
    before = method.stages[0].net.weight.detach().clone()
    options = recipe(steps=1, optimizer="momentum", lr=1.0, warmup=0, clip=1e-3, ema=[0])
    train(method, images(), tmp_path, options)
    moved = torch.linalg.vector_norm(method.stages[0].net.weight - before)
    assert 0 < moved <= 1.001e-3


def vector(stage: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(stage.parameters()).detach().clone()


def test_a_stage_is_trained_with_the_options_that_are_its_own(tmp_path: Path):
    """A stage of its own rate and clip, and one of the run's: neither knows of the other."""
    options = recipe(steps=2, optimizer="momentum", lr=1.0, warmup=0, clip=1e-3, ema=[0])
    lengths = []
    for own in ({}, {"lr": 0.5}, {"lr": 0.5, "clip": 1e-4}):
        method = Lines([Line(share=0.5), Line(share=0.5)])
        method.stages[0].trainer = own
        before = [vector(stage) for stage in method.stages]
        train(method, images(), tmp_path / str(len(own)), options)
        after = [vector(stage) for stage in method.stages]
        moved = [float((new - old).norm()) for new, old in zip(after, before, strict=True)]
        lengths.append(moved)
    first, second = zip(*lengths, strict=True)
    assert first == pytest.approx([1e-3, 5e-4, 5e-5], rel=1e-2)
    assert second == pytest.approx([1e-3] * 3, rel=1e-2)


def test_growth_starts_from_the_averaged_weights_of_the_stage_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    method = built(GROWN)
    outer = [p.detach().clone() for p in method.stages[1].parameters()]
    seen: dict[str, Any] = {}

    def start(previous: Any, data: Any) -> Any:
        seen["inner"] = {k: t.detach().clone() for k, t in previous.state_dict().items()}
        seen["outer"] = [p.detach().clone() for p in method.stages[1].parameters()]
        return data

    monkeypatch.setattr(method.stages[1], "start", start)
    train(method, images(), tmp_path, recipe(ema=[30], keep=9, checkpoint_every=1), config=config())
    file = load_file(tmp_path / "checkpoints" / "step_0000005.safetensors")
    border = {k.removeprefix("model/stages.0."): t for k, t in file.items()}
    # the border's checkpoint holds the average, and what grows holds the very same numbers
    assert all(torch.equal(border[name], tensor) for name, tensor in seen["inner"].items())
    before = load_file(tmp_path / "checkpoints" / "step_0000004.safetensors")
    assert any(
        not torch.equal(before[f"model/stages.0.{name}"], tensor)
        for name, tensor in seen["inner"].items()
    )
    inner = {id(p) for p in method.stages[0].parameters()}
    for parameter, old, new in zip(
        method.stages[1].parameters(), outer, seen["outer"], strict=True
    ):
        assert torch.equal(old, new) == (id(parameter) not in inner)


def test_steps_are_shared_by_the_stages():
    shares = [Line(share=0.25), Line(share=0.0), Line(share=0.75)]
    assert stage_steps(Lines(shares), 10) == [2, 0, 8]
    with pytest.raises(ValueError, match="leave a stage without any"):
        stage_steps(Lines([Line(share=0.01), Line()]), 10)


def test_a_stage_without_a_share_is_started_and_not_trained(tmp_path: Path):
    method = Lines([Line(share=0.0), Line()])
    kept = method.stages[0].net.weight.detach().clone()
    train(method, images(), tmp_path, recipe())
    assert torch.equal(method.stages[0].net.weight, kept)


def test_a_finished_run_is_not_trained_again(tmp_path: Path):
    first = run(tmp_path)
    before = files_of(tmp_path)
    summary = run(tmp_path)
    assert summary.resumed_at == 12 and summary.loss
    assert summary.stage_seconds == first.stage_seconds and first.seconds > 0
    assert files_of(tmp_path) == before


def test_a_finished_run_may_be_sampled_otherwise(tmp_path: Path):
    train(built(), images(), tmp_path, recipe(), config=config())
    other = {**NODE, "sampling": {"steps": 5}}
    method = built(other)
    again = train(method, images(), tmp_path, recipe(), config=config(other))
    assert again.resumed_at == 12 and method.stages[-1].sampling.steps == 5


def test_going_on_with_another_method_names_the_difference(tmp_path: Path):
    run(tmp_path)
    other = {**NODE, "shift": 2.0}
    with pytest.raises(ValueError, match=r"method.shift=None, now it is 2.0.*name="):
        run(tmp_path, other)


def test_options_that_decide_nothing_may_change(tmp_path: Path):
    first = config(trainer={"steps": 12, "devices": 1})
    train(built(), images(), tmp_path, recipe(), config=first)
    train(built(), images(), tmp_path, recipe(), config=config(trainer={"steps": 12, "devices": 2}))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path):
    method = Lines([Line(spoilt_at=6)])
    with pytest.raises(FloatingPointError, match=r"step 7 is not finite \(loss nan.*step_0000006"):
        train(method, images(), tmp_path, recipe(checkpoint_every=2, keep=1, log_every=1))
    assert all(p.isfinite().all() for p in method.parameters())
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_0000006.safetensors"]


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="trainer.batch_size=4 is not a multiple of 1 device"):
        run(tmp_path, accumulate=3)


def test_a_batch_of_a_stage_that_cannot_be_cut_is_refused_by_its_own_name(tmp_path: Path):
    stages = [Line(share=0.5), Line(share=0.5)]
    stages[1].batch_size = 3
    message = "^batch_size=3 of stage line is not a multiple of 1 device"
    with pytest.raises(ValueError, match=message):
        train(Lines(stages), images(), tmp_path, recipe(accumulate=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "trainer.steps=0"),
        ({"precision": "16-mixed"}, "32-true, bf16-mixed"),
        ({"lr_schedule": "stairs"}, "lr_schedule takes one of constant, linear, cosine"),
        ({"lr": -1.0}, "trainer.lr=-1.0"),
        ({"ema": []}, "ema takes a list of one or more numbers"),
    ],
)
def test_wrong_options_are_refused_before_compute(wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build(Recipe, {"steps": 3, **wrong}, at="trainer")


@pytest.mark.parametrize("accelerator", ["tpu", "warp"])
def test_an_absent_accelerator_is_one_clear_error(tmp_path: Path, accelerator: str):
    with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator}"):
        run(tmp_path, accelerator=accelerator)


def test_bf16_trains_on_the_cpu(tmp_path: Path):
    full, half = run(tmp_path / "a"), run(tmp_path / "b", precision="bf16-mixed")
    assert half.loss["loss"] != full.loss["loss"]
    assert half.loss["loss"] == pytest.approx(full.loss["loss"], rel=0.05)
    assert next(load_method(half.weights)[0].parameters()).dtype == torch.float32


def test_reading_ahead_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path / "plain")
    start = Feed.__init__

    def ahead(self: Feed, *given: Any, **options: Any) -> None:
        start(self, *given, **options)
        self._pool = ThreadPoolExecutor(1)

    monkeypatch.setattr(Feed, "__init__", ahead)
    run(tmp_path / "ahead")
    assert files_of(tmp_path / "ahead") == files_of(tmp_path / "plain")


def test_smoothing_keeps_a_constant_and_has_no_lag_at_the_start():
    assert smoothed(torch.full((9,), 0.3).numpy()) == pytest.approx(0.3)
    assert smoothed(torch.tensor([2.0, 1.0]).numpy())[0] == pytest.approx(2.0)


# -- snapshots -----------------------------------------------------------------------------------


def snapshots(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted((folder / "snapshots").iterdir())}


def test_each_stage_leaves_every_average_at_even_marks(tmp_path: Path):
    summary = run(tmp_path, GROWN, snapshots=2)  # 5 steps, then 7
    found = snapshots(tmp_path)
    steps = [2, 5, 9, 12]  # the marks 2.5 and 3.5 inside a stage are rounded to even
    assert list(found) == [f"step_{s:07d}_ema_{h}.safetensors" for s in steps for h in (0, 16)]
    _, facts = unpacked(found["step_0000009_ema_16.safetensors"])
    taken = facts["taken"]
    assert (taken["stage"], taken["step"], taken["images"], taken["half_life"]) == (1, 4, 36, 16)
    assert 0 < sum(taken["seconds"]) < sum(summary.stage_seconds)
    last, _ = load_method(found["step_0000012_ema_16.safetensors"])
    final, _ = load_method(summary.weights)
    for a, b in zip(last.parameters(), final.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_that_goes_on_leaves_the_snapshots_of_one_that_did_not_stop(tmp_path: Path):
    run(tmp_path / "whole", GROWN, snapshots=3)
    run(tmp_path / "broken", GROWN, snapshots=3)
    newest = sorted((tmp_path / "broken/checkpoints").iterdir())[-1]
    newest.unlink()
    for path in snapshots(tmp_path / "broken").values():
        path.unlink()
    run(tmp_path / "broken", GROWN, snapshots=3)  # from step 8 on
    again, whole = snapshots(tmp_path / "broken"), snapshots(tmp_path / "whole")
    assert list(again) == [name for name in whole if name >= "step_0000009"]
    for name, path in again.items():
        one, other = load_file(path), load_file(whole[name])
        assert all(torch.equal(one[key], other[key]) for key in other)


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"channels_last": True, "optimizer": "lion"}, marks=pytest.mark.slow)],
)
def test_a_broken_newest_checkpoint_costs_steps_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
):
    run(tmp_path / "whole", **options)
    run(tmp_path / "broken", **options)
    newest = sorted((tmp_path / "broken/checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path / "broken", **options)
    assert summary.resumed_at == 8 and newest.name in caplog.text
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


def test_ctrl_c_ends_with_a_checkpoint_and_a_message(tmp_path: Path):
    long = {"steps": 4000, "checkpoint_every": 0, "log_every": 100}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"stopped after step \d+ of 4000.*same command again"):
        signalled(tmp_path, 1.0, **long)
    assert signal.getsignal(signal.SIGINT) is handler
    (saved,) = (tmp_path / "checkpoints").iterdir()
    with pytest.raises(Interrupted):
        signalled(tmp_path, 1.0, **long)
    later = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert later.name > saved.name


@pytest.mark.slow
def test_a_run_killed_five_times_ends_as_one_that_was_not(tmp_path: Path):
    options = {"steps": 80, "checkpoint_every": 4, "log_every": 3}
    moments = random.Random(0)

    def start(name: str) -> Any:
        process = server.Process(
            target=in_process, args=(tmp_path / name, GROWN, {}), kwargs=options
        )
        process.start()
        return process

    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    for _ in range(5):
        process = start("killed")
        before = sorted((tmp_path / "killed/checkpoints").glob("*.safetensors"))
        deadline = time.monotonic() + 60
        while (
            process.is_alive()
            and time.monotonic() < deadline
            and sorted((tmp_path / "killed/checkpoints").glob("*.safetensors")) == before
        ):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        assert process.is_alive(), "the run ended before it could be killed: make it longer"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


class Killed(BaseException):
    """What the tests raise where a process would be killed."""


def killed(folder: Path, kill: Callable[[int, str], bool], **options: Any) -> None:
    """`run` that is killed as a file would reach its place; kill: by the number of files before it
    and its path in the folder. A run of which no file is chosen ends."""
    written, own = itertools.count(), os.replace

    def replace(part: Path, path: Path) -> None:
        if kill(next(written), path.relative_to(folder).as_posix()):
            raise Killed
        own(part, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        run(folder, **options)


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a run; tensors alone of those that hold seconds as well."""
    found: dict[str, Any] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content: Any = path.read_bytes()
        if path.parent.name in ("checkpoints", "snapshots"):
            content = {name: tensor.tolist() for name, tensor in load_file(path).items()}
        found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.mark.slow
def test_a_kill_between_a_checkpoint_and_its_sheet_or_a_sheet_and_its_curve_costs_no_picture(
    tmp_path: Path,
):
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    options = {"steps": 4, "checkpoint_every": 2, "sheet_every": 2, "log_every": 1}
    run(whole, **options)
    for sheet, drawn in (("samples/step_0000002.png", 0), ("samples/step_0000004.png", 1)):
        with pytest.raises(Killed):
            killed(hurt, lambda _, path, sheet=sheet: path == sheet, **options)
        assert len(list(hurt.glob("samples/*.png"))) == drawn
    with pytest.raises(Killed):
        killed(hurt, lambda _, path: path == "loss.png", **options)  # that of step 2 is there
    assert contents(hurt)["loss.png"] != contents(whole)["loss.png"]
    run(hurt, **options)
    assert contents(hurt) == contents(whole)


@pytest.mark.slow
def test_a_run_killed_before_any_of_its_files_ends_as_one_that_was_not(tmp_path: Path):
    options: dict[str, Any] = {
        **{"node": GROWN, "steps": 8, "checkpoint_every": 2, "sheet_every": 2, "log_every": 1},
        **{"snapshots": 2},
    }
    run(tmp_path / "whole", **options)
    whole = contents(tmp_path / "whole")
    for place in itertools.count():
        hurt = tmp_path / str(place)
        try:
            killed(hurt, lambda number, _, place=place: number == place, **options)
        except Killed:
            run(hurt, **options)
            assert contents(hurt) == whole, place
        else:
            break
    assert place > 20


# -- many processes ------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_two_micro_batches(tmp_path: Path):
    run(tmp_path / "one", GROWN, accumulate=2, precision="64-true")
    assert in_processes(2, in_process, tmp_path / "two", GROWN, precision="64-true") == [0, 0]
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-9, atol=1e-12)
    lines = [
        [json.loads(x) for x in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for a, b in zip(*lines, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)  # logged in float32


LATENT: dict[str, Any] = {
    "name": "latent",
    "resolutions": [8],
    "denoiser": INNER,
    "codec": {
        "name": "autoencoder",
        "autoencoder": {"width": 8, "multiples": [1, 2], "blocks": 1, "groups": 4},
        "perceptual": {"name": "none"},
        "discriminator": {"width": 4, "layers": 1},
        "loss": {"start": 0.5},
        "batch_size": 4,
    },
    "sampling": {"steps": 2},
}


@pytest.mark.slow
def test_two_processes_hold_the_same_after_a_stage_of_two_turns(tmp_path: Path):
    """Also the running means of a discriminator's batch norms, of which each saw its own rows."""
    node = {**LATENT, "codec": {**LATENT["codec"], "cache": str(tmp_path / "cache")}}
    options = {"steps": 8, "precision": "64-true"}
    assert in_processes(2, kept_in_process, tmp_path / "two", node, **options) == [0, 0]
    held = [load_file(tmp_path / f"two/rank_{rank}.safetensors") for rank in (0, 1)]
    assert held[0].keys() == held[1].keys()
    different = [name for name, tensor in held[0].items() if not tensor.equal(held[1][name])]
    assert not different
    run(tmp_path / "one", node, accumulate=2, **options)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.slow
def test_a_compiled_run_is_close_to_an_eager_one(tmp_path: Path):
    for name, compiled in (("eager", False), ("compiled", True)):
        process = server.Process(  # without the shape checks of the tests
            target=in_process, args=(tmp_path / name, GROWN, {}), kwargs={"compile": compiled}
        )
        process.start()
        process.join(300)
        assert process.exitcode == 0
    ends = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])
        for name in ("eager", "compiled")
    ]
    assert ends[1]["loss"] == pytest.approx(ends[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("classes", [0, 4])
def test_labels_that_no_network_reads_are_said_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: int
):
    method = methods.build(NODE, offered={"channels": 3, "classes": classes})
    with caplog.at_level(logging.WARNING):
        train(method, images(), tmp_path, recipe(steps=1))
    said = "labels are not used: the data has 4 classes" in caplog.text
    assert said == (classes == 0)
