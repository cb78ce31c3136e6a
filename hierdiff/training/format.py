"""How tensors lie in a file of ours: safetensors, with facts as JSON in the metadata.

No pickle is read or written. The facts have the SHA-256 of the tensors too: values that a disk
damaged are noticed, which safetensors does not do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hierdiff.config import check_depth
from hierdiff.files.atomic import write_pieces

SCHEMA = 1
KEY = "hierdiff"  # of the metadata
DIGEST = "sha256"  # of the tensors, among the facts


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], **more: Any
) -> None:
    """Writes weights with the config that they are rebuilt from; more: further facts, as JSON."""
    write_packed(path, tensors, {"kind": "weights", "config": config, **more})


def write_packed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes a file of tensors and facts, with schema, version and the SHA-256 of the tensors.

    One tensor after another goes to the disk, so that memory holds no second copy of them.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    own = {"schema": SCHEMA, "version": hierdiff_version(), DIGEST: sha256_of_tensors(flat)}
    ordered = sorted(flat.items(), key=lambda item: (-ORDER.index(item[1].dtype), item[0]))
    head = header_of(ordered, {KEY: json.dumps({**own, **facts})})
    pieces = (raw(tensor) for _, tensor in ordered)
    write_pieces(path, chain([head], pieces), len(head) + sum(t.nbytes for _, t in ordered))


ORDER = (  # of the safetensors format, which puts the widest last; its names
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16),
    *(torch.int32, torch.float32, torch.float64, torch.int64),
)
DTYPES = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")


def header_of(tensors: Sequence[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    """What stands before the values in a safetensors file: length, and places as JSON."""
    places: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors:
        start, end = end, end + tensor.nbytes
        dtype = DTYPES[ORDER.index(tensor.dtype)]
        places[name] = {
            "dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(places, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, in its own memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the values with their names, shapes and dtypes, whatever their order."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(raw(tensor))
    return total.hexdigest()


def unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file that hierdiff wrote; errors as in `opened`.

    Raises:
        ValueError: where the tensors do not match their SHA-256.
    """
    with opened(path) as (file, facts):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    digest = facts.pop(DIGEST, None)  # older files have none
    if digest is not None and digest != sha256_of_tensors(tensors):
        raise ValueError(
            f"{path} is damaged (its tensors do not match their sha256): copy it again, or use "
            f"another checkpoint of the run"
        )
    return tensors, facts


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Shapes and facts of a file that hierdiff wrote, without reading a tensor; errors as in
    `opened`."""
    with opened(path) as (file, facts):
        facts.pop(DIGEST, None)
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}, facts


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The file, whose tensors are not read yet, and its facts.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where hierdiff did not write it, or with another schema.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}: give a weights.safetensors of a run folder"
        )
    try:
        with safe_open(path, "pt") as file:
            yield file, _facts(path, file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut short or no safetensors file ({error}): copy it again, or use another "
            f"checkpoint of the run; pickles (.pt, .ckpt) are not read"
        ) from error


def _facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        facts = json.loads(metadata[KEY])
        schema = facts.pop("schema")
        facts.pop("version")
        check_depth(facts, path)
    except (KeyError, AttributeError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} was not written by hierdiff (its metadata has no readable {KEY!r} entry): "
            f"weights of other projects come in through hierdiff.interop"
        ) from error
    if schema != SCHEMA:
        raise ValueError(
            f"{path} has checkpoint schema {schema}, this hierdiff reads {SCHEMA}: "
            f"use the version that wrote it"
        )
    return facts


def as_json(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))


def hierdiff_version() -> str:
    """The version of the installed package, "unknown" where it is not installed."""
    try:
        return version("hierdiff")
    except PackageNotFoundError:
        return "unknown"
