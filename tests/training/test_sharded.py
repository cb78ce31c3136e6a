"""Weights cut over processes: the same training, checkpoints for any number of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hierdiff.denoisers.raphael import Gate
from hierdiff.methods import Stage
from hierdiff.training import Recipe
from hierdiff.training.checkpoint import Checkpoint, newest
from hierdiff.training.fabric import fabric_of, mesh_of, table_of
from hierdiff.training.run import Run
from hierdiff.training.sharding import ShardedStage, can_shard, whole
from hierdiff.training.shards import FACTS, read
from hierdiff.training.step import TrainingStep
from tests import tiny
from tests.training.runs import GROWN, built, in_process, in_processes, run
from tests.training.test_run import LATENT

OPTIONS: dict[str, Any] = {
    **{"steps": 5, "warmup": 1, "checkpoint_every": 2, "keep": 9, "log_every": 1},
    **{"precision": "64-true", "sheet_every": 3},
}
FSDP = {**OPTIONS, "strategy": "fsdp"}
LAST = "step_0000004"  # inside the second of two stages
READ = "read.safetensors"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, with two micro batches."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, GROWN, accumulate=2, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, cut over two processes."""
    folder = tmp_path_factory.mktemp("two")
    assert in_processes(2, in_process, folder, GROWN, **FSDP) == [0, 0]
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def assert_close(folder: Path, other: Path) -> None:
    torch.testing.assert_close(weights(folder), weights(other), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_run_cut_over_two_processes_is_that_of_one_with_the_same_draws(one: Path, two: Path):
    assert_close(two, one)
    assert load_file(two / "weights_ema_0.safetensors").keys() == weights(one).keys()
    sheets = [sorted((folder / "samples").glob("*.png")) for folder in (one, two)]
    assert [sheet.name for sheet in sheets[0]] == [sheet.name for sheet in sheets[1]]
    assert len(sheets[0]) == 3  # during the second stage, and at both ends
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*sheets, strict=True))
    lines = [json.loads((f / "log.jsonl").read_text().splitlines()[-1]) for f in (one, two)]
    assert lines[1]["grad_norm"] == pytest.approx(lines[0]["grad_norm"], rel=1e-6)


@pytest.mark.slow
def test_a_checkpoint_in_parts_holds_what_one_process_writes(one: Path, two: Path):
    tensors, facts = read(two / "checkpoints" / LAST)
    single = load_file(one / "checkpoints" / f"{LAST}.safetensors")
    assert set(tensors) == set(single) and facts["step"] > 0
    for name, tensor in single.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-6, atol=1e-9, msg=name)


def cut_short(folder: Path, to: Path) -> Path:
    """The run as it was when the checkpoint `LAST` had been written."""
    shutil.copytree(folder / "checkpoints" / LAST, to / "checkpoints" / LAST)
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (to / "log.jsonl").write_text("".join(lines[:4]))
    return to


def keeping_what_is_read(
    folder: Path, node: dict[str, Any], environment: dict[str, str], **options: Any
) -> None:
    """`in_process` that leaves the state it resumes from, whole, in the file `READ`."""
    restore = Run.restore

    def restore_and_keep(self: Run, work: TrainingStep, checkpoint: Checkpoint) -> None:
        restore(self, work, checkpoint)
        state = self._checkpoint(work, work.ema).tensors
        tensors = {name: whole(tensor.detach()).clone() for name, tensor in state.items()}
        if self.main:
            save_file(tensors, folder / READ)

    Run.restore = restore_and_keep  # type: ignore[method-assign]
    in_process(folder, node, environment, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (1, {**OPTIONS, "accumulate": 2}),
        (2, FSDP),
        (4, {**FSDP, "shard_over": 2}),
    ],
)
def test_what_two_processes_saved_others_read_bit_for_bit_and_go_on_from(
    two: Path, tmp_path: Path, processes: int, options: dict[str, Any]
):
    folder = cut_short(two, tmp_path / "again")
    codes = in_processes(processes, keeping_what_is_read, folder, GROWN, **options)
    assert codes == [0] * processes
    saved, _ = read(two / "checkpoints" / LAST)
    state = load_file(folder / READ)
    assert set(state) == set(saved)
    assert [name for name in state if not torch.equal(state[name], saved[name])] == []
    if processes == 2:
        assert (folder / "weights.safetensors").read_bytes() == (
            two / "weights.safetensors"
        ).read_bytes()
    alike = two
    if processes == 4:  # four parts of a batch have other draws than two
        alike = cut_short(two, tmp_path / "alone")
        run(alike, GROWN, accumulate=4, **OPTIONS)
    assert_close(folder, alike)


@pytest.mark.slow
def test_a_checkpoint_that_is_written_beside_training_is_the_same(two: Path, tmp_path: Path):
    codes = in_processes(2, in_process, tmp_path, GROWN, **{**FSDP, "async_checkpoints": True})
    assert codes == [0, 0]
    assert (tmp_path / "weights.safetensors").read_bytes() == (
        two / "weights.safetensors"
    ).read_bytes()
    (sync, _), (beside, _) = (read(f / "checkpoints" / LAST) for f in (two, tmp_path))
    assert all(torch.equal(sync[name], beside[name]) for name in sync)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_damaged_part_is_named_and_the_checkpoint_before_it_is_taken(
    two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = cut_short(two, tmp_path)
    shutil.copytree(two / "checkpoints/step_0000002", folder / "checkpoints/step_0000002")
    hurt = next((folder / "checkpoints" / LAST).glob("*00002-model*"))
    content = bytearray(hurt.read_bytes())
    content[-1] ^= 1
    hurt.write_bytes(content)
    found = newest(folder / "checkpoints")
    assert found is not None and found[0].name == "step_0000002"
    assert f"{hurt} is absent or damaged" in caplog.text
    (folder / "checkpoints/step_0000002" / FACTS).unlink()  # one that was never finished
    with pytest.raises(ValueError, match="all 1 checkpoints"):
        newest(folder / "checkpoints")


@pytest.mark.slow
def test_an_adversarial_stage_runs_uncut(tmp_path: Path):
    node = {**LATENT, "codec": {**LATENT["codec"], "cache": str(tmp_path / "cache")}}
    options = {**FSDP, "steps": 8, "checkpoint_every": 0}
    assert in_processes(2, in_process, tmp_path / "two", node, **options) == [0, 0]
    run(tmp_path / "one", node, accumulate=2, **{**options, "strategy": "auto"})
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-9, msg=name)
    stages = built(node).stages
    assert [can_shard(stage) for stage in stages] == [False, True]


