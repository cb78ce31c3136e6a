"""Whose code a config may import, found without importing any."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from hierdiff.trust import check_trust, imported_names, origins


def test_paths_are_found_however_deep_in_a_config():
    cfg = {"name": "mdm", "denoiser": {"inner": [{"name": "a.b:C"}]}, "data": {"name": "d:E"}}
    assert list(imported_names(cfg)) == ["a.b:C", "d:E"]


def test_a_config_from_a_file_imports_only_from_trusted_packages():
    cfg = {"name": "mdm", "denoiser": {"name": "their.nets:Net"}}
    with pytest.raises(PermissionError, match=r"'their.nets:Net'.* trust=\[their\]"):
        check_trust(cfg)
    with pytest.raises(PermissionError):
        check_trust(cfg, trusted=["the", "their.nets", "theirs"])
    check_trust(cfg, trusted=["their"])
    check_trust({"name": "mdm", "denoiser": {"name": "unet"}})


def trap(folder: Path, *parts: str) -> Path:
    """A module that leaves a marker where it, or a package around it, is imported."""
    path = folder.joinpath(*parts).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = f"import pathlib\npathlib.Path({str(folder / 'executed')!r}).touch()\n"
    path.write_text(f"{marker}class Net: ...\n")
    return path


@pytest.mark.parametrize(
    "parts", [("bare_trap",), ("trap_space", "shared", "payload"), ("trap_package", "net")]
)
def test_local_code_is_trusted_by_its_path_alone_and_never_imported_to_find_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
):
    path = trap(tmp_path, *parts)
    if parts[0] == "trap_package":
        trap(tmp_path, "trap_package", "__init__")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    name = f"{'.'.join(parts)}:Net"
    for trusted in ([], [parts[0]], [".".join(parts)], [str(path.parent / "other.py")]):
        with pytest.raises(PermissionError, match=re.escape(f"trust=[{path}]")):
            check_trust({"inner": [{"name": name}]}, trusted)
    top = parts[0] if len(parts) > 1 else f"{parts[0]}.py"
    check_trust({"name": name}, [f"./{top}"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_trust({"name": name}, [parts[0]])  # elsewhere it counts as installed
    with pytest.raises(PermissionError, match="not an installed one"):
        check_trust({"name": name}, [parts[0]], tmp_path / "weights.safetensors")  # beside the file
    assert not (tmp_path / "executed").exists()


def test_code_that_this_process_has_imported_is_trusted_by_name():
    check_trust({"name": f"{__name__}:Net"}, ["tests"])
    with pytest.raises(PermissionError):
        check_trust({"name": f"{__name__}:Net"})


@pytest.mark.parametrize(
    "name", [":Net", "os:", ".os:system", "a b:c", "os.:x", "os:path:x", "../x:Y", "http://x:Y"]
)
def test_a_name_of_another_form_is_refused_whatever_is_trusted(name):
    with pytest.raises(PermissionError, match=r"no package.module:Class"):
        check_trust({"deep": ({"name": name},)}, ["os", "a", "", ".."])


def test_origins_of_a_package_that_replaced_itself_and_gives_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As `transformers` does on import: its `__path__` then holds `Path`s."""
    inner = tmp_path / "lazy_package" / "inner.py"
    inner.parent.mkdir()
    inner.touch()
    init = inner.with_name("__init__.py")
    init.write_text(
        "import pathlib, sys, types\n"
        "lazy = types.ModuleType(__name__)\n"
        "lazy.__spec__ = __spec__\n"
        "__spec__.submodule_search_locations = [pathlib.Path(__file__).parent]\n"
        "sys.modules[__name__] = lazy\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "lazy_package", importlib.import_module("lazy_package"))
    assert origins("lazy_package.inner") == [init, inner]
