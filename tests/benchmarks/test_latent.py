"""Latent diffusion through the main job: what its record and table say, and a killed run."""

import signal
import time

import pytest

from hierdiff.results.record import Record
from hierdiff.training.checkpoint import all_in, newest
from tests.benchmarks.test_run import bench
from tests.training.runs import command, entry, server

pytestmark = pytest.mark.slow
FLATTERED = "perceptual loss on an ImageNet network, which flatters Frechet distances"
PRETRAINED = "trained beforehand, outside the budget: again (autoencoder)"


def latent(*options: str) -> str:
    """What a run prints."""
    ended = bench("method=latent", *options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder with one run, and what it printed."""
    folder = tmp_path_factory.mktemp("latent") / "first"
    return folder, latent(f"folder={folder}")


@pytest.fixture(scope="module")
def again(first):
    """A run on the autoencoder of the first, and what it printed."""
    folder, weights = first[0].parent / "again", first[0] / "weights.safetensors"
    options = (f"folder={folder}", "label=again", "cost.repeats=0")
    return folder, latent(f"method.codec.checkpoint={weights}", *options)


def test_reconstructions_have_rows_and_a_picture(first):
    rows = {row.metric: row for row in Record.read(first[0]).quality}
    assert {"rFD-RandomConv", "PSNR", "SSIM", "perceptual"} <= rows.keys()
    assert str(rows["perceptual"].identity).startswith("efficientnet_lite0@")
    assert (first[0] / "reconstructions.png").stat().st_size > 1000


def test_the_decoder_is_a_part_of_the_cost(first):
    (row,) = Record.read(first[0]).cost
    parts = {part.name: part for part in row.breakdown}
    assert parts.keys() == {"stage latent", "decoder", "rest"}
    assert parts["decoder"].seconds > 0 and parts["decoder"].flops > 0
    flops = sum(part.flops or 0 for part in parts.values())
    assert row.flops_per_image == flops


def test_steps_and_operations_of_both_stages_are_told(first):
    training = Record.read(first[0]).training
    stages = {stage["name"]: stage for stage in training["stages"]}
    assert list(stages) == ["autoencoder", "latent"]
    assert [stage["steps"] for stage in stages.values()] == [8, 2]  # shares of 4 and 1
    assert all(stage["flops"] > 0 and not stage["pretrained"] for stage in stages.values())
    whole = sum(stage["flops"] for stage in stages.values())
    assert training["spent"]["flops"] == pytest.approx(whole)


def test_a_perceptual_loss_that_flatters_is_told(first):
    folder, printed = first
    assert Record.read(folder).training["notes"] == [FLATTERED]
    assert f"latent: {FLATTERED}" in " ".join(printed.split())


def test_an_autoencoder_of_another_run_is_marked_in_the_table(first, again):
    folder, printed = again
    stages = Record.read(folder).training["stages"]
    assert [(s["name"], s["pretrained"]) for s in stages] == [
        ("autoencoder", True),
        ("latent", False),
    ]
    assert PRETRAINED in " ".join(printed.split())
    assert PRETRAINED not in first[1]


# -- killed ----------------------------------------------------------------------------------------

SMALL = (
    *("method=latent", "budget=smoke", "folder=run", "trainer.progress=false", "trainer.steps=20"),
    *("trainer.checkpoint_every=4", "sampler.steps=2", "method.codec.share=1"),
    *("method.codec.autoencoder.width=8", "denoiser.width=16", "denoiser.heads=1"),
    "method.codec.cache=moments",
)


def killed_after(folder, step: int) -> None:
    """The command as a process that is killed once a checkpoint at `step` or later is there."""
    process = server.Process(target=entry, args=("hierdiff.train", folder, SMALL, None))
    process.start()
    deadline = time.monotonic() + 120
    name = f"step_{step:07d}.safetensors"
    while process.is_alive() and time.monotonic() < deadline:
        if any(path.name >= name for path in all_in(folder / "run/checkpoints")):
            break
        time.sleep(0.002)
    assert process.is_alive(), "the run ended before it could be killed: make it longer"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_run_killed_in_each_stage_ends_as_one_that_was_not(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    code, said = command("hierdiff.train", tmp_path / "whole", SMALL)
    assert code == 0, said
    for stage, step in ((0, 4), (1, 24)):
        killed_after(tmp_path / "killed", step)
        found = newest(tmp_path / "killed/run/checkpoints")
        assert found is not None and found[1].stage == stage and found[1].started
    code, said = command("hierdiff.train", tmp_path / "killed", SMALL)
    assert code == 0 and "going on from" in said, said
    for name in ("weights.safetensors", "log.jsonl"):
        whole, killed = (
            (tmp_path / run / "run" / name).read_bytes() for run in ("whole", "killed")
        )
        assert whole == killed, name
