"""Kinds of files by their first bytes, so that a wrong one is named and not merely refused."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

from hierdiff.files.reading import check_regular

SAFETENSORS, TORCH, NUMPY = "safetensors", "torch", "npz"  # what can be read
HEAD = 1024  # bytes that are looked at
AGAIN = "download it again"
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the end of an index of TensorFlow's

_UNFINISHED = (".part", ".partial", ".crdownload", ".incomplete", ".aria2", ".download")


class Other(NamedTuple):
    """A kind that is not read. starts: a pattern of its first bytes."""

    starts: bytes
    name: str
    way_out: str


_OTHERS = (
    Other(
        rb"version https://git-lfs",
        "a git-lfs pointer, not the file that it stands for",
        "run `git lfs pull`, or download the file from the project's page",
    ),
    Other(rb"\s*<(!doctype|html|\?xml|head|body)", "a page of HTML or XML", AGAIN),
    Other(
        rb"\s*[{\[]", "JSON text, such as an error message of a server or an index of parts", AGAIN
    ),
    Other(
        rb"GGUF|gg(ml|mf|jt|la)|(lmgg|fmgg|tjgg|algg)",
        "GGUF or GGML, whose numbers are quantised",
        "take the release as safetensors or .pt",
    ),
    Other(
        rb"\x08[\x01-\x20](\x12|\x1a|\x22|\x2a|\x3a|\x42)",
        "ONNX, a graph without the names of the layers",
        "take the release as safetensors or .pt",
    ),
    Other(
        rb"\x89HDF", "HDF5, as of Keras", "save its arrays by name with numpy.savez, and read that"
    ),
    Other(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "an archive", "unpack it"),
    Other(
        rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF",
        "a picture",
        "give the file of the weights",
    ),
    Other(rb"%PDF", "a PDF", "give the file of the weights"),
    Other(
        rb"\x93NUMPY",
        "one NumPy array without a name",
        "save the arrays by name with numpy.savez, and read that",
    ),
)


def kind_of(path: Path) -> str:
    """`SAFETENSORS`, `TORCH` or `NUMPY`.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file of another kind, which is named, or one that is not whole.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}: give the one that was published")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the file of the weights inside it")
    check_regular(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - len(TABLE_MAGIC)))
        tail = file.read()
    if not size:
        raise ValueError(f"{path} is empty: {AGAIN}")
    if path.suffix in _UNFINISHED:
        raise ValueError(f"{path} is an unfinished download: let it end, or {AGAIN}")
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if tail == TABLE_MAGIC or re.search(r"\.(index|data-\d+-of-\d+|meta)$", path.name):
        raise ValueError(
            f"{path} is of a TensorFlow checkpoint: where TensorFlow is installed, save its "
            f"arrays with numpy.savez (see hierdiff.interop.rin), and read that"
        )
    if _is_safetensors(path, head, size):
        return SAFETENSORS
    for other in _OTHERS:
        if re.match(other.starts, head, re.IGNORECASE):
            raise ValueError(f"{path} is {other.name}: {other.way_out}")
    if re.match(rb"\x80[\x02-\x05]", head) or head[257:262] == b"ustar":
        return TORCH
    shown = head[:16].hex(" ")
    raise ValueError(
        f"{path} is no file of weights that is known here (it begins with {shown}): give "
        f"safetensors, what torch.save wrote (.pt, .pth, .ckpt, .bin), or an .npz"
    )


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"{path} is cut short or damaged (a zip without its end: {error}): {AGAIN}"
        ) from error
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    if names and all(name.endswith(".npy") for name in names):
        return NUMPY
    if any(name.endswith("constants.pkl") or name.endswith("version") for name in names):
        raise ValueError(f"{path} is a TorchScript program without weights: give the weights")
    listed = ", ".join(names[:3]) or "nothing"
    raise ValueError(f"{path} is a zip of other files ({listed}): unpack it, give the weights")


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Whether it begins as one does: the length of its header, then the header's JSON.

    Raises:
        ValueError: where the file is shorter than its header says.
    """
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    if length > size - 8:
        if path.suffix == ".safetensors" or length < 1 << 32:
            raise ValueError(
                f"{path} is cut short: its header alone has {length} bytes, the file {size}: "
                f"{AGAIN}"
            )
        return False
    return True
