from __future__ import annotations

import errno
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from hierdiff.files.atomic import write
from hierdiff.training.bounds import tensors_of
from hierdiff.training.checkpoint import Checkpoint, all_in, check_config, newest, save_checkpoint
from hierdiff.training.format import SCHEMA, opened, save_weights, unpacked, write_packed
from hierdiff.training.load import load_method
from tests.training.runs import GROWN, INNER, built, config, run


def weights(folder: Path, **parts: Any) -> Path:
    path = folder / "weights.safetensors"
    save_weights(path, tensors_of(built()), config(**parts))
    return path


def test_weights_rebuild_the_method(tmp_path: Path):
    method, read = load_method(weights(tmp_path))
    wanted = built().state_dict()
    assert read["class_names"] == ["a", "b", "c", "d"]
    assert not method.training
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in method.state_dict().items())


def test_shared_tensors_are_stored_once_and_stay_shared(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tensors_of(built(GROWN)), config(GROWN))
    method, _ = load_method(path)
    inner = next(method.stages[0].parameters())
    assert any(inner is parameter for parameter in method.stages[1].parameters())


def test_a_checkpoint_gives_the_averaged_weights(tmp_path: Path):
    summary = run(tmp_path, GROWN, steps=9, checkpoint_every=8, ema=[1000])
    method, _ = load_method(tmp_path / "checkpoints" / "step_0000008.safetensors")
    found = newest(tmp_path / "checkpoints")
    assert found is not None and found[1].total_step == 9
    final, _ = load_method(summary.weights)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(method.state_dict().values(), final.state_dict().values(), strict=True)
    )


def test_a_class_by_its_path_is_refused_before_it_is_imported(tmp_path: Path):
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    node = {**config()["method"], "denoiser": {"name": "trap_module:Net"}}
    path = weights(tmp_path, method=node)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(PermissionError, match=r"'trap_module:Net'.*trust=\[trap_module\]"):
            load_method(path)
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize("trust", [(), ("os",)])
def test_metadata_cannot_call_the_system(tmp_path: Path, trust: tuple[str, ...]):
    node = {**config()["method"], "denoiser": {"name": "os:system", "command": "true"}}
    path = weights(tmp_path, method=node)
    with pytest.raises((PermissionError, ValueError), match="os:system"):
        load_method(path, trust)


def test_a_foreign_file_is_named_as_such(tmp_path: Path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="foreign.safetensors was not written by hierdiff"):
        load_method(path)


@pytest.mark.parametrize("about", ["no json", "[]", "{}", json.dumps({"schema": SCHEMA + 1})])
def test_foreign_metadata_is_one_clear_error(tmp_path: Path, about: str):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"a": torch.ones(2)}, {"hierdiff": about}))
    with pytest.raises(ValueError, match="w.safetensors"):
        load_method(path)


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, keep: float):
    path = weights(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="cut short or no safetensors file"):
        load_method(path)


@pytest.mark.parametrize(
    "place", ["method.denoiser.keep", "method.codec.root", "method.denoiser.compile", "data.keep"]
)
def test_an_option_is_free_by_its_whole_path_alone(tmp_path: Path, place: str):
    """Options of other parts may have the names of those that leave the weights as they are."""
    part, *path, last = place.split(".")
    old, new = {last: 1}, {last: 2}
    for name in reversed(path):
        old, new = {name: old}, {name: new}
    with pytest.raises(ValueError, match=f"was written with {place}=1, now it is 2"):
        check_config(tmp_path, {part: old}, {part: new})
    free = {"trainer": {"keep": 1}, "data": {"root": "a", "test_root": "b", "cache": "c"}}
    check_config(tmp_path, free, {"trainer": {}, "data": {}})


def test_a_checkpoint_is_not_gone_on_from_after_a_change_of_what_it_was_made_from(tmp_path: Path):
    old = {"inputs": {"method.codec.checkpoint": "1", "gone": "1"}}
    check_config(tmp_path, old, {"inputs": {"method.codec.checkpoint": "1", "new": "2"}})
    check_config(tmp_path, {}, old)
    with pytest.raises(ValueError, match=r"another content of method\.codec\.checkpoint"):
        check_config(tmp_path, old, {"inputs": {"method.codec.checkpoint": "2"}})


