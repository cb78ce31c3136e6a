"""Images that came from elsewhere: a folder, a zip, shards or an `.npz`, in one order and with one
hash.

Files are in natural order of their paths (2.png before 10.png), so that a folder, a zip of it,
`.tar` shards of neighbouring files and an `.npz` of the same images (`arr_0`: uint8, n h w c, as
ADM and EDM write it) are the same images.
`sha256` is of the decoded pixels: that of `np.load(FILE)["arr_0"].tobytes()`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from typing_extensions import override

from benchmarks.measure.samples import BATCH
from hierdiff.data.classes import in_natural_order
from hierdiff.data.folder import image_paths
from hierdiff.data.pixels import SUFFIXES, read_whole
from hierdiff.files.arrays import Rows, names_in
from hierdiff.files.reading import Damaged, check_regular, damage, with_escapes
from hierdiff.levels import Resolution, resolution_of

log = logging.getLogger(__name__)

ARRAY, LABELS = "arr_0", "arr_1"
THREADS = 8  # that decode files
LARGEST = 2**28  # bytes of a file in a zip
END = 512  # bytes of zeros at the end of a `.tar`, at least
NAMED = 5  # skipped files that a warning names


class External(ABC):
    """Images of one size, any of which can be read; a subclass writes `read`.

    shape: height, width, channels (3 or 1). classes: how many there are, None without classes.
    skipped: names of files that are no images.
    """

    shape: tuple[int, int, int]
    classes: int | None = None
    skipped: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n h w c"]:
        """Images number `start` to `stop` - 1."""

    @property
    def resolution(self) -> Resolution:
        """Of each image."""
        return resolution_of(self.shape[:2])

    def batches(
        self, start: int, stop: int, size: int = BATCH
    ) -> Iterator[UInt8[Tensor, "_b c h w"]]:
        """Images number `start` to `stop` - 1 in order."""
        for first in range(start, stop, size):
            images = self.read(first, min(first + size, stop))
            yield torch.from_numpy(rearrange(images, "b h w c -> b c h w").copy())

    def sha256(self) -> str:
        """SHA-256 of all pixels, image by image, row by row; reads and checks every image."""
        total = hashlib.sha256()
        for first in range(0, len(self), BATCH):
            images = self.read(first, min(first + BATCH, len(self)))
            total.update(np.ascontiguousarray(images).data)
        return total.hexdigest()


class Files(External):
    """Images in files of their own.

    opened: what opens each file, by its path below `place`.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for one that cannot be read, or of another size than the first, when it is read.
    """

    def __init__(
        self,
        place: Path,
        opened: Mapping[str, Callable[[], Path | io.BytesIO]],
        skipped: tuple[str, ...] = (),
    ):
        if not opened:
            kinds = ", ".join(sorted(SUFFIXES))
            raise FileNotFoundError(f"{place} holds no image: give one that does ({kinds})")
        self.place, self.opened, self.skipped = place, opened, skipped
        self.names = in_natural_order(opened)
        tops = {name.partition("/")[0] if "/" in name else None for name in opened}
        self.classes = None if None in tops else len(tops)
        height, width, channels = self._decode(self.names[0]).shape
        self.shape = height, width, channels
        if skipped:
            more = ", ..." if len(skipped) > NAMED else ""
            named = ", ".join(map(with_escapes, skipped[:NAMED]))
            log.warning("%s: %d files skipped, no images: %s%s", place, len(skipped), named, more)

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
                raise ValueError(
                    f"{self.place}: {with_escapes(name)} is {_text(image.shape)}, "
                    f"{with_escapes(self.names[0])} is {_text(self.shape)}: give images of one "
                    f"size, all in colour or all grey"
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


class Stack(External):
    """Images in one array: uint8, n h w c.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file without such an array, or labels of another number.
    """

    def __init__(self, path: Path):
        names = names_in(path)
        if ARRAY not in names:
            hint = " (measure.references={SIDE: FILE} is for moments)" if "mu" in names else ""
            raise ValueError(
                f"{path} holds {', '.join(names) or 'nothing'} and no {ARRAY}{hint}: give uint8 "
                f"images, n h w c, under {ARRAY}"
            )
        self.rows = Rows(path, ARRAY)
        shape, dtype = self.rows.shape, self.rows.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or not all(shape):
            raise ValueError(
                f"{path}: {ARRAY} is {dtype} {shape}, where uint8 images (n, h, w, 3) or "
                f"(n, h, w, 1) in 0..255 are needed: convert it"
            )
        self.shape = shape[1], shape[2], shape[3]
        if LABELS in names:
            labels = Rows(path, LABELS)
            if labels.shape[:1] != shape[:1]:
                raise ValueError(
                    f"{path}: {LABELS} holds {len(labels)} labels of {shape[0]} images: give one "
                    f"an image, or leave it out"
                )
            self.classes = len(np.unique(labels.read(0, len(labels)), axis=0))

    @override
    def __len__(self) -> int:
        return len(self.rows)

    @override
    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n h w c"]:
        return self.rows.read(start, stop)


def external_images(place: str | Path) -> External:
    """The images of a folder, which may be one of `.tar` shards, a `.zip`, a `.tar` or an `.npz`.

    Raises:
        FileNotFoundError: where there is nothing, or no image in it.
        ValueError: for anything else, and for a file that is damaged.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        shards = in_natural_order(one.name for one in path.glob("*.tar"))
        return _shards(path, [path / name for name in shards]) if shards else _folder(path)
    if not path.exists():
        raise FileNotFoundError(f"images={path} does not exist: give a folder, .npz, .zip or .tar")
    if path.suffix == ".npz":
        return Stack(path)
    if path.suffix == ".zip":
        return _zip(path)
    if path.suffix == ".tar":
        return _shards(path, [path])
    raise ValueError(f"images={path} is no folder, .npz, .zip or .tar: give one of these")


