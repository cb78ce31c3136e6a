"""Images in files of their own: in a folder, a zip or shards of webdataset."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from typing_extensions import override

from benchmarks.measure.external.base import External, text_of_shape
from benchmarks.measure.external.sidecars import beside
from hierdiff.data.captions import Label
from hierdiff.data.classes import in_natural_order
from hierdiff.data.folder import Tree
from hierdiff.data.pixels import SUFFIXES, read_whole
from hierdiff.data.sources import Source, content
from hierdiff.data.webdataset import examples_in
from hierdiff.files.reading import with_escapes

log = logging.getLogger(__name__)

THREADS = 8  # that decode files
NAMED = 5  # skipped files that a warning names


class Files(External):
    """Images in files of their own.

    sources: where each is, by its name. captions, labels: of those that have one. skipped: names of
    files beside them that say nothing of an image.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for one that cannot be read, or of another size than the first, when it is read.
    """

    def __init__(
        self,
        place: Path,
        sources: Mapping[str, Source],
        captions: Mapping[str, str],
        labels: Mapping[str, Label],
        skipped: Sequence[str] = (),
    ):
        if not sources:
            kinds = ", ".join(sorted(SUFFIXES))
            raise FileNotFoundError(f"{place} holds no image: give one that does ({kinds})")
        self.place, self.sources, self.skipped = place, sources, tuple(skipped)
        self.names = in_natural_order(sources)
        if labels:
            self.labels = [labels.get(name) for name in self.names]
        if any(captions.values()):
            self.captions = [captions.get(name, "") for name in self.names]
        height, width, channels = self._decode(self.names[0]).shape
        self.shape = height, width, channels
        if skipped:
            more = ", ..." if len(skipped) > NAMED else ""
            named = ", ".join(map(with_escapes, skipped[:NAMED]))
            count = len(skipped)
            log.warning("%s: %d files skipped, no images: %s%s", place, count, named, more)

    @override
    def __len__(self) -> int:
        return len(self.names)

    @override
    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n h w c"]:
        names = self.names[start:stop]
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(self._decode, names))
        for name, image in zip(names, images, strict=True):
            if image.shape != self.shape:
                own, first = text_of_shape(image.shape), text_of_shape(self.shape)
                raise ValueError(
                    f"{self.place}: {with_escapes(name)} is {own}, {with_escapes(self.names[0])} "
                    f"is {first}: give images of one size, all in colour or all grey"
                )
        return np.stack(images)

    def _decode(self, name: str) -> UInt8[np.ndarray, "h w c"]:
        try:
            return rearrange(read_whole(io.BytesIO(content(self.sources[name]))), "c h w -> h w c")
        except Exception as error:  # decoders raise many kinds
            raise ValueError(
                f"{self.place}: {with_escapes(name)} cannot be read ({error}): replace it, or "
                f"remove it and give one image less"
            ) from error


def classes_of_folders(names: Sequence[str]) -> dict[str, str]:
    """The first folder on each path in which they differ; {} where some image is in none."""
    inside = {name: name.split("/")[:-1] for name in names}
    while inside and all(inside.values()):
        tops = {name: folders[0] for name, folders in inside.items()}
        if len(set(tops.values())) > 1:
            return tops
        inside = {name: folders[1:] for name, folders in inside.items()}
    return {}


def files_of_tree(tree: Tree) -> Files:
    """Images anywhere below a folder or in a zip; links are followed, hidden names left out.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for an image that cannot be listed, and as `beside`.
    """
    if tree.odd:
        raise ValueError(f"{tree.odd[0]}: put it in order, for all images have to be measured")
    others = tree.others()
    found = beside(tree, others)
    skipped = sorted({*others} - found.files)
    classes = classes_of_folders(list(tree.images))
    return Files(tree.root, tree.images, found.captions, {**classes, **found.labels}, skipped)


def files_of_shards(place: Path, shards: Sequence[Path]) -> Files:
    """Images in webdataset's shards, with the captions and classes beside them.

    Raises:
        FileNotFoundError: where there is no image.
        ValueError: as `hierdiff.data.webdataset.examples_in`.
    """
    examples = {
        f"{shard.name}/{example.image.name}": example
        for shard in shards
        for example in examples_in(shard)
    }
    return Files(
        place,
        {name: example.image for name, example in examples.items()},
        {name: example.caption for name, example in examples.items()},
        {name: example.label for name, example in examples.items() if example.label is not None},
    )