@pytest.mark.parametrize("option", [{"shard_over": 2}, {"async_checkpoints": True}])
def test_an_option_of_cut_weights_without_them_is_refused(option: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is of sharded training.*fsdp"):
        Recipe(steps=1, **option)


def test_processes_that_cannot_share_copies_evenly_are_refused():
    options = Recipe(steps=1, strategy="fsdp", shard_over=4)
    assert table_of(options, 8) == {"copy": 2, "shard": 4}
    assert table_of(options, 4) == {"shard": 4}
    with pytest.raises(ValueError, match="shard_over=4 does not divide 6 processes"):
        table_of(options, 6)


# -- every network ---------------------------------------------------------------------------------


class OneNetwork(Stage):
    """The mean square of a network's predictions."""

    def __init__(self, network: Any):
        super().__init__()
        self.name, self.network = "network", network

    def draw(self, batch: Any, noise: Any) -> None:
        return None

    def forward(self, batch: Any, draws: Any, turn: str = "denoiser", step: int = 0) -> Any:
        x_t, log_snr, cond = batch
        levels = self.network(x_t, log_snr, self.network.prepare(cond)).levels
        return sum((level**2).mean() for level in levels)


def batch_of(case: tiny.Case, own: slice) -> Any:
    """Rows of a noisy batch of four, in float64."""

    def rows(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[own].double() if tensor.is_floating_point() else tensor[own]

    x_t, log_snr = tiny.state(case.depth, 4)
    return tuple(map(rows, x_t)), rows(log_snr), tiny.cond("class and text", 4).map(rows)


def every_network(folder: Path, node: Any, environment: dict[str, str]) -> None:
    """Gradients of all networks on this process's half of a batch, beside those of all of it."""
    os.environ.update(environment)
    fabric = fabric_of(Recipe(steps=1, accelerator="cpu", strategy="fsdp"))
    fabric.launch()
    mesh = mesh_of(fabric, Recipe(steps=1, strategy="fsdp"))
    first = 2 * fabric.global_rank
    for case in tiny.denoiser_cases():
        stage = OneNetwork(tiny.denoiser(case.name, "class and text", case.depth).double())
        for part in stage.modules():
            if isinstance(part, Gate):
                part.noise = 0.0  # which each process draws for itself
        assert can_shard(stage), case
        sharded = ShardedStage(stage, mesh)
        stage(batch_of(case, slice(None)), None).backward()
        sharded.stage(batch_of(case, slice(first, first + 2)), None).backward()
        cut = sharded.tensors()
        for name, parameter in stage.named_parameters():
            gradient, label = whole(cut[parameter].grad), f"{case}: {name}"
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-10, msg=label)


@pytest.mark.slow
def test_the_gradients_of_every_network_are_those_of_the_whole_one(tmp_path: Path):
    assert in_processes(2, every_network, tmp_path, {}) == [0, 0]


# -- processes that end ----------------------------------------------------------------------------


def killed_after(
    folder: Path, node: dict[str, Any], environment: dict[str, str], **options: Any
) -> None:
    """A run whose second process is killed, or gets SIGUSR1, once a checkpoint is there."""
    number = options.pop("number")

    def send() -> None:
        while not list((folder / "checkpoints").glob("step_*/facts.json")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    if environment["RANK"] == "1":
        threading.Thread(target=send, daemon=True).start()
    try:
        in_process(folder, node, environment, **options)
    except ConnectionError as error:
        (folder / "said").write_text(str(error))
        os._exit(1)
    except KeyboardInterrupt as stop:
        (folder / f"requeue{environment['RANK']}").write_text(repr(getattr(stop, "requeue", None)))


@pytest.mark.slow
def test_a_killed_process_ends_the_others_within_a_minute_with_a_message(tmp_path: Path):
    began = time.monotonic()
    options = {**FSDP, "steps": 4000, "number": signal.SIGKILL}
    codes = in_processes(2, killed_after, tmp_path, GROWN, **options)
    assert codes == [1, -signal.SIGKILL]
    assert time.monotonic() - began < 60 + 120  # with the start of both
    said = (tmp_path / "said").read_text()
    assert said.startswith("process 0 of 2 lost another one")
    assert "same command again" in said


@pytest.mark.slow
def test_a_signal_of_a_cluster_to_one_process_stops_all_with_a_checkpoint(tmp_path: Path):
    options = {**FSDP, "steps": 4000, "checkpoint_every": 3, "keep": 1, "number": signal.SIGUSR1}
    assert in_processes(2, killed_after, tmp_path, GROWN, **options) == [0, 0]
    assert [(tmp_path / f"requeue{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    (saved,) = (tmp_path / "checkpoints").glob("step_*")
    tensors, facts = read(saved)
    assert Checkpoint(tensors=tensors, **{k: v for k, v in facts.items() if k != "kind"}).started
