"""Reads a published file or folder without running anything in it.

safetensors hold numbers alone and are read here; pickles and npz are read by `isolated`, in a
bounded process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hierdiff.files.reading import from_json
from hierdiff.interop import isolated
from hierdiff.interop.content import Content
from hierdiff.interop.formats import AGAIN, SAFETENSORS, kind_of

SPARE = 1 << 30  # bytes of memory beside several times those of the file
SPEED = 5_000_000  # bytes that are read in a second at the least
PATIENCE = 120  # seconds in any case


def read_content(path: str | Path, ignore: Sequence[str] = ()) -> Content:
    """The content of a file, or of a folder of parts as diffusers writes it.

    ignore: names of classes that a pickle has beside its weights, `package.module.Class`, and that
    are left out; nothing of that name is imported.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for a file of another kind, one that is damaged, or one that names code.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, ignore)
    if kind_of(path) == SAFETENSORS:
        return _safetensors(path)
    return _isolated(path, ignore)


def _safetensors(path: Path) -> Content:
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): {AGAIN}") from error
    return Content({"": tensors}, about)


def _isolated(path: Path, ignore: Sequence[str]) -> Content:
    size = path.stat().st_size
    memory, seconds = SPARE + 5 * size, PATIENCE + size // SPEED
    with tempfile.TemporaryDirectory(prefix="hierdiff-") as folder:
        out = Path(folder) / "content.safetensors"
        words = [str(path.resolve()), str(out), str(memory), str(seconds), *ignore]
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", isolated.__name__, *words],
                env=_environment(),
                cwd=folder,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{path} was not read within {seconds} s, which is long for {size} bytes: {AGAIN}"
            ) from None
        if not out.exists():
            raise ValueError(_failure(path, done, memory))
        with safe_open(out, "pt") as file:
            described = json.loads(file.metadata()[isolated.KEY])
            return Content(
                {
                    table: {name: file.get_tensor(number) for name, number in places.items()}
                    for table, places in described["tables"].items()
                },
                described["about"],
            )


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    packages = os.pathsep.join(entry for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}


def _failure(path: Path, done: subprocess.CompletedProcess[bytes], memory: int) -> str:
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith('{"error"'):
            return str(from_json(line)["error"])
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
    return (
        f"{path} could not be read within {memory >> 20} MiB (exit {done.returncode}, {last}): it "
        f"is damaged or no file of weights, {AGAIN}"
    )


def _folder(folder: Path, ignore: Sequence[str]) -> Content:
    """Parts of a folder: names are PART/NAME, and `about` has the config of each part.

    A folder that is one part itself has plain names and the config alone.

    Raises:
        ValueError: where there are no weights.
    """
    own = _part(folder, ignore)
    if own is not None:
        return own
    names: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for place in sorted(one for one in folder.iterdir() if one.is_dir()):
        about[place.name] = _config(place)
        part = _part(place, ignore)
        if part is not None:
            names |= {f"{place.name}/{name}": tensor for name, tensor in part.tables[""].items()}
    if not names:
        raise ValueError(f"{folder} has no weights in it or one folder below: give their file")
    return Content({"": names}, about)


PARTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.ckpt")
SHARD = re.compile(r"-\d+(?=-of-(\d+))")  # of weights in several files: which of how many
HALF = re.compile(r"\.fp16[.-]")  # of a copy in half precision


def _part(folder: Path, ignore: Sequence[str]) -> Content | None:
    """Weights beside a config; safetensors before pickles, all shards of one set together.

    Raises:
        ValueError: where several files, or sets of shards, claim to be the weights, or a shard is
            absent.
    """
    for pattern in PARTS:
        sets: dict[str, list[Path]] = {}
        for file in sorted(folder.glob(pattern)):
            sets.setdefault(SHARD.sub("", file.name), []).append(file)
        names = [name for name in sets if not HALF.search(name)] or list(sets)
        if len(names) > 1:
            raise ValueError(
                f"{folder} has several files of weights "
                f"({', '.join(sets[name][0].name for name in names)}): leave those that are meant "
                f"there alone"
            )
        if names:
            chosen = sets[names[0]]
            said = SHARD.search(chosen[0].name)
            if said is not None and len(chosen) != int(said[1]):
                raise ValueError(
                    f"{folder} has {len(chosen)} of the {int(said[1])} files {chosen[0].name} and "
                    f"following: fetch the others"
                )
            tensors: dict[str, Tensor] = {}
            for file in chosen:
                tensors |= read_content(file, ignore).tables.get("", {})
            return Content({"": tensors}, _config(folder))
    return None


def _config(folder: Path) -> dict[str, Any]:
    for name in ("config.json", "scheduler_config.json"):
        if (folder / name).is_file():
            found = from_json((folder / name).read_bytes())
            return found if isinstance(found, dict) else {}
    return {}
