"""Reads a file of `torch.save` or NumPy in a process of its own, with `main`'s arguments.

No code in the file is run: `torch.load(weights_only=True)` builds tensors and plain containers, and
refuses every class or function that a pickle names. The names in `BOOKKEEPING` are those that
released files have beside their weights; each becomes an inert record of its fields, and nothing of
that name is imported. The process has limits of memory, time and file size, opens no connection and
starts no other process. What it has read is a safetensors file, or one line of JSON with the error.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hierdiff.interop.content import Content, content_of
from hierdiff.interop.formats import NUMPY, kind_of

KEY = "content"  # of the metadata
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of Linux's unshare

BOOKKEEPING = (
    "argparse.Namespace",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
_REFUSED = (  # events of Python's that begin with one of these
    *("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"),
    *("os.startfile", "pty.spawn", "webbrowser.", "urllib.", "ftplib."),
)


class Refused(ValueError):
    """A file names code."""


class Inert:
    """What a pickle has as an object: its fields where it has some, and no behaviour."""

    def __init__(self, *values: Any, **fields: Any):
        self.__dict__.update(fields)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update({str(key): value for key, value in state.items()})


def read(path: Path, inert: Iterable[str] = ()) -> Content:
    """The tables and plain values of a file of `torch.save` or an npz.

    inert: further names of classes that become inert records.

    Raises:
        Refused: where it names code, with the name.
        ValueError: where it cannot be read so, with the reason.
    """
    load = _arrays if kind_of(path) == NUMPY else _unpickled
    try:
        value = load(path, [*BOOKKEEPING, *inert])
    except Refused:
        raise
    except MemoryError:
        raise ValueError(f"{path} wants more memory than a file of its size may take") from None
    except Exception as error:  # of damage torch and NumPy say all sorts of things
        said = (str(error).splitlines() or [""])[0][:300]
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {said}): download it again"
        ) from None
    content = content_of(plain(value))
    for table, tensors in content.tables.items():
        for name, tensor in tensors.items():
            tensors[name] = _dense(tensor, f"{table}/{name}" if table else name, path)
    return content


def _unpickled(path: Path, inert: Iterable[str]) -> Any:
    records = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in inert]
    try:
        with torch.serialization.safe_globals(records):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(
            r"(?:Trying to (?:load|call reduce for|instantiate)|unsupported|class) ([\w.]+\.\w+)",
            str(error),
        )
        if name is None:
            raise
        raise Refused(
            f"{path} names {name[1]!r}, which is no tensor and is not run: if it only stands "
            f"beside the weights, leave it out with --ignore {name[1]}; else take the release as "
            f"safetensors"
        ) from None


def _arrays(path: Path, inert: Iterable[str]) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}


def plain(value: Any, depth: int = 0) -> Any:
    """The value with the fields of inert records in place of them."""
    if depth > 12:
        return None
    if isinstance(value, Inert):
        return plain({f"{k}": v for k, v in vars(value).items()}, depth + 1)
    if isinstance(value, Mapping):
        return {key: plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, depth + 1) for one in value]
    return value


def _dense(tensor: Tensor, name: str, path: Path) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"{path}: {name!r} is sparse, quantised or without numbers: not read")
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise ValueError(
            f"{path}: {name!r} of shape {tuple(tensor.shape)} has {held} bytes of numbers: the "
            f"file is damaged"
        )
    return tensor.detach().contiguous()


def write(content: Content, out: Path) -> None:
    """Writes a content as safetensors, in which every tensor has a number."""
    numbers: dict[str, Tensor] = {}
    places: dict[str, dict[str, str]] = {}
    for table, tensors in content.tables.items():
        for name, tensor in tensors.items():
            number = str(len(numbers))
            numbers[number] = tensor.clone()
            places.setdefault(table, {})[name] = number
    save_file(numbers, out, {KEY: json.dumps({"tables": places, "about": content.about})})


def confine(memory: int, seconds: int) -> None:
    """Limits this process, which has imported all that it needs.

    memory: bytes beyond those it has now, also of the file it writes.
    """
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: memory,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_REFUSED):
        raise PermissionError(f"{event} while a file of weights is read")


def leave_network() -> None:
    """Gives up every network where the system lets a process do so without rights."""
    try:
        ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NETWORK)
    except (OSError, AttributeError):
        return


def main(path: Path, out: Path, memory: int, seconds: int, inert: list[str]) -> None:
    """Reads `path` and writes `out`; prints the error as JSON if there is one."""
    confine(memory, seconds)
    try:
        write(read(path, inert), out)
    except MemoryError:
        error = f"{path} wants more memory than a file of its size may take"
    except (ValueError, OSError, TypeError, RuntimeError, zipfile.BadZipFile) as raised:
        error = str(raised)
    else:
        return
    print(json.dumps({"error": error}))


if __name__ == "__main__":
    leave_network()
    os.umask(0o077)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
