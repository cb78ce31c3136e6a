"""Images that a Python function yields: `package.module:function`, with arguments.

    def images(n=1000, seed=0):
        for start in range(0, n, 50):
            yield to_uint8(model.sample(50, seed + start))

What it yields is uint8: a tensor (n c h w or c h w), an array (n h w c or h w c, as in an `.npz`),
or `{"images": one of these, "labels": [...], "captions": [...]}`. It is called once; the pixels are
kept on the disk until the command ends.
"""

from __future__ import annotations

import importlib
import inspect
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from typing_extensions import override

from benchmarks.measure.external.base import External, Label, text_of_shape
from hierdiff.data.cache import cache_folder
from hierdiff.inputs import source_of
from hierdiff.options import suggest
from hierdiff.trust import check_trust

KEYS = ("images", "labels", "captions")


class Function(External):
    """What a function has yielded, in order.

    Raises:
        ValueError: for what are no images, or images of another size than the first.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], parts: Iterable[Any]):
        self.name, self.arguments = name, dict(arguments)
        # without a name, so that no kill leaves it behind
        self._file: BinaryIO = tempfile.TemporaryFile(dir=_folder())  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._n, labels, captions = 0, list[Label | None](), list[str]()
        for number, part in enumerate(parts):
            where = f"{name}, what it yields {number + 1}."
            pixels, own_labels, own_captions = _pieces(part, where)
            if self._n and pixels.shape[1:] != self.shape:
                raise ValueError(
                    f"{where}: images are {text_of_shape(pixels.shape[1:])}, before they were "
                    f"{text_of_shape(self.shape)}: yield images of one size"
                )
            height, width, channels = pixels.shape[1:]
            self.shape = height, width, channels
            self._n += len(pixels)
            labels += own_labels or [None] * len(pixels)
            captions += own_captions or [""] * len(pixels)
            self._file.write(np.ascontiguousarray(pixels).data)
        if not self._n:
            raise ValueError(f"{name} yields no image: give it arguments with which it does")
        self._file.flush()
        self.labels = labels if any(one is not None for one in labels) else ()
        self.captions = captions if any(captions) else ()

    @property
    @override
    def origin(self) -> Mapping[str, Any]:
        source = source_of(self.name.partition(":")[0])
        return {"function": self.name, "arguments": self.arguments, "source": source}

    @override
    def __len__(self) -> int:
        return self._n

    @override
    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n h w c"]:
        row = int(np.prod(self.shape))
        self._file.seek(start * row)
        content = self._file.read((stop - start) * row)
        return np.frombuffer(content, np.uint8).reshape(stop - start, *self.shape)


def function_of(images: Any) -> Mapping[str, Any] | None:
    """The node of a function that the option `images` names; None for a path."""
    node = images if isinstance(images, Mapping) else {"name": images}
    name = node.get("name")
    if not isinstance(name, str) or name.count(":") != 1 or Path(name).exists():
        return None
    module, _, attribute = name.partition(":")
    names = (*module.split("."), attribute)
    return node if all(part.isidentifier() for part in names) else None


def drawn(node: Mapping[str, Any], trust: Collection[str]) -> Function:
    """All images that a function yields; it is imported and called here.

    Raises:
        PermissionError: where its code is not trusted, before it is imported.
        ValueError: where there is no such function, or it has no such argument, or it fails.
    """
    name = node["name"]
    arguments = {key: value for key, value in node.items() if key != "name"}
    check_trust({"name": name}, trust, f"images={name}")
    entry = _imported(name)
    try:
        inspect.signature(entry).bind(**arguments)
    except TypeError as error:
        known = list(inspect.signature(entry).parameters)
        near = next((suggest(one, known) for one in arguments if one not in known), "")
        raise ValueError(
            f"images={name}: {error}{near}; its arguments: {', '.join(known) or 'none'}"
        ) from error
    try:
        parts = iter(entry(**arguments))
    except TypeError as error:
        raise ValueError(f"images={name} gives no series of images: {error}") from error
    return Function(name, arguments, parts)


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"images={name} cannot be imported ({error}): write package.module:function and run "
            f"where the package can be imported"
        ) from error
    if not callable(entry):
        raise ValueError(f"images={name} is a {type(entry).__name__}: name a function")
    return entry


def _pieces(part: Any, where: str) -> tuple[np.ndarray, list[Label | None], list[str]]:
    """Pixels (n h w c), labels and captions of one yield, [] where it has none.

    Raises:
        ValueError: for what has another form.
    """
    fields = part if isinstance(part, Mapping) else {"images": part}
    if "images" not in fields or not set(fields) <= set(KEYS):
        raise ValueError(f"{where}: it has {', '.join(map(str, fields))}, of {', '.join(KEYS)}")
    pixels = _pixels(fields["images"], where)
    labels = _each(fields.get("labels"), len(pixels), (str, int), f"{where}: labels")
    captions = _each(fields.get("captions"), len(pixels), (str,), f"{where}: captions")
    return pixels, labels, captions


def _pixels(images: Any, where: str) -> UInt8[np.ndarray, "n h w c"]:
    if isinstance(images, torch.Tensor):
        array = images.detach().cpu().numpy()
        form, ranks = "(n c h w)", {3: "c h w -> 1 h w c", 4: "n c h w -> n h w c"}
    else:
        array = np.asarray(images)
        form, ranks = "(n h w c)", {3: "h w c -> 1 h w c", 4: "n h w c -> n h w c"}
    if array.dtype == np.uint8 and array.ndim in ranks:
        array = rearrange(array, ranks[array.ndim])
        if array.shape[3] in (1, 3) and all(array.shape[1:]):
            return array
    kind = "tensor" if isinstance(images, torch.Tensor) else "array"
    raise ValueError(
        f"{where}: a {kind} {array.dtype} {array.shape}, where uint8 images {form} of 3 or 1 "
        f"channels are needed: hierdiff.images.to_uint8 makes them of tensors in [-1, 1]"
    )


def _each(values: Any, n: int, kinds: tuple[type, ...], what: str) -> list[Any]:
    if values is None:
        return []
    plain: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(plain) != n or not all(isinstance(one, kinds) for one in plain):
        words = " or ".join({str: "text", int: "whole numbers"}[kind] for kind in kinds)
        raise ValueError(f"{what}: {len(plain)} of {n} images: yield {words}, one an image")
    return plain


def _folder() -> Path:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