HUGE = {
    "a width": ({"denoiser": {"width": 10**7}}, {}),
    "a product of widths": ({"denoiser": {"width": 10**6, "groups": 1}}, {}),
    "blocks": ({"denoiser": {"blocks": [10**9, 0]}}, {}),
    "many blocks": ({"denoiser": {"blocks": [10**6, 0]}}, {}),
    "inner blocks": ({"denoiser": {"inner": {"blocks": 10**5}}}, {}),
    "classes": ({}, {"classes": 10**9}),
    "a table of classes": ({}, {"classes": 10**6}),
    "channels": ({}, {"channels": 10**6}),
    "steps of a table": ({"schedule": {"name": "linear_beta", "steps": 10**9}}, {}),
    "a side": ({"resolutions": [10**9, 4]}, {}),
    "many levels": ({"resolutions": [2**i for i in range(20)][::-1]}, {}),
    "words": ({"denoiser": {"width": "9" * 10**6}}, {}),
    "nests": ({"denoiser": json.loads('{"inner": ' * 300 + "1" + "}" * 300)}, {}),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_size_out_of_a_file_is_compared_before_memory_is_taken(tmp_path: Path, name: str):
    """In a second, and in no more memory than the file has."""
    method, facts = HUGE[name]
    kept = config()
    node = {**kept["method"], **method}
    node["denoiser"] = {**kept["method"]["denoiser"], **method.get("denoiser", {})}
    if "inner" in method.get("denoiser", {}) and name == "inner blocks":
        node["denoiser"]["inner"] = {**INNER, **method["denoiser"]["inner"]}
    path = weights(tmp_path, method=node, facts={**kept["facts"], **facts})
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError, match=str(path)) as error:
        load_method(path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float):
    tensors = dict(tensors_of(built()))
    name = sorted(tensors)[3]
    tensors[name] = torch.full_like(tensors[name], value)
    save_weights(tmp_path / "w.safetensors", tensors, config())
    with pytest.raises(ValueError, match=f"w.safetensors: '{name}' is not finite"):
        load_method(tmp_path / "w.safetensors")


def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path):
    tensors = {name: tensor.int() for name, tensor in tensors_of(built()).items()}
    save_weights(tmp_path / "w.safetensors", tensors, config())
    with pytest.raises(ValueError, match=r"is torch.int32, the method has torch.float32"):
        load_method(tmp_path / "w.safetensors")


def test_a_pickle_is_not_read(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="pickles"):
        load_method(path)


@pytest.mark.parametrize("read", [load_method, unpacked])
def test_a_value_that_a_disk_damaged_is_found_out(tmp_path: Path, read: Callable[[Path], Any]):
    path = weights(tmp_path)
    content = bytearray(path.read_bytes())
    content[-4:] = bytes(4)  # of the last tensor, finite as it was
    path.write_bytes(content)
    with pytest.raises(ValueError, match="do not match their sha256"):
        read(path)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_method(tmp_path / "nowhere")


def test_weights_of_another_method_are_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    facts = {"kind": "weights", "config": config(GROWN)}
    tensors = tensors_of(built())
    write_packed(path, dict(list(tensors.items())[1:]), facts)
    with pytest.raises(ValueError, match="another method"):
        load_method(path)


def test_the_step_with_one_more_digit_is_newer(tmp_path: Path):
    for step in (9_999_998, 9_999_999, 10_000_000, 10_000_001):
        save_checkpoint(tmp_path, Checkpoint({}, 0, 0, 0, step, False, {}, {}), keep=2)
    assert [path.stem for path in all_in(tmp_path)] == ["step_10000000", "step_10000001"]


def test_a_broken_newest_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run(tmp_path)
    older, broken = sorted((tmp_path / "checkpoints").iterdir())
    broken.write_bytes(broken.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        found = newest(tmp_path / "checkpoints")
    assert found is not None and found[0] == older
    assert f"skipping the broken checkpoint {broken}" in caplog.text


def test_a_full_disk_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "file"
    write(path, b"old")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"cannot write {path}.*No space left on device.*make room"):
        write(path, b"new and longer")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_file_is_that_of_safetensors_written_piece_by_piece(tmp_path: Path):
    kinds = (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float32, torch.float64)
    tensors = {f"ä{i}": (torch.arange(6).view(2, 3) - i).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"none": torch.zeros(0, 3), "one": torch.tensor(2.0), "turned": torch.eye(3).T[1:]}
    write_packed(tmp_path / "own", tensors, {"kind": "weights"})
    read, facts = unpacked(tmp_path / "own")
    assert facts == {"kind": "weights"}
    torch.testing.assert_close(read, tensors, rtol=0, atol=0)
    flat = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with opened(tmp_path / "own") as (file, _):
        assert (tmp_path / "own").read_bytes() == save(flat, file.metadata())
