"""Files that are damaged, of another format or malicious: one clear error each, or what they hold.

Mutated files are read in one process of their own, as `isolated` reads them, so that a crash or an
exception of another kind shows as a missing line.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from hierdiff.interop import isolated
from hierdiff.interop.content import Content
from hierdiff.interop.conversion import chosen, convert
from hierdiff.interop.formats import kind_of
from hierdiff.interop.reading import read_content
from tests.interop.published import OPTIONS, weights_of

MUTATIONS = 100
TENSORS = {
    "first.weight": torch.arange(12.0).reshape(3, 4),
    "first.bias": torch.ones(3, dtype=torch.float16),
    "steps": torch.tensor(7),
}
READ = """
import json, sys
from pathlib import Path
from hierdiff.interop import isolated
from hierdiff.interop.reading import read_content
isolated.confine(1 << 30, 300)
for line in sys.stdin:
    path = Path(line.strip())
    read = read_content if "safetensors" in path.name else isolated.read
    try:
        content = read(path)
        said = {name: list(t.shape) for t_ in content.tables.values() for name, t in t_.items()}
    except (ValueError, OSError) as error:
        said = str(error)
    print(json.dumps([path.name, said]), flush=True)
"""


def torch_bytes(value: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    return file.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "safetensors": lambda: save(TENSORS),
    "zip": lambda: torch_bytes({"state_dict": TENSORS, "epoch": 3}),
    "legacy": lambda: torch_bytes(TENSORS, _use_new_zipfile_serialization=False),
    "npz": npz_bytes,
}


def mutated(data: bytes, random: random.Random) -> bytes:
    """One mutation: cut short, bytes flipped, a piece left out, doubled or zeroed."""
    content = bytearray(data)
    place, size = random.randrange(len(content)), random.randint(1, 40)
    kind = random.choice(["cut", "flip", "flip", "drop", "double", "zero", "swap"])
    if kind == "cut":
        return bytes(content[:place])
    if kind == "flip":
        for _ in range(random.randint(1, 8)):
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind == "drop":
        del content[place : place + size]
    elif kind == "double":
        content[place:place] = content[place : place + size]
    elif kind == "zero":
        content[place : place + size] = bytes(len(content[place : place + size]))
    else:
        other = random.randrange(len(content))
        content[place], content[other] = content[other], content[place]
    return bytes(content)


def read_all(paths: list[Path]) -> dict[str, object]:
    """What each file gave, by its name; a file after which the process died is not in it."""
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.slow
def test_a_hundred_mutations_of_each_format_give_one_error_or_tensors(tmp_path: Path):
    paths = []
    for kind, make in WHOLE.items():
        generator, data = random.Random(0), make()
        for i in range(MUTATIONS + 1):
            path = tmp_path / f"{kind}-{i}"
            path.write_bytes(data if not i else mutated(data, generator))
            paths.append(path)
    said = read_all(paths)
    refused = 0
    for path in paths:
        result = said[path.name]
        if path.name.endswith("-0"):
            assert result == {name: list(tensor.shape) for name, tensor in TENSORS.items()}
        if isinstance(result, str):
            refused += 1
            assert str(path) in result and "\n" not in result and len(result) < 700, result
    assert refused > 2 * MUTATIONS  # flips inside a number give another number


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def malicious(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Files that would run something, by the name that their error must give."""
    import os
    import posixpath

    mark = folder / "ran"
    calls = {
        "posix.system": Calls(os.system, f"touch {mark}"),
        "builtins.eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": Calls(exec, f"open({str(mark)!r}, 'w')"),
        "builtins.open": Calls(open, str(mark), "w"),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", str(mark)]),
        "posixpath.join": Calls(posixpath.join, "a", "b"),
        "pathlib": Path(mark),
    }
    files = {}
    for name, value in calls.items():
        files[f"{name}.pth"] = (torch_bytes({"state_dict": {**TENSORS, "x": value}}), name)
        files[f"{name}.legacy"] = (
            torch_bytes({**TENSORS, "x": value}, _use_new_zipfile_serialization=False),
            name,
        )
        files[f"{name}.pkl"] = (pickle.dumps({"x": value}, protocol=2), "")
    return files


