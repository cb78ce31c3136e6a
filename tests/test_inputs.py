"""What a run is made from: files and code by their content, found wherever an option names them."""

from __future__ import annotations

import hashlib
import importlib
import os
import time
from pathlib import Path

import pytest

from hierdiff.inputs import LARGE, changed, digest, inputs, sha256, source_of
from tests.test_registry import announce


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_an_option_that_names_a_file_is_an_input_however_deep(tmp_path: Path):
    path = str(written(tmp_path / "w.safetensors", "abc"))
    options = {
        "method": {"codec": {"checkpoint": path}, "stages": [{"weights": path}, {"weights": None}]},
        "measure": {"references": {32: path}, "samples": 8},
        "data": {"root": str(tmp_path), "cache": str(tmp_path), "name": str(tmp_path)},
        "folder": str(tmp_path),
    }
    known = hashlib.sha256(b"abc").hexdigest()
    places = ("measure.references.32", "method.codec.checkpoint", "method.stages.0.weights")
    assert inputs(options, data="d") == {"data": "d", **dict.fromkeys(places, known)}


def test_a_folder_is_the_names_and_contents_of_its_files(tmp_path: Path):
    written(tmp_path / "model" / "a", "1")
    one = digest(tmp_path / "model")
    written(tmp_path / "model" / "sub" / "b", "2")
    two = digest(tmp_path / "model")
    (tmp_path / "model" / "sub" / "b").rename(tmp_path / "model" / "sub" / "c")
    assert len({one, two, digest(tmp_path / "model")}) == 3


@pytest.mark.parametrize("value", ["", "\0", "a" * 5000, "~nobody-of-this-name/x", 3, None, 0.5])
def test_what_names_no_file_is_no_input(value):
    assert inputs({"part": {"option": value}}) == {}


def test_code_named_by_its_path_is_an_input_and_ours_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    module = written(tmp_path / "one_module_of_inputs.py", "raise SystemExit")
    written(tmp_path / "package_of_inputs" / "__init__.py", "raise SystemExit")
    helper = written(tmp_path / "package_of_inputs" / "deep" / "helper.py", "x = 1")
    written(tmp_path / "beside.py", "x = 1")
    options = {
        "denoiser": {"name": "one_module_of_inputs:Net", "inner": [{"name": "unet"}]},
        "sampler": {"rule": {"name": "package_of_inputs.rule:Rule"}},
        "method": {"codec": {"name": "baselines.latent.codec:AutoencoderCodec"}},
    }
    before = inputs(options)
    assert sorted(before) == ["source of one_module_of_inputs", "source of package_of_inputs"]
    written(tmp_path / "beside.py", "x = 2")
    assert inputs(options) == before
    helper.write_text("x = 2")
    assert changed(before, inputs(options)) == "source of package_of_inputs"
    module.write_text("raise SystemExit(1)")
    assert changed(before, inputs(options)) == "source of one_module_of_inputs"
    assert source_of("hierdiff.methods") is None and source_of("nowhere_at_all") is None


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("import helper_of_code", "helper_of_code.py"),
        ("from helper_of_code import GAIN", "helper_of_code.py"),
        ("def late():\n    import helper_of_code.deep as d", "helper_of_code/deep.py"),
        ("from helper_of_code import deep", "helper_of_code/deep.py"),
        ("import other_of_code", "helper_of_code.py"),  # which imports it
        ("from space_of_code.part import GAIN", "space_of_code/part.py"),  # no __init__.py
    ],
)
def test_what_code_imports_is_part_of_it(
    statement: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    written(tmp_path / "net_of_code.py", f"import os, torch, nowhere, hierdiff.noise\n{statement}")
    written(tmp_path / "other_of_code.py", "import net_of_code, helper_of_code")  # and round
    if "/" in place:
        written(tmp_path / "helper_of_code" / "__init__.py", "")
    before = [source_of("net_of_code")]
    for content in ("GAIN = 1.0", "GAIN = 0.5", "def no python"):
        written(tmp_path / place, content)
        importlib.invalidate_caches()
        before.append(source_of("net_of_code"))
    assert len(set(before)) == 4
    written(tmp_path / "stranger_of_code.py", "GAIN = 1.0")
    assert source_of("net_of_code") == before[-1]


def test_a_plugin_that_is_installed_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = written(tmp_path / "plug_of_inputs.py", "raise SystemExit")
    assert inputs({}) == {}
    announce(tmp_path, "plug_of_inputs")
    before = inputs({})
    assert list(before) == ["source of plug_of_inputs"]
    module.write_text("raise SystemExit(1)")
    assert changed(before, inputs({})) == "source of plug_of_inputs"


def test_what_is_gone_or_new_has_not_changed():
    assert changed({"a": "1", "gone": "2"}, {"a": "1", "new": "3"}) is None
    assert changed({"a": "1", "b": "2"}, {"b": "3", "a": "2"}) == "a"


def test_the_hash_of_a_large_file_is_kept_until_it_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    path, old = tmp_path / "large", b"a" * LARGE
    path.write_bytes(old)
    assert sha256(path) == hashlib.sha256(old).hexdigest() and not cache.exists()  # just changed
    os.utime(path, (1, 1))
    monkeypatch.setattr("hierdiff.inputs.SETTLED", -1.0)
    for content in (old, b"b" * LARGE):
        time.sleep(0.02)  # more than a tick of the file system's clock
        path.write_bytes(content)
        os.utime(path, (1, 1))  # the time of its inode tells
        assert [sha256(path) for _ in range(2)] == [hashlib.sha256(content).hexdigest()] * 2
    kept = sorted((cache / "hashes").iterdir())
    assert len(kept) == 2
    for one in kept:
        one.write_text("no hash")  # damaged
    assert sha256(path) == hashlib.sha256(b"b" * LARGE).hexdigest()


def test_a_folder_of_more_files_than_an_input_has_is_refused_and_data_s_are_hashed_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hierdiff.inputs.MANY", 3)
    for name in ("a", "b", "c"):
        written(tmp_path / "large" / name, name)
    assert digest(tmp_path / "large")
    written(tmp_path / "large" / "d", "d")
    with pytest.raises(ValueError, match=r"^trainer.strategy=.*holds more than 3 files"):
        inputs({"trainer": {"strategy": str(tmp_path / "large")}})
    assert inputs({"data": {"images": str(tmp_path / "large")}}, data="x") == {"data": "x"}


@pytest.mark.skipif(not os.path.isfile("/proc/kmsg"), reason="needs a file that never ends")
def test_a_file_of_the_system_that_never_ends_is_not_waited_for():
    assert sha256(Path("/proc/kmsg")) == hashlib.sha256().hexdigest()
