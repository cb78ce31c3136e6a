"""A checkpoint that is not whole is passed over, whatever is missing or wrong in it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierdiff.training import load_method
from hierdiff.training.checkpoint import newest
from hierdiff.training.format import DIGEST, KEY, opened
from hierdiff.training.run import stage_steps
from hierdiff.training.whole import Whole
from tests.training.runs import GROWN, built, recipe, run

Tensors = dict[str, Tensor]
Facts = dict[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages with the checkpoints of steps 2, 4, ..., of which 5 ends a stage."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, GROWN, checkpoint_every=2, keep=20)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """The checkpoints after 8 steps and after 10."""
    for step in (8, 10):
        name = f"step_{step:07d}.safetensors"
        shutil.copy(trained / "checkpoints" / name, tmp_path / name)
    return tmp_path


def whole() -> Whole:
    method = built(GROWN)
    return Whole(method, recipe(), stage_steps(method, recipe().steps))


def damaged(path: Path, damage: Callable[[Tensors, Facts], Any]) -> None:
    with opened(path) as (file, _):
        facts = json.loads(file.metadata()[KEY])
    tensors = load_file(path)
    damage(tensors, facts)
    facts.pop(DIGEST)  # it is whole as far as the disk knows
    save_file(tensors, path, {KEY: json.dumps(facts)})


def without(prefix: str, count: int | None = None) -> Callable[[Tensors, Facts], None]:
    def damage(tensors: Tensors, facts: Facts) -> None:
        for name in [name for name in tensors if name.startswith(prefix)][:count]:
            del tensors[name]

    return damage


def changed(prefix: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors, Facts], None]:
    def damage(tensors: Tensors, facts: Facts) -> None:
        name = next(name for name in tensors if name.startswith(prefix))
        tensors[name] = change(tensors[name]).contiguous()

    return damage


def stated(*place: Any, value: Any) -> Callable[[Tensors, Facts], None]:
    def damage(tensors: Tensors, facts: Facts) -> None:
        node = facts
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value

    return damage


def nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, float("nan"))


GROUP = ("optimizers", "denoiser", "groups", 0)
DAMAGE = {
    "no optimizers": stated("optimizers", value={}),
    "other optimizers": stated("optimizers", value={"critic": {}}),
    "optimizers of another type": stated("optimizers", value=[]),
    "optimizer of another type": stated("optimizers", "denoiser", value=[1]),
    "no groups": stated("optimizers", "denoiser", "groups", value=[]),
    "lost group option": stated(*GROUP, value={"params": [0]}),
    "other parameters": stated(*GROUP, "params", value=[0]),
    "other decay": stated(*GROUP, "weight_decay", value=0.5),
    "betas of another type": stated(*GROUP, "betas", value=["a", "b"]),
    "rate that is none": stated(*GROUP, "lr", value="fast"),
    "unknown number": stated("optimizers", "denoiser", "numbers", value={"999/step": 1}),
    "lost optimizer tensors": without("optimizer/"),
    "lost optimizer tensor": without("optimizer/", 1),
    "optimizer tensor of another shape": changed("optimizer/denoiser/0/exp", lambda t: t[:1]),
    "optimizer tensor of another dtype": changed("optimizer/denoiser/0/exp", Tensor.half),
    "lost averages": without("ema/"),
    "lost average": without("ema/", 1),
    "average of another shape": changed("ema/", lambda t: t[None]),
    "average of another dtype": changed("ema/", Tensor.half),
    "average that is not finite": changed("ema/", nan),
    "lost model": without("model/"),
    "lost model tensor": without("model/", 1),
    "model tensor of another shape": changed("model/", lambda t: t[None]),
    "model tensor of another dtype": changed("model/", Tensor.int),
    "model tensor that is not finite": changed("model/", nan),
    "unknown tensor": lambda tensors, facts: tensors.update(other=torch.ones(1)),
    "unknown model tensor": lambda tensors, facts: tensors.update({"model/x": torch.ones(1)}),
    "stage out of range": stated("stage", value=9),
    "negative stage": stated("stage", value=-1),
    "stage that is none": stated("stage", value="1"),
    "truth as stage": stated("stage", value=True),
    "negative step": stated("step", value=-3),
    "step out of range": stated("step", value=10**9),
    "step that is no integer": stated("step", value=2.5),
    "images that are none": stated("images", value=None),
    "total step below step": stated("total_step", value=0),
    "not started": stated("started", value=False),
    "started as text": stated("started", value="yes"),
    "log of another form": stated("log", value={}),
    "log as a list": stated("log", value=[1, 2]),
    "log without counts": stated("log", "counts", value={"x": 1}),
    "negative length of the log": stated("log", "bytes", value=-5),
    "sums that are none": stated("log", "sums", value={"loss": "low"}),
    "seconds of another form": stated("seconds", value="long"),
    "too many seconds": stated("seconds", value=[1.0] * 9),
    "negative seconds": stated("seconds", value=[-1.0, 0.0]),
    "config of another type": stated("config", value=[]),
    "missing field": lambda tensors, facts: facts.pop("images"),
    "unknown field": stated("more", value=1),
    "another kind": stated("kind", value="weights"),
    "no schema": lambda tensors, facts: facts.pop("schema"),
    "another schema": stated("schema", value=99),
    "no tensors": lambda tensors, facts: tensors.clear(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str
):
    last = folder / "step_0000010.safetensors"
    found = newest(folder, whole().check)
    assert found is not None and found[0] == last
    damaged(last, DAMAGE[name])
    with caplog.at_level(logging.WARNING):
        found = newest(folder, whole().check)
    assert found is not None and found[0] == folder / "step_0000008.safetensors"
    assert f"skipping the broken checkpoint {last}" in caplog.text
    assert "1 of 2 checkpoints are broken" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 9999, b'{"a": 1}' * 99])
def test_a_file_that_is_no_checkpoint_is_passed_over(folder: Path, content: bytes):
    (folder / "step_0000010.safetensors").write_bytes(content)
    (folder / "step_0000012.safetensors").mkdir()
    (folder / "step_0000014.safetensors").symlink_to("nowhere")
    found = newest(folder, whole().check)
    assert found is not None and found[0] == folder / "step_0000008.safetensors"


def test_every_checkpoint_of_a_run_is_whole(trained: Path, tmp_path: Path):
    for path in sorted((trained / "checkpoints").iterdir()):
        shutil.copy(path, tmp_path)
        found = newest(tmp_path, whole().check)
        assert found is not None and found[0].name == path.name


def test_where_all_are_broken_the_run_says_so_and_does_not_begin_anew(folder: Path):
    for path in folder.iterdir():
        damaged(path, DAMAGE["lost model"])
    with pytest.raises(ValueError, match=r"all 2 checkpoints in .* are broken.*remove the folder"):
        newest(folder, whole().check)
    assert newest(folder / "nowhere", whole().check) is None


def test_a_run_that_goes_on_before_a_broken_checkpoint_ends_as_one_that_was_whole(
    trained: Path, tmp_path: Path
):
    (tmp_path / "checkpoints").mkdir()
    for step in (8, 10):
        name = f"step_{step:07d}.safetensors"
        shutil.copy(trained / "checkpoints" / name, tmp_path / "checkpoints" / name)
    damaged(tmp_path / "checkpoints" / "step_0000010.safetensors", DAMAGE["lost average"])
    summary = run(tmp_path, GROWN, checkpoint_every=2, keep=20)
    assert summary.resumed_at == 8
    one, other = (load_method(at / "weights.safetensors")[0] for at in (trained, tmp_path))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
