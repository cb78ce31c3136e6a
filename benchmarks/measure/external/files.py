"""Images in files of their own: in a folder, a zip or shards of webdataset."""

from __future__ import annotations

import io
import logging
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from typing_extensions import override

from benchmarks.measure.external.base import External, text_of_shape
from benchmarks.measure.external.sidecars import Beside, beside
from hierdiff.data.classes import in_natural_order
from hierdiff.data.folder import image_paths
from hierdiff.data.pixels import SUFFIXES, read_whole
from hierdiff.files.reading import Damaged, check_regular, damage, with_escapes

log = logging.getLogger(__name__)

THREADS = 8  # that decode files
LARGEST = 2**28  # bytes of a file in a zip or a shard
END = 512  # bytes of zeros at the end of a `.tar`, at least
NAMED = 5  # skipped files that a warning names
Opener = Callable[[], Path | io.BytesIO]


class Files(External):
    """Images in files of their own.

    opened: what opens each file, by its path below `place`. sidecars: what stands beside them.
    others: names of further files. tops: whether a class is the first folder on the path, where it
    is not said otherwise and there are several.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for one that cannot be read, or of another size than the first, when it is read.
    """

    def __init__(
        self,
        place: Path,
        opened: Mapping[str, Opener],
        sidecars: Beside,
        others: Iterable[str] = (),
        tops: bool = True,
    ):
        if not opened:
            kinds = ", ".join(sorted(SUFFIXES))
            raise FileNotFoundError(f"{place} holds no image: give one that does ({kinds})")
        self.place, self.opened = place, opened
        self.names = in_natural_order(opened)
        labels = {**(classes_of_folders(self.names) if tops else {}), **sidecars.labels}
        if labels:
            self.labels = [labels.get(name) for name in self.names]
        if any(sidecars.captions.values()):
            self.captions = [sidecars.captions.get(name, "") for name in self.names]
        self.skipped = tuple(sorted({*others} - sidecars.files))
        height, width, channels = self._decode(self.names[0]).shape
        self.shape = height, width, channels
        if self.skipped:
            more = ", ..." if len(self.skipped) > NAMED else ""
            named = ", ".join(map(with_escapes, self.skipped[:NAMED]))
            count = len(self.skipped)
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
            return rearrange(read_whole(self.opened[name]()), "c h w -> h w c")
        except Exception as error:  # decoders raise many kinds
            raise ValueError(
                f"{self.place}: {with_escapes(name)} cannot be read ({error}): replace it, or "
                f"remove it and give one image less"
            ) from error


def classes_of_folders(names: Sequence[str]) -> dict[str, str]:
    """The first folder on each path in which they differ; {} where some image is in none."""
    inside = {name: name.split("/")[:-1] for name in names}
    while all(inside.values()):
        tops = {name: folders[0] for name, folders in inside.items()}
        if len(set(tops.values())) > 1:
            return tops
        inside = {name: folders[1:] for name, folders in inside.items()}
    return {}


def files_of_folder(top: Path) -> Files:
    """Images anywhere below a folder; links are followed, hidden names left out.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for an image that cannot be listed.
    """
    paths, odd = image_paths(top)
    if odd:
        raise ValueError(f"{odd[0]}: put it in order, for all images have to be measured")
    others = {
        name: path
        for path in top.rglob("*")
        if path.is_file()
        and (name := path.relative_to(top).as_posix()) not in paths
        and not _hidden(name)
    }

    def opened(path: Path) -> Callable[[], Path]:
        def regular() -> Path:
            check_regular(path)
            return path

        return regular

    def reader(path: Path) -> Callable[[], bytes]:
        return lambda: opened(path)().read_bytes()

    readers = {name: reader(path) for name, path in others.items()}
    images = {key: opened(path) for key, path in paths.items()}
    return Files(top, images, beside(top, list(paths), readers, without_suffix), others)


def files_of_zip(path: Path) -> Files:
    """Images anywhere in a zip, hidden names left out.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: `Damaged`, for what is no zip.
    """
    with damage(path):
        check_regular(path)
        archive = zipfile.ZipFile(path)

    def reader(member: zipfile.ZipInfo) -> Callable[[], bytes]:
        def content() -> bytes:
            if member.file_size > LARGEST:
                raise Damaged(f"it takes {member.file_size} bytes, more than {LARGEST}")
            return archive.read(member)

        return content

    readers = {
        one.filename: reader(one)
        for one in archive.infolist()
        if not one.is_dir() and not _hidden(one.filename)
    }
    images = {name: _in_memory(read) for name, read in readers.items() if _is_image(name)}
    others = {name: read for name, read in readers.items() if name not in images}
    return Files(path, images, beside(path, list(images), others, without_suffix), others)


def files_of_shards(place: Path, shards: Sequence[Path]) -> Files:
    """Images in webdataset's shards, with their captions (`.txt`) and classes (`.cls`); other files
    beside an image, as `.json`, are passed over.

    Raises:
        FileNotFoundError: where there is no image.
        ValueError: `Damaged`, for a shard that is cut short.
    """

    def reader(shard: Path, start: int, size: int) -> Callable[[], bytes]:
        def content() -> bytes:
            with shard.open("rb") as file:
                file.seek(start)
                return file.read(size)

        return content

    readers: dict[str, Callable[[], bytes]] = {}
    for shard in shards:
        with damage(shard):
            check_regular(shard)
            with tarfile.open(shard, "r:") as archive, shard.open("rb") as file:
                for one in archive:
                    if one.isreg() and not _hidden(one.name):
                        read = reader(shard, one.offset_data, min(one.size, LARGEST))
                        readers[f"{shard.name}/{one.name}"] = read
                file.seek(archive.offset)
                if set(file.read(END)) != {0}:
                    raise ValueError("it has no end, and was cut short")
    images = {name: _in_memory(read) for name, read in readers.items() if _is_image(name)}
    others = {name: read for name, read in readers.items() if name not in images}
    return Files(place, images, beside(place, list(images), others, key_of_shard), tops=False)


def without_suffix(name: str) -> str:
    """What the paths of an image and of a file of its own share in a folder: `a.b` of `a.b.png`."""
    return PurePosixPath(name).with_suffix("").as_posix()


def key_of_shard(name: str) -> str:
    """As webdataset has it: all up to the first dot of the file's name."""
    path = PurePosixPath(name)
    return (path.parent / path.name.partition(".")[0]).as_posix()


def _in_memory(read: Callable[[], bytes]) -> Opener:
    return lambda: io.BytesIO(read())


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
