"""What a run refuses, a dry run refuses in the same words, in seconds, with nothing computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from benchmarks import single
from benchmarks.plan.budget import make_plan
from benchmarks.ready import ready
from benchmarks.settings import Settings, settings_of
from hierdiff import training
from hierdiff.command import plain_config, with_sentences
from hierdiff.config import folder_of_configs
from hierdiff.denoisers import OneLevelDenoiser
from hierdiff.metrics.extractors import squeezenet
from hierdiff.prepared import prepare
from hierdiff.training.bounds import tensors_of
from hierdiff.training.format import as_json, save_weights, write_packed
from tests.benchmarks import rows
from tests.metrics.foreign_weights import write_squeezenet

SMALL = (
    *(
        "name=any",
        "label=any",
        "budget_name=smoke",
        "recipe_name=null",
        "budget=smoke",
        "data.resolution=16",
    ),
    "measure.extractor={name: random_conv}",
)


def config_of(folder: Path, *words: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        words = (*SMALL, f"folder={folder}", *words)
        return plain_config(with_sentences(compose)("benchmark", overrides=list(words)))


def options_of(folder: Path, *words: str) -> Settings:
    return settings_of(config_of(folder, *words))


def weights_of(path: Path, *words: str) -> None:
    """A file of weights as a run with these options leaves it."""
    made = prepare(config_of(path.parent, *words))
    config = as_json(made.config)
    save_weights(path, tensors_of(made.method), config)


def cut(path: Path) -> None:
    weights_of(path)
    path.write_bytes(path.read_bytes()[:5000])


def moments_of_ten(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, mu=np.zeros(10), sigma=np.eye(10))


class Halved(OneLevelDenoiser):
    def __init__(self, *, channels: int = 3):
        super().__init__()
        self.net = torch.nn.Conv2d(channels, channels, 3, padding=1, stride=2)

    def denoise(self, x, log_snr, cond):
        return self.net(x)


class Same(OneLevelDenoiser):
    def denoise(self, x, log_snr, cond):
        return x


OWN = ["method=end_to_end", "denoiser=custom", "trainer.batch_size=4"]
STAGE = ["method=cascaded", "method.stages.0.weights=FILE"]
CODEC = ["method=latent", "method.codec.checkpoint=FILE"]
REFUSALS: dict[str, tuple[list[str], str, Any]] = {
    "a metric": (["measure.metrics=[fdd]"], "unknown metric 'fdd', did you mean 'fd'", None),
    "a metric of the curve": (["measure.curve.metrics=[kdd]"], "unknown metric 'kdd'", None),
    "an extractor": (["measure.extractor={name: incepton}"], "did you mean 'inception'", None),
    "absent weights": (
        ["measure.extractor={name: inception, weights: nowhere-12345678.pth}"],
        "nowhere-12345678.pth",
        None,
    ),
    "an absent network": (["measure.extractor={name: dinov2}"], "dinov2 needs", None),
    "an absent folder": (["measure.extractor={name: clip, weights: no}"], "weights=no is no", None),
    "captions": (["measure.metrics=[clip_score]"], "clip_score", None),
    "samples": (["measure.samples=4"], "measure at least", None),
    "seeds": (["measure.seeds=[]"], "measure.seeds=[]", None),
    "seeds named twice": (["measure.seeds=[1,1]"], "measure.seeds=[1, 1]", None),
    "an absent reference": (["measure.references={16: FILE}"], "is no file", None),
    "a reference that does not fit": (["measure.references={16: FILE}"], "FILE", moments_of_ten),
    "a reference of no side": (["measure.references={5: FILE}"], "where nothing is measured", None),
    "a reference of a word": (["measure.references={a: FILE}"], "measure.references.a: a", None),
    "costs": (["cost.batches=[]"], "cost.batches=[]", None),
    "budgets": (["match.flops=1", "match.images=1"], "contradict each other", None),
    "a budget that nobody spends": (["match.flops=1e30"], "pays for more than 1e+15 steps", None),
    "a network of another shape": (
        [*OWN, "denoiser.name=tests.benchmarks.test_ready:Halved"],
        "Halved gives (4, 3, 8, 8) in float32 for a state of (4, 3, 16, 16)",
        None,
    ),
    "a network that has no weights": (
        [*OWN, "denoiser.name=tests.benchmarks.test_ready:Same"],
        "stage 16 has no weights to train",
        None,
    ),
    "a budget that is too small": (["match.images=1"], "does not pay for", None),
    "shares": (["method.growth=[0.01]"], "leave a stage without any", None),
    "a stage that nobody trains": (
        ["method=cascaded", "method.stages.0.share=0"],
        "sampled before it is trained",
        None,
    ),
    "absent weights of a stage": (STAGE, "there is no checkpoint", None),
    "damaged weights of a stage": (STAGE, "cut short", cut),
    "weights of another method": (STAGE, "holds no trained stage '8'", weights_of),
    "weights of another network": (
        STAGE,
        "differs in its network",
        lambda path: weights_of(path, "method=cascaded", "method.stages.0.denoiser.width=32"),
    ),
    "absent weights of a codec": (CODEC, "there is no checkpoint", None),
    "a perceptual network": (
        ["method=latent", "method.codec.perceptual={name: lpips}"],
        "lpips needs weights",
        None,
    ),
    "the perceptual network of the row": (
        ["method=latent", "measure.perceptual={name: lpips}"],
        "lpips needs weights",
        None,
    ),
    "an analysis": (["analysis=exposure_bias"], "take a cascade", None),
    "an optimizer": (["trainer.optimizer=adamww"], "unknown optimizer 'adamww'", None),
    "its options": (
        ["trainer.optimizer_options={ep: 1}"],
        "trainer.optimizer_options.ep: optimizer 'adamw' has no option 'ep'",
        None,
    ),
    "an option of the trainer": (["trainer.optimizer_options={lr: 1}"], "set trainer.lr", None),
    "micro batches": (["trainer.accumulate=3"], "is not a multiple of 1 device(s) x 3", None),
    "an accelerator": (["trainer.accelerator=gpuu"], "trainer.accelerator=gpuu", None),
    "a strategy": (["trainer.strategy=dpp"], "dpp", None),
    "shares of devices": (
        ["trainer.accelerator=cpu", "trainer.devices=3"],
        "is not a multiple of 3 device(s)",
        None,
    ),
    "sides": (["method.resolutions=[64,32]"], "the finest level must divide it", None),
    "a method": (["method.growht=[0.5]"], "did you mean 'growth'", None),
    "a group that is left out": (["data=null"], "a group is chosen by one name", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSALS)
def test_a_dry_run_refuses_what_a_run_refuses_in_the_same_words(what, tmp_path, monkeypatch):
    words, message, file = REFUSALS[what]
    monkeypatch.setattr(training, "train", lambda *args, **options: pytest.fail("it was trained"))
    path, folder = tmp_path / "FILE", tmp_path / "run"
    if file is not None:
        file(path)
    words = [word.replace("FILE", str(path)) for word in words]
    said = []
    for dry_run in ("true", "false"):
        with pytest.raises((ValueError, OSError, ImportError)) as error:
            options = options_of(folder, f"dry_run={dry_run}", *words)
            single.show_plan(options) if dry_run == "true" else single.make(options)
        said.append(str(error.value))
    assert said[0] == said[1] and message in said[0] and "\n" not in said[0]
    assert not folder.exists()


def test_a_dry_run_refuses_a_record_and_a_checkpoint_of_other_options(tmp_path):
    changed = options_of(tmp_path, "dry_run=true", "seed=1")
    made = prepare(config_of(tmp_path))
    facts = {"kind": "checkpoint", "config": as_json(made.config), "stage": 0}
    path = tmp_path / "checkpoints" / "step_0000003.safetensors"
    write_packed(path, {"model/x": torch.zeros(1)}, facts)
    with pytest.raises(ValueError, match="was written with seed=0, now it is 1"):
        ready(changed)
    rows.record("a", config=config_of(tmp_path)).write(tmp_path)
    with pytest.raises(ValueError, match="was made with seed=0, now it is 1"):
        ready(options_of(tmp_path, "dry_run=true", "seed=1"))


@pytest.mark.slow
def test_networks_beside_the_first_are_built_for_whoever_needs_them_or_refused(
    tmp_path, monkeypatch
):
    def beside(*words: str) -> list[str]:
        return [*ready(options_of(tmp_path / "run", *words)).extractor.companions]

    path = write_squeezenet(tmp_path)
    monkeypatch.setattr(squeezenet, "SQUEEZENET_FILE", path.name)
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path))
    assert beside("measure.metrics=[fd]") == []
    assert beside("measure.metrics=[fd,haar,fd_squeezenet]") == ["squeezenet", "haar"]
    assert beside("measure.metrics=[fd]", "measure.curve.metrics=[kd_squeezenet]") == ["squeezenet"]
    chosen = ("select.guidance=[1,2]", "select.metric=fd_squeezenet")
    assert beside("measure.metrics=[fd]", *chosen) == ["squeezenet"]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="by python -m hierdiff.metrics.make_squeezenet"):
        beside("measure.metrics=[fd,fd_squeezenet]")


def test_a_test_part_that_is_too_small_for_a_metric_is_said(tmp_path):
    for key in ("train/1", "train/2", "val/1"):
        path = tmp_path / "images" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    words = ("data=folder", f"data.root={tmp_path / 'images'}", f"data.cache={tmp_path / 'cache'}")
    options = options_of(tmp_path / "run", *words, "measure.metrics=[fd]", "measure.samples=50")
    with pytest.raises(ValueError, match="of folder there are 2 for training and 1 for the test"):
        ready(options)


def test_a_dry_run_leaves_nothing_and_counts_what_the_run_counts(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    options = options_of(tmp_path / "run", "dry_run=true", "match.images=800")
    job = ready(options)
    assert next(job.run.method.parameters()).is_meta
    assert not list(tmp_path.iterdir())
    plan = make_plan(prepare(options.to_config()), options.match, tmp_path, dry=False)
    assert job.plan == plan and plan.steps == 100
    single.show_plan(options)
    assert "sampler steps" in capsys.readouterr().out
    assert job.run.data.summary() in caplog.messages


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="file is no folder that can be written to"):
            ready(options_of(folder, "dry_run=true"))


def test_only_time_and_true_are_dry_runs(tmp_path):
    with pytest.raises(ValueError, match="dry_run=plan: take true for the plan, or time"):
        ready(options_of(tmp_path, "dry_run=plan"))


MEASURED = """
import runpy, sys, torch
from hierdiff.metrics.cost import host_peak
def refused(*args, **options):
    raise SystemExit("torch.compile was called")