def test_what_a_pickle_would_run_is_named_and_not_run(tmp_path: Path):
    files = malicious(tmp_path)
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    for name, (_, named) in files.items():
        with pytest.raises(ValueError) as caught:
            isolated.read(tmp_path / name)
        assert named in str(caught.value) and name in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_bookkeeping_beside_the_weights_becomes_plain_values(tmp_path: Path):
    from argparse import Namespace

    value = {"model": TENSORS, "args": Namespace(model="DiT-XL/2", image_size=256), "step": 5}
    (tmp_path / "train.pt").write_bytes(torch_bytes(value))
    content = isolated.read(tmp_path / "train.pt")
    assert content.tables["model"].keys() == TENSORS.keys()
    assert content.about == {"args/model": "DiT-XL/2", "args/image_size": 256, "step": 5}


def test_a_class_that_stands_beside_the_weights_can_be_left_out(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(torch_bytes({"model": TENSORS, "callbacks": {Path: 1}}))
    with pytest.raises(ValueError, match=r"--ignore pathlib\S*Path"):
        isolated.read(tmp_path / "a.pt")
    found = isolated.read(tmp_path / "a.pt", [f"{Path.__module__}.{Path.__qualname__}"])
    assert list(found.tables) == ["model"]


def test_averaged_weights_come_first_and_wrappers_are_left_out():
    wrapped = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    tables = {"model": TENSORS, "opt": TENSORS, "ema": wrapped}
    (first, tensors), *rest = Content(tables).by_preference()
    assert first == "ema" and tensors.keys() == TENSORS.keys()
    assert [name for name, _ in rest] == ["model", "opt"]


OTHERS = {
    "page.pth": (b"<!DOCTYPE html><html>", "a page of HTML"),
    "s3.pth": (b"<?xml version='1.0'?><Error>", "a page of HTML or XML"),
    "error.pth": (b'{"error": "gated"}', "JSON text"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a.gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "a.onnx": (b"\x08\x07\x12\x07pytorch", "ONNX"),
    "a.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "a.tar.gz": (b"\x1f\x8b\x08", "an archive: unpack it"),
    "a.png": (b"\x89PNG\r\n", "a picture"),
    "a.npy": (b"\x93NUMPY\x01", "numpy.savez"),
    "model.ckpt-1.index": (b"\0" * 40 + bytes.fromhex("57fb808b247547db"), "TensorFlow"),
    "model.ckpt-1.data-00000-of-00001": (b"\0" * 40, "TensorFlow"),
    "empty.pth": (b"", "is empty: download it again"),
    "half.pth.crdownload": (b"PK\x03\x04", "unfinished download"),
    "half.pth": (b"PK\x03\x04 and no end", "cut short or damaged"),
    "half.safetensors": ((10**6).to_bytes(8, "little") + b'{"a":', "cut short: its header alone"),
    "noise.bin": (b"\x01\x02\x03\x04", "no file of weights that is known here"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str):
    data, message = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        kind_of(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_zip_of_something_else_says_what_is_in_it(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("weights/model.pth", b"")
    with pytest.raises(ValueError, match="zip of other files.*weights/model.pth.*unpack it"):
        kind_of(tmp_path / "a.zip")


@pytest.mark.slow
def test_a_bomb_ends_at_the_limit_of_memory(tmp_path: Path):
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, a=np.zeros(300 << 20, np.uint8))
    assert bomb.stat().st_size < 1 << 20
    words = [str(bomb), str(tmp_path / "out"), str(100 << 20), "60"]
    done = subprocess.run(
        [sys.executable, "-m", isolated.__name__, *words], capture_output=True, text=True
    )
    assert "more memory than a file of its size" in json.loads(done.stdout)["error"]


def test_numbers_that_repeat_are_refused(tmp_path: Path):
    (tmp_path / "a.pth").write_bytes(torch_bytes({"a": torch.zeros(1).expand(10**7)}))
    with pytest.raises(ValueError, match="'a' of shape.*has 4 bytes of numbers"):
        isolated.read(tmp_path / "a.pth")


@pytest.mark.slow
def test_mutations_of_names_shapes_and_kinds_are_refused(tmp_path: Path):
    """Of a real layout: each is refused, and by the name of a tensor or of a layer."""
    weights, generator = weights_of("mdm_two_level"), random.Random(0)
    path = tmp_path / "mutated.safetensors"
    for _ in range(MUTATIONS // 8):
        changed = dict(weights)
        name = generator.choice(sorted(weights))
        tensor = changed.pop(name)
        kind = generator.choice(["missing", "renamed", "longer", "flat", "integer", "nan"])
        if kind == "renamed":
            changed[f"{name}x"] = tensor
        elif kind == "longer":
            changed[name] = torch.cat([tensor, tensor])
        elif kind == "flat":
            changed[name] = tensor.reshape(1, -1)
        elif kind == "integer":
            changed[name] = tensor.to(torch.int32)
        elif kind == "nan":
            changed[name] = torch.full_like(tensor, torch.nan)
        save_file(changed, path)
        with pytest.raises(ValueError) as caught:
            convert(path, OPTIONS["mdm_two_level"])
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), (kind, name)


@pytest.mark.slow
def test_the_process_that_reads_opens_no_connection_and_starts_no_process():
    tried = """
import socket, subprocess
from hierdiff.interop import isolated
isolated.confine(1 << 30, 60)
for call, argument in ((socket.create_connection, ("127.0.0.1", 9)), (subprocess.run, ["true"])):
    try:
        call(argument)
    except PermissionError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 2 and "while a file of weights is read" in done.stdout


def test_a_folder_of_parts_gives_names_by_part_and_their_configs(tmp_path: Path):
    for part, values in (("unet", {"sample_size": 8}), ("vae", {"latent_channels": 4})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(values))
        save_file({"a": torch.ones(2)}, tmp_path / part / "diffusion_pytorch_model.safetensors")
    content = read_content(tmp_path)
    assert content.tables[""].keys() == {"unet/a", "vae/a"}
    assert content.about["vae"] == {"latent_channels": 4}
    assert read_content(tmp_path / "unet").tables[""].keys() == {"a"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("m-00001-of-00002", "m-00001-of-00003", "m-00002-of-00002"), "several files of weights"),
        (("m", "m-00001-of-00001"), "several files of weights"),
        (("m-00001-of-00002",), "1 of the 2 files m-00001"),
        (("m-00001-of-00002", "m-00002-of-00002", "m.fp16-00001-of-00001"), ""),
        (("m.fp16-00001-of-00001", "m"), ""),
    ],
)
def test_shards_of_another_set_are_not_read_over_those_that_are_meant(tmp_path, names, message):
    for name in names:
        dtype = torch.float16 if "fp16" in name else torch.float32
        save_file({name[-14:-9]: torch.ones(2, dtype=dtype)}, tmp_path / f"{name}.safetensors")
    if message:
        with pytest.raises(ValueError, match=message):
            read_content(tmp_path)
    else:
        found = read_content(tmp_path).tables[""]
        assert len(found) == len(names) - 1
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_raw_weights_in_place_of_averaged_ones_are_said(caplog):
    name = next(iter(OPTIONS))
    content = Content({"model": weights_of(name), "ema": {"shadow": torch.ones(2)}})
    *_, place = chosen(content, dict(OPTIONS[name]), None, Path("a.pt"))
    assert place == "model" and "averaged weights, 'ema', are of no layout" in caplog.text
