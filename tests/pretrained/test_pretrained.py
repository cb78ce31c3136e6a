"""Weights as a folder for others: bit for bit back, checked, and nothing from the hub unasked."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from hierdiff.methods import Request, methods
from hierdiff.pretrained import __main__ as command
from hierdiff.pretrained import from_pretrained, push_to_hub, save_pretrained
from hierdiff.training import load_method
from hierdiff.training.bounds import tensors_of
from hierdiff.training.format import save_weights
from tests import tiny
from tests.benchmarks.rows import quality, record
from tests.interop.published import converted
from tests.training.runs import NODE

FACTS = {"channels": 3, "classes": 0, "text_width": 0, "text_length": 0}
DATA = "a1" * 32


def weights(folder: Path, **config: Any) -> Path:
    """The weights of a tiny run."""
    torch.manual_seed(0)
    path = folder / "run" / "weights.safetensors"
    about = {
        "method": NODE,
        "facts": FACTS,
        "data": {"name": "noise", "resolution": 8},
        "data_sha256": DATA,
        "part": "train",
        "seed": 0,
        "trainer": {"steps": 7, "batch_size": 4, "lr": 0.002},
    }
    tensors = tensors_of(methods.build(NODE, offered=FACTS))
    save_weights(path, tensors, {**about, **config})
    return path


def measured(folder: Path, **changed: Any) -> Path:
    """The record of that run."""
    row = record(
        "small",
        quality=(quality(8, "native", 12.345678),),
        config={"seed": 0},
        provenance={"inputs": {"data": DATA}, "ended": "2026-01-31T12:00:00+00:00"},
        **{"method": "mdm", **changed},
    )
    return row.write(folder / "run")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_pretrained(weights(tmp_path), tmp_path / "out")


def test_the_method_comes_back_bit_for_bit(tmp_path: Path, saved: Path):
    found, config = from_pretrained(saved)
    target, own = load_method(tmp_path / "run" / "weights.safetensors")
    pairs = (found.state_dict(), target.state_dict())
    assert pairs[0].keys() == pairs[1].keys()
    assert all(torch.equal(pairs[0][name], pairs[1][name]) for name in pairs[1])
    assert config == own
    images = [one.sample(Request(2, noise=tiny.noise(1))) for one in (found, target)]
    assert all(torch.equal(images[0][side], images[1][side]) for side in (8, 4))


def test_a_run_folder_is_enough_and_its_record_makes_the_card(tmp_path: Path):
    run = weights(tmp_path).parent
    measured(tmp_path)
    out = save_pretrained(run, tmp_path / "out", licence="Apache-2.0", data_licence="CC0-1.0")
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "\n# small\n" in card
    row = next(line for line in card.split("\n") if line.startswith("| FD"))
    assert "| 12.35 |" in row and "frechet" in row
    for fact in ("- steps: 7", "- lr: 0.002", f"- SHA-256: {DATA}", "- licence: CC0-1.0"):
        assert f"\n{fact}\n" in card
    assert sorted(one.name for one in out.iterdir()) == [
        *("README.md", "config.json", "model.safetensors")
    ]


def test_what_nobody_stated_is_said_to_be_unknown(saved: Path):
    card = (saved / "README.md").read_text()
    assert "Nothing was measured with these weights." in card
    assert "license: other\n" in card and "- of the weights: not stated" in card


def test_a_published_network_keeps_its_origin_and_licence(tmp_path: Path):
    ours = tmp_path / "ours.safetensors"
    converted(tmp_path, "mdm_two_level").save(ours)
    card = (save_pretrained(ours, tmp_path / "out") / "README.md").read_text()
    assert "- published by: apple/ml-mdm" in card and "`mdm_two_level.safetensors`" in card
    assert from_pretrained(tmp_path / "out")[0].resolutions == (16, 8)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"method": "cascaded"}, "its method is cascaded, that of the weights mdm"), ({}, "by hand")],
)
def test_a_record_that_is_not_of_these_weights_is_refused(tmp_path: Path, changed, said):
    run = weights(tmp_path).parent
    path = measured(tmp_path, **changed)
    if not changed:
        path.write_text(path.read_text().replace("12.345678", "2.345678"))
    with pytest.raises(ValueError, match=said):
        save_pretrained(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_were_changed_are_refused(saved: Path):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not have the sha256"):
        from_pretrained(saved)


def test_a_config_that_was_changed_is_refused(saved: Path):
    path = saved / "config.json"
    about = json.loads(path.read_text())
    about["config"]["method"]["sampling"]["steps"] = 3
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="was changed by hand"):
        from_pretrained(saved)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ('{"model_type": "unet"}', "not written by hierdiff"),
        ('{"library": "hierdiff", "schema": 9}', "schema 9"),
        ('{"library": "hierdiff", "schema": 1}', "lacks its config"),
    ],
)
def test_another_config_is_named(saved: Path, text: str, said: str):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        from_pretrained(saved)


def test_a_class_that_a_config_names_is_imported_only_where_it_is_trusted(tmp_path: Path):
    """The weights are those of another network: the refusal comes before anything is built."""
    node = {**NODE, "denoiser": {"name": "tests.pretrained.absent:Net"}}
    out = save_pretrained(weights(tmp_path, method=node), tmp_path / "out")
    with pytest.raises(PermissionError, match="'tests.pretrained.absent:Net'"):
        from_pretrained(out)
    assert "tests.pretrained.absent" not in sys.modules


def test_a_checkpoint_of_training_is_refused(tmp_path: Path):
    path = weights(tmp_path)
    tensors = tensors_of(load_method(path)[0])
    from hierdiff.training.format import write_packed

    write_packed(path, tensors, {"kind": "checkpoint", "config": load_method(path)[1]})
    with pytest.raises(ValueError, match="checkpoint of training"):
        save_pretrained(path, tmp_path / "out")


class Hub:
    """A fake of huggingface_hub with one repository."""

    def __init__(self, content: Path):
        self.content, self.calls = content, []

    def snapshot_download(self, name: str, **options: Any) -> str:
        self.calls.append((name, options))
        return str(self.content)

    def HfApi(self) -> Any:  # noqa: N802  (the client's name)
        return SimpleNamespace(create_repo=self.create, upload_folder=self.upload)

    def create(self, name: str, **options: Any) -> None:
        self.calls.append((name, options))

    def upload(self, **options: Any) -> str:
        self.calls.append(("upload", options))
        return f"https://example.org/{options['repo_id']}"


@pytest.fixture
def hub(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(Path(shutil.copytree(saved, tmp_path / "cache")))
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def test_nothing_is_downloaded_unasked(hub: Hub):
    with pytest.raises(ValueError, match="nothing is downloaded unasked: give download=True"):
        from_pretrained("somebody/mdm")
    assert hub.calls == []


def test_a_download_takes_three_files_and_checks_them(hub: Hub):
    method, _ = from_pretrained("somebody/mdm", download=True, revision="v1")
    assert method.resolutions == (8, 4)
    files = ["config.json", "model.safetensors", "README.md"]
    assert hub.calls == [("somebody/mdm", {"revision": "v1", "allow_patterns": files})]
    (hub.content / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="sha256"):
        from_pretrained("somebody/mdm", download=True)


def test_a_folder_is_checked_before_it_is_uploaded(hub: Hub, saved: Path):
    assert push_to_hub(saved, "me/mdm") == "https://example.org/me/mdm"
    assert hub.calls[0] == ("me/mdm", {"private": True, "exist_ok": True})
    assert "allow_patterns" in hub.calls[1][1]
    hub.calls.clear()
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        push_to_hub(saved, "me/mdm")
    with pytest.raises(ValueError, match="write OWNER/NAME"):
        push_to_hub(saved, "mdm")
    assert hub.calls == []


def test_without_its_client_the_hub_is_refused_with_the_extra(hub: Hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'hierdiff\[hub\]'"):
        from_pretrained("somebody/mdm", download=True)


def test_a_folder_that_is_not_there_is_no_id_of_the_hub(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        from_pretrained(tmp_path / "absent")


def test_the_command_saves_pushes_and_fetches(tmp_path: Path, hub: Hub):
    out = tmp_path / "by_command"
    command.main(["save", str(tmp_path / "run"), str(out), "--licence", "MIT"])
    assert (out / "README.md").read_text().startswith("---\nlicense: mit\n")
    command.main(["push", str(out), "me/mdm", "--public"])
    command.main(["fetch", "me/mdm"])
    assert [call[0] for call in hub.calls] == ["me/mdm", "upload", "me/mdm"]
    with safe_open(out / "model.safetensors", "pt") as file:
        assert "hierdiff" in file.metadata()