torch.compile = refused
sys.argv = ["run", *sys.argv[1:]]
try:
    runpy.run_module("benchmarks.run", run_name="__main__", alter_sys=True)
finally:
    print("MiB", int(host_peak()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("denoiser", "resolutions"), [("mdm_256", [256, 64]), ("mdm_1024", [1024, 256, 64])]
)
def test_a_dry_run_of_a_published_network_takes_seconds_and_little_memory(
    denoiser, resolutions, tmp_path
):
    """480 million parameters are 1.9 GB, and as much for each of its gradients and moments."""
    from PIL import Image

    side = resolutions[0]
    for i in range(10):
        Image.new("RGB", (side, side), (i, 0, 0)).save(tmp_path / f"{i}.png")
    words = ["method=mdm", f"denoiser={denoiser}", f"method.resolutions={resolutions}"]
    words += ["data=folder", f"data.root={tmp_path}", f"data.resolution={side}", "budget=gpu"]
    words += ["sampler=mdm", "measure.metrics=[fd]", "measure.curve.metrics=[fd]", "--dry-run"]
    words += ["measure.resolutions=[64]", "method.reference=null"]
    if denoiser == "mdm_1024":  # its clock counts the steps of the official schedule and shift
        words += ["method.schedule={name:squared_cosine}", "method.shift=2"]
    ended = subprocess.run(
        [sys.executable, "-c", MEASURED, *(word.replace(", ", ",") for word in words)],
        env={**os.environ, "JAXTYPING_DISABLE": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "sampler steps" in ended.stdout
    assert int(ended.stdout.rpartition("MiB")[2]) < 1500
    assert not (tmp_path / "runs").exists()


def test_configs_say_what_a_dry_run_is():
    harness = yaml.safe_load((Path(folder_of_configs()) / "harness.yaml").read_text())
    assert harness["dry_run"] is False
