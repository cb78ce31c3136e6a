"""Features of images kept on the disk by content, so that the same images cost no second pass.

An entry holds what an extractor gives for one batch of the protocol (`reference.BATCH`). Its key is
the pixels and the extractor: network, weights, resize, and the source of a class that is not ours.
A damaged entry is computed again; a cache that cannot be written to is none, with a warning.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from hierdiff.files.arrays import arrays_sha256, read_npz, write_npz
from hierdiff.files.reading import Damaged
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.identity import PROTOCOL
from hierdiff.metrics.reference import batches_seen

log = logging.getLogger(__name__)


class CachedFeatures:
    """Outputs of extractors for images, read from `folder` where they are there.

    computed, read: numbers of images whose features were.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.computed = self.read = 0
        self._writes = True

    def batches(
        self,
        extractor: Extractor,
        images: UInt8[Tensor, "b c *sides"],
        wanted: Collection[str] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """As `hierdiff.metrics.reference.feature_batches`, on the CPU."""
        for chunk, outputs in batches_seen(extractor, images, wanted):
            path = self._path(extractor, chunk, outputs)
            parts = self._kept(path, {name: extractor.widths[name] for name in outputs}, len(chunk))
            if parts is None:
                found = extractor.extract(chunk, outputs)
                parts = {name: found[name].cpu() for name in outputs}
                self._keep(path, parts)
                self.computed += len(chunk)
            else:
                self.read += len(chunk)
            yield parts

    def _path(self, extractor: Extractor, images: Tensor, outputs: list[str]) -> Path:
        """Of an entry: two levels of folders, none of which gets too many files."""
        digest = hashlib.sha256()
        companions = [extractor.companions[name].key for name in sorted(extractor.companions)]
        device = next(extractor.parameters()).device.type
        about = (extractor.key, companions, outputs, device, torch.__version__, PROTOCOL)
        digest.update(repr(images.shape).encode())
        digest.update(repr(about).encode())
        digest.update(np.ascontiguousarray(images.cpu().numpy()).data)
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.npz"

    def _kept(self, path: Path, widths: dict[str, int], n: int) -> dict[str, Tensor] | None:
        """The features of an entry; None where there is none, or it is damaged."""
        try:
            arrays = read_npz(path)
        except FileNotFoundError:
            return None
        except Damaged as error:
            fault = str(error)
        else:
            digest, key = (str(arrays.pop(name, "")) for name in ("sha256", "key"))
            shapes = {name: array.shape for name, array in arrays.items()}
            fits = shapes == {name: (n, width) for name, width in widths.items()}
            if fits and (digest, key) == (arrays_sha256(arrays), _key(path)):
                return {name: torch.from_numpy(array) for name, array in arrays.items()}
            fault = f"{path} is not as it was written"
        log.warning("features are computed again: %s", fault)
        return None

    def _keep(self, path: Path, parts: dict[str, Tensor]) -> None:
        if not self._writes:
            return
        arrays = {name: part.numpy() for name, part in parts.items()}
        try:
            about = {"sha256": arrays_sha256(arrays), "key": _key(path)}
            write_npz(path, arrays | {name: np.asarray(text) for name, text in about.items()})
        except OSError as error:
            self._writes = False
            log.warning("features are not kept: %s", error)


def _key(path: Path) -> str:
    """Of an entry, as it stands in the file too: one that was moved is none."""
    return path.parent.name + path.stem