def _folder(top: Path) -> Files:
    paths, odd = image_paths(top)
    if odd:
        raise ValueError(f"{odd[0]}: put it in order, for all images have to be measured")
    others = sorted(
        name
        for path in top.rglob("*")
        if path.is_file()
        and (name := path.relative_to(top).as_posix()) not in paths
        and not _hidden(name)
    )

    def opened(path: Path) -> Callable[[], Path]:
        def regular() -> Path:
            check_regular(path)
            return path

        return regular

    return Files(top, {key: opened(path) for key, path in paths.items()}, tuple(others))


def _zip(path: Path) -> Files:
    with damage(path):
        check_regular(path)
        archive = zipfile.ZipFile(path)
    members = {
        one.filename: one
        for one in archive.infolist()
        if not one.is_dir() and not _hidden(one.filename)
    }
    images = {
        name: m for name, m in members.items() if PurePosixPath(name).suffix.lower() in SUFFIXES
    }

    def opened(member: zipfile.ZipInfo) -> Callable[[], io.BytesIO]:
        def content() -> io.BytesIO:
            if member.file_size > LARGEST:
                raise Damaged(f"it takes {member.file_size} bytes, more than {LARGEST}")
            return io.BytesIO(archive.read(member))

        return content

    others = tuple(sorted({*members} - {*images}))
    return Files(path, {name: opened(member) for name, member in images.items()}, others)


def _shards(place: Path, shards: Sequence[Path]) -> Files:
    """Images in webdataset's shards; the files beside an image (`.cls`, `.json`) are passed over.

    Raises:
        ValueError: `Damaged`, for a shard that is cut short.
    """

    def opened(shard: Path, start: int, size: int) -> Callable[[], io.BytesIO]:
        def content() -> io.BytesIO:
            with shard.open("rb") as file:
                file.seek(start)
                return io.BytesIO(file.read(size))

        return content

    images: dict[str, Callable[[], io.BytesIO]] = {}
    for shard in shards:
        with damage(shard):
            check_regular(shard)
            with tarfile.open(shard, "r:") as archive, shard.open("rb") as file:
                for one in archive:
                    suffix = PurePosixPath(one.name).suffix.lower()
                    if one.isreg() and suffix in SUFFIXES and not _hidden(one.name):
                        read = opened(shard, one.offset_data, min(one.size, LARGEST))
                        images[f"{shard.name}/{one.name}"] = read
                file.seek(archive.offset)
                if set(file.read(END)) != {0}:
                    raise ValueError("it has no end, and was cut short")
    files = Files(place, images)
    files.classes = None  # shards are none
    return files


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _text(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height} x {width} px in {'colour' if channels == 3 else 'grey'}"
