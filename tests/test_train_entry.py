from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from hierdiff.command import plain_config
from hierdiff.config import folder_of_configs, reported
from hierdiff.data import datasets
from hierdiff.prepared import method_node, prepare
from hierdiff.resolvers import half
from hierdiff.training import load_method
from hierdiff.training.interrupt import Interrupted
from tests.training.runs import NESTED, command


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Arguments of a very small run, with a method and a denoiser from a folder of one's own."""
    parts = {
        "denoiser/tiny": NESTED,
        "method/tiny": {"name": "mdm", "resolutions": [8, 4]},
    }
    for name, node in parts.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(node))
    return [
        *("--config-dir", str(tmp_path / "own"), "method=tiny", "denoiser=tiny"),
        *("data.resolution=8", "budget=smoke", "sampler.steps=2", "trainer.accelerator=cpu"),
        "folder=run",
    ]


def composed(*arguments: str) -> dict[str, Any]:
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        return plain_config(compose("train", ["name=any", *arguments]))


def test_denoiser_and_sampler_become_options_of_the_method():
    cfg = {"method": {"name": "m", "shift": 2}, "denoiser": {"name": "d"}, "sampler": {"steps": 3}}
    wanted = {"name": "m", "shift": 2, "denoiser": {"name": "d"}, "sampling": {"steps": 3}}
    assert method_node(cfg) == wanted
    assert method_node({"method": {"name": "m"}, "denoiser": None}) == {"name": "m"}
    own_denoiser = {"name": "m", "denoiser": {"name": "own"}}
    assert method_node({"method": own_denoiser, "denoiser": {"name": "d"}}) == own_denoiser


def test_a_seed_decides_the_first_weights():
    def first(seed: int) -> Any:
        cfg = composed("data.resolution=16", "budget=smoke", f"seed={seed}")
        return next(prepare(cfg).method.parameters())

    assert first(3).equal(first(3))
    assert not first(3).equal(first(4))


def test_levels_that_do_not_divide_the_data_are_refused():
    cfg = composed("data.resolution=16", "method.resolutions=[32,16]")
    with pytest.raises(ValueError, match=r"\[32, 16\] with data.resolution=16.*=32"):
        prepare(cfg)


def test_the_same_command_again_goes_on(tmp_path: Path, own: list[str]):
    code, said = command("hierdiff.train", tmp_path, own)
    assert code == 0, said
    assert "data critters: 2048 images of 8 px; 14 classes (" in said
    run = tmp_path / "run"
    first = (run / "weights.safetensors").read_bytes()
    assert (run / "loss.png").is_file()
    assert list((run / "samples").glob("*.png"))
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["trainer"]["steps"] == 6 and saved["seed"] == 0
    assert saved["method"]["denoiser"]["name"] == "nested_unet"
    assert saved["data_sha256"] and saved["facts"]["classes"] == len(saved["class_names"])
    assert load_method(run / "weights.safetensors")[1] == saved

    sorted((run / "checkpoints").iterdir())[-1].unlink()
    (run / "weights.safetensors").unlink()
    code, said = command("hierdiff.train", tmp_path, own)
    assert code == 0 and "going on from run/checkpoints/step_0000003" in said
    assert (run / "weights.safetensors").read_bytes() == first

    code, said = command("hierdiff.train", tmp_path, [*own, "trainer.lr=0.5"])
    assert code == 1
    assert said.count("\n") == 1 and "trainer.lr=0.001, now it is 0.5" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("denoiser.name=nested_unit", "did you mean 'nested_unet'"),
        ("+denoiser.widht=8", "did you mean 'width'"),
        ("data.name=critter", "did you mean 'critters'"),
        ("data.resolution=24", "24"),
        ("method.resolutions=[8,3]", "3 does not divide 8"),
        ("method.resolutions=[4,8]", "not in order"),
        ("trainer.accumulate=3", "not a multiple of"),
        ("trainer.precision=16", "precision takes one of 32-true"),
        ("+trainer.stepz=3", "trainer.stepz: recipe has no option 'stepz', did you mean 'steps'"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, own: list[str], wrong: str, message: str):
    code, said = command("hierdiff.train", tmp_path, [*own, wrong])
    assert code == 1
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, own: list[str]):
    datasets.build({"name": "critters", "resolution": 8})  # decoded before the disk is full
    code, said = command("hierdiff.train", tmp_path, own, largest=30_000)
    assert code == 1
    lines = [line for line in said.splitlines() if not line.startswith(("stage", "data "))]
    assert len(lines) == 1
    assert "cannot write run/checkpoints/step_0000003" in said and "make room" in said
    assert not list((tmp_path / "run").rglob("*.part"))
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") == 3
    assert command("hierdiff.train", tmp_path, own)[0] == 0


def test_exit_codes_of_a_command(capsys: pytest.CaptureFixture[str]):
    def raising(error: BaseException) -> int:
        @reported
        def main() -> None:
            raise error

        with pytest.raises(SystemExit) as end:
            main()
        return int(str(end.value.code))

    assert raising(ValueError("one\ntwo")) == 1
    assert capsys.readouterr().err == "error: one two\n"
    assert raising(Interrupted("go on like this")) == 130
    assert capsys.readouterr().err == "go on like this\n"
    assert raising(FileNotFoundError(2, "No such file or directory", "x.png")) == 1
    assert capsys.readouterr().err == "error: No such file or directory: x.png\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    @reported
    def main() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main()

    @reported
    def other() -> None:
        raise ValueError("seen")

    monkeypatch.setenv("HIERDIFF_TRACEBACK", "1")
    with pytest.raises(ValueError, match="seen"):
        other()


def test_half_a_clip_has_all_frames():
    assert half([8, 32, 16]) == [8, 16, 8]
    assert half(32) == 16
    for wrong in (True, "32", [8, 0]):
        with pytest.raises(ValueError, match="data.resolution="):
            half(wrong)
